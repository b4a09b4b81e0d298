"""GSM8K (Cobbe et al. 2021), GSM8K-Aug (Deng et al. 2024, the training set of Coconut, CODI and SIM-CoT) and ASDiv-Aug.

All are read from a folder (`root`, or the subfolder of the task's name in the folder that the environment variable
UNSPOKEN_DATA names) or else, through `datasets`, from the hub. File names that are known, preferred first:

    gsm8k      train       train.jsonl           validation is carved out of it by a hash of the question
               test        test.jsonl            (socratic: train_socratic.jsonl, test_socratic.jsonl)
    asdiv_aug  train       aug-train.jsonl, asdiv-aug-train.jsonl        validation is carved out of it, too
               test        aug-dev.jsonl, asdiv-aug-test.jsonl
    gsm8k_aug  train       train.txt, gsm_train.json (all 385,620 rows); then train.part.txt, gsm_train*.json (parts)
               validation  valid.txt, gsm_valid.json
               test        test.txt, gsm_test.json

The socratic form has lines like "How many clips in May? ** In May it is 48/2 = <<48/2=24>>24". ASDiv-Aug (SoftCoT's,
problems of ASDiv with other numbers) has the form of GSM8K; **CC BY-NC-ND 4.0: no commercial use, no changed copies**.

The iCoT text comes before Coconut's JSON because the JSON is made from it. A train row whose question also stands in
validation or test (white space, case and Unicode forms aside) is dropped, and so is a validation row that stands in
test; `dropped` counts them. Across the two tasks nothing is checked: GSM8K-Aug's validation rows come from GSM8K's
train split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.tasks.base import Split
from unspoken.tasks.reading.rows import RawRow, examples_of
from unspoken.tasks.reading.segment import StepRule
from unspoken.tasks.reading.source import DataSetConfig, DataSource, Splits, SplitTask, carved
from unspoken.tasks.scoring.answers import score_number

_FILES: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "gsm8k": {"train": ("train.jsonl",), "test": ("test.jsonl",)},
    "socratic": {"train": ("train_socratic.jsonl",), "test": ("test_socratic.jsonl",)},
    "asdiv_aug": {"train": ("aug-train.jsonl", "asdiv-aug-train.jsonl"), "test": ("aug-dev.jsonl", "asdiv-aug-test.jsonl")},
    "gsm8k_aug": {
        "train": ("train.txt", "gsm_train.json", "train.part.txt", "gsm_train*.json"),
        "validation": ("valid.txt", "gsm_valid.json"),
        "test": ("test.txt", "gsm_test.json"),
    },
}


@config_class
class Gsm8kConfig(DataSetConfig):
    """GSM8K as published: natural-language solutions with calculator annotations.

    Attributes:
        root: a folder with train.jsonl and test.jsonl; None for UNSPOKEN_DATA/gsm8k or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        hub_config: its configuration ("main" or "socratic" for openai/gsm8k); "socratic" also says which files are read.
        steps: "markers" takes the equations `<<48/2=24>>`; the other rules take the text without them.
        subquestions: whether steps of the socratic form begin with their question, as SoftCoT has them.
        validation_fraction: the share of train to validate on. Ours: 5 % is about 370 rows; GSM8K has no such split.
    """

    name: Literal["gsm8k"] = "gsm8k"
    hub: str | None = "openai/gsm8k"
    hub_config: str | None = "main"
    steps: StepRule = "markers"
    subquestions: bool = True
    validation_fraction: float = 0.05


@config_class
class AsDivAugConfig(DataSetConfig):
    """ASDiv-Aug (Xu et al. 2025): test rows 1,038.

    Attributes:
        root: a folder with files of the names above; None for UNSPOKEN_DATA/asdiv_aug or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        hub_config: its configuration, if it has several.
        steps: how solutions are split.
        validation_fraction: the share of train to validate on. Ours; SoftCoT looks at its test rows.
    """

    name: Literal["asdiv_aug"] = "asdiv_aug"
    hub: str | None = "xuyige/ASDiv-Aug"
    hub_config: str | None = None
    steps: StepRule = "lines"
    validation_fraction: float = 0.05


@config_class
class Gsm8kAugConfig(DataSetConfig):
    """GSM8K-Aug: 385,620 train rows written by GPT-4, 500 for validation, GSM8K's test; equations only.

    Attributes:
        root: a folder with files of the names above; None for UNSPOKEN_DATA/gsm8k_aug or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        hub_config: its configuration, if it has several.
        steps: how to split reasoning that a row gives as one text (iCoT text, a `cot` column).
    """

    name: Literal["gsm8k_aug"] = "gsm8k_aug"
    hub: str | None = "whynlp/gsm8k-aug"
    hub_config: str | None = None
    steps: StepRule = "markers"


class Gsm8k(SplitTask[Gsm8kConfig]):
    """School problems in sentences (Cobbe et al. 2021)."""

    answers: ClassVar[str] = "number"

    def __init__(self, config: Gsm8kConfig) -> None:
        advice = "GSM8K has no validation split of its own; set validation_fraction=0.05"
        super().__init__(carved(config, _reader(config), advice), score_number)


class AsDivAug(SplitTask[AsDivAugConfig]):
    """Problems of ASDiv with other numbers (Xu et al. 2025), in GSM8K's form."""

    answers: ClassVar[str] = "number"

    def __init__(self, config: AsDivAugConfig) -> None:
        advice = "ASDiv-Aug has no validation split of its own; set validation_fraction=0.05"
        super().__init__(carved(config, _reader(config), advice), score_number)


class Gsm8kAug(SplitTask[Gsm8kAugConfig]):
    """GSM8K enlarged by GPT-4 (Deng et al. 2024): equations as steps; other files, and a validation split of its own."""

    answers: ClassVar[str] = "number"

    def __init__(self, config: Gsm8kAugConfig) -> None:
        super().__init__(Splits(config=config, read=_reader(config)), score_number)


def _reader(config: Gsm8kConfig | AsDivAugConfig | Gsm8kAugConfig) -> Callable[[Split], list[Example]]:
    socratic = isinstance(config, Gsm8kConfig) and config.hub_config == "socratic"
    source = DataSource.of(config, _FILES["socratic" if socratic else config.name])
    bare = socratic and isinstance(config, Gsm8kConfig) and not config.subquestions

    def read(split: Split) -> list[Example]:
        rows, where = source.rows(split)
        return examples_of(map(_answers_only, rows) if bare else rows, split=split, steps=config.steps, source=where)

    return read


def _answers_only(placed: RawRow) -> RawRow:
    """A row of the socratic form without the questions of its steps."""
    where, row = placed
    if not isinstance(row, Mapping) or not isinstance(row.get("answer"), str):
        return placed
    return where, {**row, "answer": re.sub(r"^.*? \*\* ", "", row["answer"], flags=re.MULTILINE)}
