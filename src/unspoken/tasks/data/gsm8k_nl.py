"""GSM8K-Aug-NL: the training problems of GSM8K-Aug with rationales in sentences (CODI's "icot-full").

Train rows come from a folder (`root`, or the subfolder `gsm8k_aug_nl` or `gsm8k_aug` of UNSPOKEN_DATA) or from the hub
(columns question, cot, answer). File names that are known, preferred first:

    train       train_nl.txt, train_nl.jsonl, train_nl.json; then train_no_aug.txt (the 6,973 un-augmented rows: their
                lines were joined by spaces, so two lines without a full stop between them are one step)
    validation  valid.txt, gsm_valid.json: those of gsm8k_aug
    test        test.txt, gsm_test.json: those of gsm8k_aug

Validation and test are the questions and answers of `gsm8k_aug`. Their reasoning is equations, which would mix two
forms in one task, so their `steps` are left empty. Train rows without an answer (the hub has some) and rows whose
question is held out are dropped, and `dropped` counts both. No sentence is cut: CODI drops the last one, which is a
choice of that method.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.tasks.base import Split
from unspoken.tasks.reading.rows import examples_of
from unspoken.tasks.reading.source import DataSetConfig, DataSource, Splits, SplitTask
from unspoken.tasks.scoring.answers import score_number


@config_class
class Gsm8kAugNlConfig(DataSetConfig):
    """GSM8K-Aug with natural-language rationales: 384,625 train rows on the hub (CODI, section 4).

    Attributes:
        root: a folder with files of the names above; None for UNSPOKEN_DATA or the hub.
        hub: a data set on the hub for train, used when there is no folder; None to never ask the network.
        evaluation_hub: one for validation and test: GSM8K-Aug itself.
        steps: "sentences", or "lines" where the rationales have them.
    """

    name: Literal["gsm8k_aug_nl"] = "gsm8k_aug_nl"
    hub: str | None = "zen-E/GSM8k-Aug-NL"
    evaluation_hub: str | None = "whynlp/gsm8k-aug"
    steps: Literal["sentences", "lines"] = "sentences"


class Gsm8kAugNl(SplitTask[Gsm8kAugNlConfig]):
    """GSM8K-Aug with steps in sentences (Shen et al. 2025)."""

    answers: ClassVar[str] = "number"

    def __init__(self, config: Gsm8kAugNlConfig) -> None:
        self._train = DataSource.of(
            config,
            {"train": ("train_nl.txt", "train_nl.jsonl", "train_nl.json", "train_no_aug.txt")},
            folders=("gsm8k_aug_nl", "gsm8k_aug"),
        )
        self._evaluation = DataSource.of(
            config,
            {"validation": ("valid.txt", "gsm_valid.json"), "test": ("test.txt", "gsm_test.json")},
            folders=("gsm8k_aug", "gsm8k_aug_nl"),
            hub=config.evaluation_hub,
            instead="set evaluation_hub=NAME to a data set that can be loaded",
        )
        self._without_answer = 0
        splits = Splits(config=config, read=self._read)
        super().__init__(splits, score_number)

    @property
    def dropped(self) -> dict[Split, int]:
        """Rows dropped so far: held-out questions, and train rows without an answer."""
        held_out = self._splits.dropped
        return {split: n + (self._without_answer if split == "train" else 0) for split, n in held_out.items()}

    def _read(self, split: Split) -> list[Example]:
        if split != "train":
            rows, where = self._evaluation.rows(split)
            return [replace(example, steps=()) for example in examples_of(rows, split=split, steps="markers", source=where)]
        rows, where = self._train.rows(split)
        every = list(rows)
        answered = [(place, row) for place, row in every if not (isinstance(row, dict) and row.get("answer") in (None, ""))]
        self._without_answer = len(every) - len(answered)
        return examples_of(answered, split=split, steps=self.config.steps, source=where)
