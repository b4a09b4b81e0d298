"""Multiple choice: CommonsenseQA and AQuA-RAT. The options are part of the question, in the layout of `letters.py`.

    commonsenseqa  train       train_rand_split.jsonl; validation is carved out of it by a hash of the question
                   test        dev_rand_split.jsonl, which the literature reports: the official test has no labels
    aqua           train       train.json (97,467 rows), where the folder or the hub has it
                   validation  dev.json
                   test        test.json

The steps of AQuA are the lines of its rationale, without a last line that only names the letter; the rationales are
noisy. CommonsenseQA has none, but with `cot` the task is CODI's version of it on the hub, whose train rows have a
rationale by GPT-4o-mini (steps: its sentences) and whose questions bring their options in a layout of their own; its
validation split (the 1,221 rows of dev) is `test` here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.tasks.base import Split
from unspoken.tasks.reading.rationales import cot_source, read_cot
from unspoken.tasks.reading.rows import question_key, text_field
from unspoken.tasks.reading.segment import StepRule, split_steps
from unspoken.tasks.reading.source import DataSetConfig, DataSource, Splits, SplitTask, carved
from unspoken.tasks.scoring.letters import LETTERS, lettered, score_letter, with_options

_LETTER_ONLY = re.compile(
    r"\W*(?:(?:so|thus|hence|therefore|the|correct|right|best|final|our|is|will|be|ans|answer|option|choice)\b\W*)*"
    r"(?:[A-E]\b\W*)?(?:is (?:the )?(?:correct|right|answer)(?: answer| choice| option)?\W*)?",
    re.IGNORECASE,
)


@config_class
class CommonsenseQaConfig(DataSetConfig):
    """CommonsenseQA 1.11 (Talmor et al. 2019), random split.

    Attributes:
        root: a folder with the two .jsonl files; None for UNSPOKEN_DATA/commonsenseqa or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        cot: use `cot_hub` for every split instead, for its rationales. It is not read from a folder.
        cot_hub: a data set on the hub with the columns question (with its choices), cot, answer.
        steps: how to split a rationale of `cot_hub`.
        validation_fraction: the share of train to validate on. Ours: 5 %, about 490 rows.
    """

    name: Literal["commonsenseqa"] = "commonsenseqa"
    hub: str | None = "tau/commonsense_qa"
    cot: bool = False
    cot_hub: str | None = "zen-E/CommonsenseQA-GPT4omini"
    steps: StepRule = "sentences"
    validation_fraction: float = 0.05


class CommonsenseQa(SplitTask[CommonsenseQaConfig]):
    """Everyday knowledge, five options (Talmor et al. 2019)."""

    def __init__(self, config: CommonsenseQaConfig) -> None:
        files: Mapping[Split, tuple[str, ...]] = {"train": ("train_rand_split.jsonl",), "test": ("dev_rand_split.jsonl",)}
        hub_splits: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "test": ("validation",)}
        self._source = DataSource.of(config, files, hub_splits=hub_splits)
        self._cot = cot_source(self.name, config.cot_hub, hub_splits)
        advice = "the dev rows are test here; set validation_fraction=0.05"
        super().__init__(carved(config, self._read, advice, key=stem_key), score_letter)

    def _read(self, split: Split) -> list[Example]:
        if self.config.cot:
            return read_cot(self._cot, split, self.config.steps)
        return self._source.examples(split, _commonsenseqa_row)


@config_class
class AquaConfig(DataSetConfig):
    """AQuA-RAT (Ling et al. 2017): algebra with five options and a rationale.

    Attributes:
        root: a folder with train.json, dev.json, test.json (one object a line); None for UNSPOKEN_DATA/aqua or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        hub_config: its configuration.
    """

    name: Literal["aqua"] = "aqua"
    hub: str | None = "deepmind/aqua_rat"
    hub_config: str | None = "raw"


class Aqua(SplitTask[AquaConfig]):
    """Algebra, five options (Ling et al. 2017)."""

    def __init__(self, config: AquaConfig) -> None:
        source = DataSource.of(config, {"train": ("train.json",), "validation": ("dev.json",), "test": ("test.json",)})
        splits = Splits(config=config, read=lambda split: source.examples(split, _aqua_row), key=stem_key)
        super().__init__(splits, score_letter)


def stem_key(example: Example) -> str:
    """The key of a question: its text without the options."""
    return question_key(re.split(r"\n\s*(?:Options|Choices):", example.question)[0])


def _commonsenseqa_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    inner = row.get("question")
    fields = inner if isinstance(inner, Mapping) else row  # the published file nests all but the key in "question"
    stem = text_field(fields, "stem" if fields is inner else "question", where)
    return {
        "question": with_options(stem, _choices(fields.get("choices"), where)),
        "steps": [],
        "answer": text_field(row, "answerKey", where),
        "id": row.get("id"),
        "concept": fields.get("question_concept"),
    }


def _choices(choices: object, where: str) -> dict[str, str]:
    """Options by letter: [{label, text}, ...] as in the file, or {label: [...], text: [...]} as on the hub."""
    if (
        isinstance(choices, list)
        and choices
        and all(isinstance(c, Mapping) and {"label", "text"} <= c.keys() for c in choices)
    ):
        return {choice["label"]: choice["text"] for choice in choices}
    if isinstance(choices, Mapping) and {"label", "text"} <= choices.keys():
        return dict(zip(choices["label"], choices["text"], strict=True))
    raise DataError(f"{where}: field 'choices' must hold labels and texts, got {choices!r:.60}")


def _aqua_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    options = row.get("options")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{where}: field 'options' must be a list of strings, got {options!r:.60}")
    # "A)21", and in some rows "A)A)21".
    texts = [re.sub(rf"^(?:{letter}\)\s*)+", "", option).strip() for letter, option in zip(LETTERS, options, strict=False)]
    lines = split_steps(text_field(row, "rationale", where, may_be_empty=True), "lines")
    if lines and _LETTER_ONLY.fullmatch(lines[-1]):
        lines = lines[:-1]
    return {
        "question": with_options(text_field(row, "question", where), lettered(texts)),
        "steps": list(lines),
        "answer": text_field(row, "correct", where),
    }
