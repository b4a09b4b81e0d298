"""Curricula as pure schedules: a function from progress in epochs to a `Stage`."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unspoken.core.config import config_class
from unspoken.errors import ConfigError

TRAINABLE_PART = "trainable_part"
"""The name in `Row.extra` of the part of the method that a row trains."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One point of a curriculum.

    Attributes:
        index: the method's own number of the stage (0 = all steps as text).
        removed: number of leading steps removed from the text; None = all of them.
        groups: thought groups per row; None = one per step of the row, at most the method's maximum.
        restart: reset the optimizer when this stage begins.
        trainable_part: the only part of the method that trains, by the method's own name for it; "" = all. Its rows carry
            it too.
        lr, weight_decay: override the run's; None = the run's.
        extra: further settings of the method's schedule, by name. Their equality decides whether two stages are the same.
    """

    index: int = 0
    removed: int | None = 0
    groups: int | None = 0
    restart: bool = False
    trainable_part: str = ""
    lr: float | None = None
    weight_decay: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@config_class
class StageSettings:
    """Length and learning rate of one stage of training.

    Attributes:
        epochs: 0 = skip the stage.
        lr, weight_decay: override train.lr and train.weight_decay; None = no override.
    """

    epochs: float = 1.0
    lr: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epochs) and self.epochs >= 0):
            raise ConfigError(f"epochs must be 0 or more, got {self.epochs}")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr must be positive, got {self.lr}")
        if self.weight_decay is not None and not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay must be 0 or more, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stage and how long it lasts, in epochs."""

    epochs: float
    stage: Stage


@dataclass(frozen=True)
class Curriculum:
    """Phases in order. The last one lasts to the end of training.

    Raises:
        ConfigError: no phases, or a phase of negative length.
    """

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError("a curriculum needs at least one phase")
        for phase in self.phases:
            if phase.epochs < 0:
                raise ConfigError(f"a curriculum phase lasts at least 0 epochs, got {phase.epochs}")

    def at(self, epoch: float) -> Stage:
        """The stage at a point of training.

        Args:
            epoch: epochs so far, fractions included.
        """
        # The tolerance keeps a boundary such as 3 * (1 / 3) on the side that exact arithmetic would give it.
        return self.phases[bisect.bisect_right(self._ends, epoch + 1e-9)].stage

    @property
    def last(self) -> Stage:
        """The last stage, which inference assumes."""
        return self.phases[-1].stage

    def boundaries(self) -> list[float]:
        """Epochs at which the stage changes."""
        return list(self._ends)

    @functools.cached_property
    def _ends(self) -> list[float]:
        return list(itertools.accumulate(phase.epochs for phase in self.phases[:-1]))

    def extremes(self) -> tuple[Stage, ...]:
        """The stages in which rows are longest: if their rows fit into the context, all do."""
        return tuple(phase.stage for phase in self.phases)

    def without_chance(self, stage: Stage) -> Stage:
        """The stage without randomness in its rows; the same stage for most schedules."""
        return stage

    def fit(self, steps_per_epoch: int, written: Callable[[], int]) -> Curriculum:
        """The schedule adapted to a run; most schedules need no adaption.

        Args:
            steps_per_epoch: optimizer steps.
            written: counts the tokens that the longest training row has in the first stage and has lost in the last one.
        """
        return self


def single(stage: Stage) -> Curriculum:
    """A curriculum of one stage."""
    return Curriculum((Phase(epochs=0, stage=stage),))


def stagewise(stages: Sequence[Stage], epochs_per_stage: float) -> Curriculum:
    """One phase per stage, all equally long; the last lasts to the end."""
    return Curriculum(tuple(Phase(epochs=epochs_per_stage, stage=stage) for stage in stages))
