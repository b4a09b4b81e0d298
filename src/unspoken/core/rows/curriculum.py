"""Curricula as pure schedules: progress in epochs -> Stage. A stage change is a value, not a hook."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unspoken.core.config import STRICT
from unspoken.errors import ConfigError

TRAINABLE_PART = "trainable_part"
"""The name in `Row.extra` under which a row says which part of the method learns from it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One point of a curriculum.

    Attributes:
        index: the method's own number of the stage (0 = all steps in words).
        removed: how many leading steps are gone from the text; None = all of them.
        groups: thought groups in every row; None = as many as the row has steps, at most the method's maximum.
        restart: the optimizer starts afresh when this stage begins.
        trainable_part: which part of the method learns, by the method's own name; "" = all of it. Its rows say so too.
        lr, weight_decay: instead of those of the run; None = those.
        extra: what the method's own schedule says besides, by name; values compare equal where the stage is the same.
    """

    index: int = 0
    removed: int | None = 0
    groups: int | None = 0
    restart: bool = False
    trainable_part: str = ""
    lr: float | None = None
    weight_decay: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Settings of a part of training that is not the whole of it: how long, and how fast.

    Attributes:
        epochs: 0 = leave it out.
        lr, weight_decay: instead of train.lr and train.weight_decay; None = those.
    """

    __pydantic_config__ = STRICT

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
    """Phases in order. The last one lasts to the end of training, however long that is.

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
            epoch: epochs finished so far, a fraction included.
        """
        # The tolerance keeps a boundary such as 3 * (1 / 3) on the side that exact arithmetic would give it.
        return self.phases[bisect.bisect_right(self._ends, epoch + 1e-9)].stage

    @property
    def last(self) -> Stage:
        """The stage that training ends in, and that inference assumes."""
        return self.phases[-1].stage

    def boundaries(self) -> list[float]:
        """Epochs at which the stage changes."""
        return list(self._ends)

    @functools.cached_property
    def _ends(self) -> list[float]:
        return list(itertools.accumulate(phase.epochs for phase in self.phases[:-1]))

    def extremes(self) -> tuple[Stage, ...]:
        """Stages among which every row is longest: what has to be laid out to know that all rows fit."""
        return tuple(phase.stage for phase in self.phases)

    def without_chance(self, stage: Stage) -> Stage:
        """The same stage with rows that are always the same; most schedules leave nothing to chance."""
        return stage

    def fit(self, steps_per_epoch: int, written: Callable[[], int]) -> Curriculum:
        """The same schedule for a run of which more is known; most schedules need not know more.

        Args:
            steps_per_epoch: optimizer steps.
            written: counts the tokens that the longest training row has in its first stage and loses by the last one.
        """
        return self


def single(stage: Stage) -> Curriculum:
    """A curriculum that never changes."""
    return Curriculum((Phase(epochs=0, stage=stage),))


def stagewise(stages: Sequence[Stage], epochs_per_stage: float) -> Curriculum:
    """Equal phases, one per stage; the last lasts to the end."""
    return Curriculum(tuple(Phase(epochs=epochs_per_stage, stage=stage) for stage in stages))
