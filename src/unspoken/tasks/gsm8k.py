"""GSM8K (Cobbe et al. 2021) and GSM8K-Aug (Deng et al. 2024, the training set of Coconut, CODI and SIM-CoT).

Both are read from a folder (`root`, or the subfolder `gsm8k` or `gsm8k_aug` of the folder that the environment
variable UNSPOKEN_DATA names) or else, through `datasets`, from the hub. File names that are known, preferred first:

    gsm8k      train       train.jsonl           validation is carved out of it by a hash of the question
               test        test.jsonl
    gsm8k_aug  train       train.txt, gsm_train.json (all 385,620 rows); then train.part.txt, gsm_train*.json (parts)
               validation  valid.txt, gsm_valid.json
               test        test.txt, gsm_test.json

The iCoT text comes before Coconut's JSON because the JSON is made from it. A train row whose question also stands in
validation or test (white space and case aside) is dropped, and so is a validation row that stands in test; `dropped`
counts them. Across the two tasks nothing is checked: GSM8K-Aug's validation rows come from GSM8K's train split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from unspoken.core.config import STRICT
from unspoken.core.example import Example
from unspoken.errors import DataError
from unspoken.tasks.answers import score_number
from unspoken.tasks.base import Score, Split, fingerprint_examples
from unspoken.tasks.files import carve, check_ranges, check_split, examples_of, question_key, read_examples
from unspoken.tasks.segment import Rule

DATA_VARIABLE = "UNSPOKEN_DATA"

_FILES: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "gsm8k": {"train": ("train.jsonl",), "test": ("test.jsonl",)},
    "gsm8k_aug": {
        "train": ("train.txt", "gsm_train.json", "train.part.txt", "gsm_train*.json"),
        "validation": ("valid.txt", "gsm_valid.json"),
        "test": ("test.txt", "gsm_test.json"),
    },
}
_HUB_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}


@dataclass(frozen=True, kw_only=True)
class Gsm8kConfig:
    """GSM8K as published: natural-language solutions with calculator annotations.

    Attributes:
        root: a folder with train.jsonl and test.jsonl; None for UNSPOKEN_DATA/gsm8k or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        hub_config: its configuration ("main" or "socratic" for openai/gsm8k).
        steps: "markers" takes the equations `<<48/2=24>>`; the other rules take the text without them.
        validation_fraction: the share of train to validate on. Ours: 5 % is about 370 rows; GSM8K has no such split.
        limit_train, limit_validation, limit_test: use the first rows of a split only.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: Literal["gsm8k"] = "gsm8k"
    root: str | None = None
    hub: str | None = "openai/gsm8k"
    hub_config: str | None = "main"
    steps: Rule = "markers"
    validation_fraction: float = 0.05
    limit_train: int | None = None
    limit_validation: int | None = None
    limit_test: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "limit_train", "limit_validation", "limit_test")


