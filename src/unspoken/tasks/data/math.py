"""MATH (Hendrycks et al. 2021): competition problems, answers in LaTeX.

Rows are those of PRM800K and MATH-500: `problem`, `solution`, `answer`, `subject`, `level` ("Level 3", or the number),
`unique_id`. Without `answer` it is read from the solution's last box. Files in `root` or UNSPOKEN_DATA/math, preferred
first:

    train       train.jsonl, train.part.jsonl      validation is carved out of it by a hash of the problem
    test        test.jsonl, test500.jsonl          or the hub's MATH-500

PRM800K trains on 12,000 of the 12,500 problems and tests on the other 500. The original 7,500 / 5,000, which lie a problem a
file in folders, are read by the task `files` with style=math.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, did_you_mean
from unspoken.tasks.base import Split
from unspoken.tasks.reading.segment import StepRule
from unspoken.tasks.reading.source import DataSetConfig, DataSource, SplitTask, carved
from unspoken.tasks.reading.styles import restyled
from unspoken.tasks.scoring.math_answers import score_math

SUBJECTS = (
    "Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra", "Precalculus",
)  # fmt: skip
LEVELS = (1, 2, 3, 4, 5)


@config_class
class MathConfig(DataSetConfig):
    """Which problems of MATH, and what their steps are.

    Attributes:
        root: a folder with files of the names above; None for UNSPOKEN_DATA/math or, for test, the hub.
        hub: a data set on the hub with the test rows, used when there is no folder; None to never ask the network.
        subjects: keep only problems of these `SUBJECTS`; empty for all.
        levels: keep only problems of these levels (1 to 5); empty for all.
        steps: how solutions are split: "sentences", "lines", or "latex" for the formulas with a relation in them.
        validation_fraction: the share of train to validate on. Ours.
    """

    name: Literal["math"] = "math"
    hub: str | None = "HuggingFaceH4/MATH-500"
    subjects: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    steps: StepRule = "sentences"
    validation_fraction: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for subject in self.subjects:
            if subject not in SUBJECTS:
                raise ConfigError(f"field 'subjects': no subject {subject!r}; {did_you_mean(subject, SUBJECTS)}")
        if odd := [level for level in self.levels if level not in LEVELS]:
            raise ConfigError(f"field 'levels' must be of 1 to 5, got {odd[0]}")


class Math(SplitTask[MathConfig]):
    """Competition problems with LaTeX answers (Hendrycks et al. 2021)."""

    answers: ClassVar[str] = "math"

    def __init__(self, config: MathConfig) -> None:
        files: Mapping[Split, tuple[str, ...]] = {
            "train": ("train.jsonl", "train.part.jsonl"),
            "test": ("test.jsonl", "test500.jsonl"),
        }
        self._source = DataSource.of(config, files)
        advice = "MATH has no validation split of its own; set validation_fraction=0.05"
        super().__init__(carved(config, self._read, advice), score_math)

    def _read(self, split: Split) -> list[Example]:
        config = self.config
        return [
            example
            for example in self._source.examples(split, _row, config.steps)
            if (not config.subjects or example.meta["subject"] in config.subjects)
            and (not config.levels or example.meta["level"] in config.levels)
        ]


def _row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    plain = restyled(row, where, "math")
    assert isinstance(plain, Mapping)
    level = re.fullmatch(r"(?:Level )?([1-5])", str(plain.get("level")))
    return {**plain, "level": int(level[1]) if level else None, "subject": plain.get("subject") or plain.get("type")}
