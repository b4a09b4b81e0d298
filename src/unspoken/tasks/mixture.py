"""Several tasks in one run: their training rows by weight, their validation and test rows side by side.

    {"name": "mixture", "parts": {"gsm": {"task": "gsm8k_aug"}, "logic": {"task": {"name": "prosqa"}, "weight": 2}}}

A weight is how often a part's training rows come per epoch: 2 = each twice, 0.5 = half of them, a fixed choice; 0 = none,
the part is only validated and tested. So it is in nanochat's fine-tuning, where a task that is listed twice is seen twice.
The mixture is one list of rows, so that order, resuming and processes are those of any other task.

Rows are named PART/ID (PART/ID#2 when they come again), and each is scored by its own task. No question of a held-out split
of one part is trained on in another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field, replace
from itertools import zip_longest
from random import Random
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.tasks import make_task, task_config
from unspoken.tasks.base import SPLITS, Score, Split, Task
from unspoken.tasks.reading.source import Splits, SplitTask

_NAME = re.compile(r"[\w.-]+")


@config_class
class PartConfig:
    """A task of the mixture.

    Attributes:
        task: its name or config.
        weight: how often its training rows come per epoch.
    """

    task: Annotated[Any, BeforeValidator(task_config)]
    weight: float = 1.0


@config_class
class MixtureConfig:
    """What is mixed.

    Attributes:
        parts: a name for each, which its rows and figures bear.
        seed: of the choice of rows where a weight is not whole.
    """

    name: Literal["mixture"] = "mixture"
    parts: dict[str, PartConfig] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f"a part's name must be letters, digits, '_', '-' or '.', got {name!r}")
            if not 0 <= part.weight <= MOST:
                raise ConfigError(f"the weight of part {name!r} must be from 0 to {MOST}, got {part.weight}")
            if getattr(part.task, "stream", False):
                raise ConfigError(f"part {name!r} has stream=true, but a mixture is one list in memory; set stream=false")
            if part.task.name == self.name:
                raise ConfigError(f"part {name!r} is itself a mixture; name its parts here")


MOST = 1000
"""The largest weight: every row comes so often per epoch."""


class Mixture(SplitTask[MixtureConfig]):
    """Several tasks as one."""

    def __init__(self, config: MixtureConfig) -> None:
        self.parts: dict[str, Task] = {name: make_task(part.task) for name, part in config.parts.items()}
        has = {name: tuple(getattr(task, "there", SPLITS)) for name, task in self.parts.items()}
        for name, part in config.parts.items():
            if part.weight and "train" not in has[name]:
                raise ConfigError(
                    f"part {name!r} ({part.task.name}) has no training rows; weight=0 only validates and tests it"
                )
        self._of: dict[Split, list[str]] = {split: [name for name in has if split in has[name]] for split in SPLITS}
        self._of["train"] = [name for name in self._of["train"] if config.parts[name].weight]
        there: tuple[Split, ...] = tuple(split for split in SPLITS if self._of[split])
        super().__init__(Splits(config=config, read=self._read, there=there), self._score)

    def examples(self, split: Split) -> Sequence[Example]:
        """The rows of all parts in turn; of train as often as their weights say."""
        if not self.parts:
            example = '{"gsm": {"task": "gsm8k"}, "logic": {"task": "prosqa", "weight": 2}}'
            raise ConfigError(f"a mixture needs parts, e.g. task.parts='{example}'")
        return super().examples(split)

    @property
    def answers(self) -> str | None:
        """The kind of answers, if it is the same everywhere."""
        kinds = {getattr(task, "answers", None) for task in self.parts.values()}
        return kinds.pop() if len(kinds) == 1 else None

    def part_of(self, example: Example) -> str:
        """The name of the part that a row is of."""
        return example.id.partition("/")[0]

    def _score(self, example: Example, text: str) -> Score:
        return self.parts[self.part_of(example)].score(example, text)

    def _read(self, split: Split) -> list[Example]:
        """The parts' rows in turn, so that the first ones of a split are of all parts."""
        found = [self._rows(name, split) for name in self._of[split]]
        return [row for turn in zip_longest(*found) for row in turn if row is not None]

    def _rows(self, name: str, split: Split) -> list[Example]:
        rows = [
            replace(example, id=f"{name}/{example.id or f'{split}-{place}'}")
            for place, example in enumerate(self.parts[name].examples(split))
        ]
        return self._weighted(rows, name) if split == "train" else rows

    def _weighted(self, rows: list[Example], name: str) -> list[Example]:
        whole, rest = divmod(self.config.parts[name].weight, 1)
        some = Random(f"{self.config.seed}/{name}").sample(range(len(rows)), round(rest * len(rows)))
        times = [rows] * int(whole) + [[rows[place] for place in sorted(some)]]
        return [
            example if time == 1 else replace(example, id=f"{example.id}#{time}")
            for time, chosen in enumerate(times, start=1)
            for example in chosen
        ]
