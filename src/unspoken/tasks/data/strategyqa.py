"""StrategyQA (Geva et al. 2021): yes-or-no questions whose steps are implicit in the question.

    original   train       train.json; validation is carved out of it by a hash of the question
               test        dev.json: the official test has no public labels
    bigbench   test        task.json: BIG-bench's form of all 2,290 questions, train and dev together

**task.json is for evaluation only** (it carries BIG-bench's canary) and holds the questions of both other files: who trained
on train.json knows nine tenths of it. It is never read by the original form.

Steps are the gold facts, or the decomposition into questions (which has no answers in it), or none. With `cot` the train
and validation rows are CODI's on the hub, with rationales by GPT-4o; their questions that stand in dev.json are dropped.
The answers are "yes" and "no" in every form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unspoken.core.config import STRICT
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import SPLITS, Split
from unspoken.tasks.reading.rationales import cot_source, read_cot
from unspoken.tasks.reading.readers import listed_rows
from unspoken.tasks.reading.rows import carve, check_ranges, text_field
from unspoken.tasks.reading.segment import StepRule
from unspoken.tasks.reading.source import DataSource, Splits, SplitTask, converted
from unspoken.tasks.scoring.rules import score_verdict


@dataclass(frozen=True, kw_only=True)
class StrategyQaConfig:
    """Which form of StrategyQA, and what its steps are.

    Attributes:
        root: a folder with train.json and dev.json (or task.json); None for UNSPOKEN_DATA/strategyqa.
        form: "original" or "bigbench", see the module's text.
        steps: "facts", "decomposition" or "none", for rows of the original form.
        cot: take train and validation from `cot_hub`, for its rationales.
        cot_hub: a data set on the hub with the columns question, cot, answer.
        cot_steps: how to split a rationale of `cot_hub`.
        validation_fraction: the share of train to validate on. Ours: 10 %, about 200 rows.
        limit_train, limit_validation, limit_test: use the first rows of a split only.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: Literal["strategyqa"] = "strategyqa"
    root: str | None = None
    form: Literal["original", "bigbench"] = "original"
    steps: Literal["facts", "decomposition", "none"] = "facts"
    cot: bool = False
    cot_hub: str | None = "zen-E/StrategyQA_CoT_GPT4o"
    cot_steps: StepRule = "sentences"
    validation_fraction: float = 0.1
    limit_train: int | None = None
    limit_validation: int | None = None
    limit_test: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "limit_train", "limit_validation", "limit_test")
        if self.cot and self.form == "bigbench":
            raise ConfigError("field 'cot' needs form=original: BIG-bench's form is for evaluation only")


class StrategyQa(SplitTask[StrategyQaConfig]):
    """Yes or no, by steps that the question does not name (Geva et al. 2021)."""

    name: ClassVar[str] = "strategyqa"
    Config: ClassVar[type[StrategyQaConfig]] = StrategyQaConfig

    def __init__(self, config: StrategyQaConfig) -> None:
        original: Mapping[Split, tuple[str, ...]] = {"train": ("train.json",), "test": ("dev.json",)}
        bigbench: Mapping[Split, tuple[str, ...]] = {"test": ("task.json",)}
        self._source = DataSource(
            task=self.name,
            files=bigbench if config.form == "bigbench" else original,
            root=config.root,
            instead="use another task: the gold facts are read from files only",
        )
        self._cot = cot_source(self.name, config.cot_hub, {"train": ("train",)})
        there: tuple[Split, ...] = SPLITS if config.validation_fraction else ("train", "test")
        absent: Mapping[Split, str] = {"validation": "the dev rows are test here; set validation_fraction=0.1"}
        if config.form == "bigbench":
            there, absent = ("test",), dict.fromkeys(SPLITS, "BIG-bench's form is for evaluation only; set form=original")
        splits = Splits(config=config, read=self._read, there=there, absent=absent, carved=True)
        super().__init__(splits, score_verdict)

    def _read(self, split: Split) -> list[Example]:
        if self.config.form == "bigbench":
            path = self._source.path("test")
            return converted(listed_rows(path), _bigbench_row, split, str(path))
        if split == "test":
            return self._source.examples("test", self._row)
        cot = self.config.cot
        rows = read_cot(self._cot, "train", self.config.cot_steps) if cot else self._source.examples("train", self._row)
        return carve(rows, self.config.validation_fraction, split)

    def _row(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        answer = row.get("answer")
        if not isinstance(answer, bool):
            raise DataError(f"{where}: field 'answer' must be true or false, got {answer!r:.60}")
        steps = [] if self.config.steps == "none" else row.get(self.config.steps)
        if steps is None:
            raise DataError(f"{where}: field '{self.config.steps}' is missing; set steps=none for rows without it")
        return {
            "question": text_field(row, "question", where),
            "steps": steps,
            "answer": "yes" if answer else "no",
            "id": row.get("qid"),
            "term": row.get("term"),
            "description": row.get("description"),
        }


def _bigbench_row(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    scores = row.get("target_scores")
    if not isinstance(scores, Mapping) or set(scores) != {"Yes", "No"} or scores["Yes"] == scores["No"]:
        raise DataError(f"{where}: field 'target_scores' must give Yes or No, got {scores!r:.60}")
    return {"question": text_field(row, "input", where), "steps": [], "answer": "yes" if scores["Yes"] else "no"}
