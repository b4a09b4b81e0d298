"""StrategyQA (Geva et al. 2021): yes-or-no questions whose steps are implicit in the question.

    original   train       train.json; validation is carved out of it by a hash of the question
               test        dev.json: the official test has no public labels
    softcot    train       strategyqa_train.json, the published training file of all 2,290 questions: its first 80%, as
                           SoftCoT's code takes them; validation is carved out of it
               test        its last 20%, from which that code takes its validation, too
    bigbench   test        task.json: BIG-bench's form of all 2,290 questions, train and dev together

**task.json is for evaluation only** (it carries BIG-bench's canary) and holds the questions of both other files: who trained
on train.json knows nine tenths of it. It is never read by the original form.

Steps are the gold facts, or the decomposition into questions (which has no answers in it), or none. With `cot` the train
and validation rows are CODI's on the hub, with rationales by GPT-4o; their questions that stand in dev.json are dropped.
The answers are "yes" and "no" in every form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import Split
from unspoken.tasks.reading.rationales import cot_source, read_cot
from unspoken.tasks.reading.readers import listed_rows
from unspoken.tasks.reading.rows import text_field
from unspoken.tasks.reading.segment import StepRule
from unspoken.tasks.reading.source import DataSetConfig, DataSource, SplitTask, carved, converted, only_test
from unspoken.tasks.scoring.rules import score_verdict

_FILES: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "original": {"train": ("train.json",), "test": ("dev.json",)},
    "softcot": {"train": ("strategyqa_train.json",), "test": ("strategyqa_train.json",)},
    "bigbench": {"test": ("task.json",)},
}


@config_class
class StrategyQaConfig(DataSetConfig):
    """Which form of StrategyQA, and what its steps are.

    Attributes:
        root: a folder with train.json and dev.json (or the form's file); None for UNSPOKEN_DATA/strategyqa.
        form: "original", "softcot" or "bigbench", see the module's text.
        steps: "facts", "decomposition" or "none", for rows of the first two forms.
        cot: take train and validation from `cot_hub`, for its rationales.
        cot_hub: a data set on the hub with the columns question, cot, answer.
        cot_steps: how to split a rationale of `cot_hub`.
        validation_fraction: the share of train to validate on. Ours: 10 %, about 200 rows.
    """

    name: Literal["strategyqa"] = "strategyqa"
    form: Literal["original", "softcot", "bigbench"] = "original"
    steps: Literal["facts", "decomposition", "none"] = "facts"
    cot: bool = False
    cot_hub: str | None = "zen-E/StrategyQA_CoT_GPT4o"
    cot_steps: StepRule = "sentences"
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cot and self.form != "original":
            raise ConfigError(f"field 'cot' needs form=original: {self.form}'s rows are those of its own file")


class StrategyQa(SplitTask[StrategyQaConfig]):
    """Yes-or-no questions with implicit reasoning steps (Geva et al. 2021)."""

    def __init__(self, config: StrategyQaConfig) -> None:
        bigbench = config.form == "bigbench"
        instead = "use another task: the gold facts are read from files only"
        self._source = DataSource.of(config, _FILES[config.form], instead=instead)
        self._cot = cot_source(self.name, config.cot_hub, {"train": ("train",)})
        if bigbench:
            splits = only_test(config, self._read, "BIG-bench's form is for evaluation only; set form=original")
        else:
            splits = carved(config, self._read, "the dev rows are test here; set validation_fraction=0.1")
        super().__init__(splits, score_verdict)

    def _read(self, split: Split) -> list[Example]:
        if self.config.form == "bigbench":
            path = self._source.path("test")
            return converted(listed_rows(path), _bigbench_row, split, str(path))
        if split == "train" and self.config.cot:
            return read_cot(self._cot, split, self.config.cot_steps)
        found = self._source.examples(split, self._row)
        if self.config.form == "softcot":
            cut = int(0.8 * len(found))
            return found[:cut] if split == "train" else found[cut:]
        return found

    def _row(self, row: Mapping[str, object], where: str) -> Mapping[str, object]:
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


def _bigbench_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    scores = row.get("target_scores")
    if not isinstance(scores, Mapping) or set(scores) != {"Yes", "No"} or scores["Yes"] == scores["No"]:
        raise DataError(f"{where}: field 'target_scores' must give Yes or No, got {scores!r:.60}")
    return {"question": text_field(row, "input", where), "steps": [], "answer": "yes" if scores["Yes"] else "no"}