@dataclass(frozen=True, kw_only=True)
class Gsm8kAugConfig:
    """GSM8K-Aug: 385,620 train rows written by GPT-4, 500 for validation, GSM8K's test; equations only.

    Attributes:
        root: a folder with files of the names above; None for UNSPOKEN_DATA/gsm8k_aug or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        hub_config: its configuration, if it has several.
        steps: how to split reasoning that a row gives as one text (iCoT text, a `cot` column).
        limit_train, limit_validation, limit_test: use the first rows of a split only.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: Literal["gsm8k_aug"] = "gsm8k_aug"
    root: str | None = None
    hub: str | None = "whynlp/gsm8k-aug"
    hub_config: str | None = None
    steps: Rule = "markers"
    limit_train: int | None = None
    limit_validation: int | None = None
    limit_test: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "limit_train", "limit_validation", "limit_test")


class Gsm8k:
    """The task `gsm8k`.

    Attributes:
        dropped: for each split read so far, how many rows were dropped because a held-out split has their question.
    """

    name: ClassVar[str] = "gsm8k"
    Config: ClassVar[type[Any]] = Gsm8kConfig

    def __init__(self, config: Gsm8kConfig | Gsm8kAugConfig) -> None:
        self.config = config
        self.dropped: dict[Split, int] = {}
        self._cache: dict[Split, list[Example]] = {}

    def examples(self, split: Split) -> list[Example]:
        """The split in file order, without rows of the splits it must not share any with, cut to its limit."""
        check_split(split)
        return self._whole(split)[: getattr(self.config, f"limit_{split}")]

    def score(self, example: Example, text: str) -> Score:
        """Strict: the number after "####" or "###". Flexible: the last number."""
        return score_number(example, text)

    def fingerprint(self, split: Split) -> str:
        """16 hex digits that change when an example of the split does."""
        return fingerprint_examples(self.examples(split))

    def _whole(self, split: Split) -> list[Example]:
        if split not in self._cache:
            # GSM8K's train and validation are two sides of one cut, so they share nothing.
            carved = isinstance(self.config, Gsm8kConfig)
            others: tuple[Split, ...] = ("test",) if carved or split == "validation" else ("validation", "test")
            held_out = () if split == "test" else others
            taken = {question_key(example.question) for other in held_out for example in self._whole(other)}
            rows = self._rows(split)
            kept = [example for example in rows if question_key(example.question) not in taken]
            self.dropped[split] = len(rows) - len(kept)
            self._cache[split] = kept
        return self._cache[split]

    def _rows(self, split: Split) -> list[Example]:
        if isinstance(self.config, Gsm8kConfig) and split != "test":
            if split == "validation" and self.config.validation_fraction == 0:
                raise DataError("task 'gsm8k' has no validation split of its own; set validation_fraction=0.05")
            rows = self._source("train")
            return carve(rows, self.config.validation_fraction, split)
        return self._source(split)

    def _source(self, split: Split) -> list[Example]:
        root = self._root()
        return self._from_hub(split) if root is None else self._from_folder(root, split)

    def _root(self) -> Path | None:
        if self.config.root is not None:
            root = Path(self.config.root).expanduser()
            if not root.is_dir():
                raise DataError(f"{root}: no such folder (root of task {self.config.name!r})")
            return root
        variable = os.environ.get(DATA_VARIABLE)
        folder = Path(variable).expanduser() / self.config.name if variable else None
        return folder if folder is not None and folder.is_dir() else None

    def _from_folder(self, root: Path, split: Split) -> list[Example]:
        names = _FILES[self.config.name][split]
        found = next((path for name in names for path in sorted(root.glob(name))), None)
        if found is None:
            raise DataError(f"{root}: no {split} file for task {self.config.name!r}; expected {' or '.join(names)}")
        return read_examples(found, split=split, steps=self.config.steps)

    def _from_hub(self, split: Split) -> list[Example]:
        config = self.config
        files = "; ".join(f"{s}: {' or '.join(names)}" for s, names in _FILES[config.name].items())
        ways = (
            f"either set root=FOLDER (or {DATA_VARIABLE}=FOLDER, with a subfolder {config.name}) to a folder with "
            f"{files}; or set hub=NAME to a data set that can be loaded"
        )
        if config.hub is None:
            raise DataError(f"task {config.name!r} has no data: root and hub are not set; {ways}")
        try:
            from datasets import load_dataset  # slow to import, and of no use with a folder

            splits: Any = load_dataset(config.hub, config.hub_config)
        except Exception as error:  # the hub's client raises dozens of kinds, from no network to no such name
            reason = (str(error).strip().split("\n")[0] or "no message")[:200]
            problem = f"hub {config.hub!r} could not be loaded ({type(error).__name__}: {reason})"
            raise DataError(f"task {config.name!r} has no data: root is not set, and {problem}; {ways}") from error
        name = next((name for name in _HUB_SPLITS[split] if name in splits), None)
        if name is None:
            raise DataError(f"hub {config.hub!r} has no {split} split; it has: {', '.join(splits)}; {ways}")
        where = f"{config.hub}/{name}"
        rows = ((f"{where}: item {index}", row) for index, row in enumerate(splits[name]))
        return examples_of(rows, split=split, steps=config.steps, source=where)


class Gsm8kAug(Gsm8k):
    """The task `gsm8k_aug`: other files, and a validation split of its own."""

    name: ClassVar[str] = "gsm8k_aug"
    Config: ClassVar[type[Any]] = Gsm8kAugConfig
