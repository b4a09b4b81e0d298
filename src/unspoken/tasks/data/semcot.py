"""SemCoT's data (He et al. 2025): five tasks with a rationale and, in training, a condensed rationale of about ten words.

    <subset>/train_42.json   train, and validation carved out of it by a hash of the question
    <subset>/eval_42.json    test

in `root` or UNSPOKEN_DATA/semcot; a subset is one of gsm8k, svamp, multiarith, commonsense_qa, coin_flip. The steps are the
lines of the rationale (or its sentences, or the calculator annotations of gsm8k). The condensed form is
`meta["condensed_reasoning"]`, the rationale as one text `meta["reasoning"]`: what SemCoT's encoder is trained on.

Questions are as in the files ("Q: A coin is heads up. ...", options in lines "A. bank"). In coin_flip train rows have two
people (one has one) and test rows four: it measures length generalisation. Rows repeat those of the original tasks
(gsm8k: the first 800 of GSM8K's train): never train on one copy and test on another. Six questions of multiarith stand
in both of its files; their train rows are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from unspoken.core.config import config_class
from unspoken.tasks.base import ScoringRule
from unspoken.tasks.reading.rows import text_field
from unspoken.tasks.reading.segment import StepRule, drop_annotations, split_steps
from unspoken.tasks.reading.source import DataSetConfig, DataSource, SplitTask, carved
from unspoken.tasks.scoring.answers import score_number
from unspoken.tasks.scoring.letters import score_letter
from unspoken.tasks.scoring.rules import score_coin


@config_class
class SemCotTaskConfig(DataSetConfig):
    """Settings: which of the five tasks, and how its rationales are split.

    Attributes:
        root: a folder with the folders of the subsets; None for UNSPOKEN_DATA/semcot.
        subset: the task.
        steps: "lines", "sentences", or "markers" for gsm8k's equations.
        validation_fraction: the share of train to validate on. Ours: 10 %, 42 to 80 rows.
    """

    name: Literal["semcot"] = "semcot"
    subset: Literal["gsm8k", "svamp", "multiarith", "commonsense_qa", "coin_flip"] = "gsm8k"
    steps: StepRule = "lines"
    validation_fraction: float = 0.1


_RULES: dict[str, ScoringRule] = {"commonsense_qa": score_letter, "coin_flip": score_coin}
"""Scoring rules of subsets whose answers are not numbers."""


class SemCotTask(SplitTask[SemCotTaskConfig]):
    """SemCoT's five tasks with condensed rationales (He et al. 2025)."""

    def __init__(self, config: SemCotTaskConfig) -> None:
        source = DataSource.of(
            config,
            {"train": (f"{config.subset}/train_42.json",), "test": (f"{config.subset}/eval_42.json",)},
            instead="use another task: this one is read from files only",
        )
        advice = "the eval rows are test here; set validation_fraction=0.1"
        splits = carved(config, lambda split: source.examples(split, self._row), advice)
        super().__init__(splits, _RULES.get(config.subset, score_number))

    def _row(self, row: Mapping[str, object], where: str) -> Mapping[str, object]:
        reasoning = text_field(row, "reasoning", where)
        text = reasoning if self.config.steps == "markers" else drop_annotations(reasoning)
        meta = {"condensed_reasoning": text_field(row, "condensed_reasoning", where)} if "condensed_reasoning" in row else {}
        return {
            "question": text_field(row, "query", where),
            "steps": list(split_steps(text, self.config.steps)),
            "answer": text_field(row, "answer", where),
            "reasoning": reasoning,
            "subset": self.config.subset,
            **meta,
        }
