"""ASDiv (Miao et al. 2020): 2,305 problems of elementary school, many kinds. **CC BY-NC 4.0: no commercial use.**

Files: ASDiv.xml, and nfolds/asdiv-a/fold0.txt ... fold4.txt (the 1,218 arithmetic problems), nfolds/asdiv-w (all), as the
authors ship them, in `root` or UNSPOKEN_DATA/asdiv. The data set has no split: all of it is `test`, unless `fold` picks
one of the authors' five folds as test, the next one as validation and the other three as train. From the hub (columns
body, question, answer, formula, solution_type) there is only `test`.

`answer` is the text of the file without its units ("9 (apples)" -> "9"); 221 are not one number (names, times, ratios,
lists). Steps are the equations of `Formula`, one operation a step, where they are plain arithmetic that gives the answer;
the formula as it stands and the units are in `meta`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import SPLITS, Score, Split
from unspoken.tasks.reading.equations import equality_steps
from unspoken.tasks.reading.readers import read_text
from unspoken.tasks.reading.rows import RawRow, text_field
from unspoken.tasks.reading.source import DataSetConfig, DataSource, Splits, SplitTask, converted
from unspoken.tasks.scoring.answers import SPECIAL, equal, extract_flexible, extract_strict, normalise

FOLDS = 5
_BRACKETS = re.compile(r"\([^()]*\)")
_UNIT = re.compile(r"\s*\((?P<unit>[^()]*[A-Za-z][^()]*)\)")  # not the brackets of "-(1/3)"


@config_class
class AsDivConfig(DataSetConfig):
    """Which problems of ASDiv.

    Attributes:
        root: a folder with the files above; None for UNSPOKEN_DATA/asdiv or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        subset: "all", or "a" for the arithmetic subset ASDiv-A (needs nfolds/asdiv-a).
        fold: 0 to 4 for the authors' cross-validation; None to test on everything.
        numbers_only: leave out problems whose answer is not one number.
    """

    name: Literal["asdiv"] = "asdiv"
    hub: str | None = "EleutherAI/asdiv"
    subset: Literal["all", "a"] = "all"
    fold: int | None = None
    numbers_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold is not None and not 0 <= self.fold < FOLDS:
            raise ConfigError(f"field 'fold' must be 0 to {FOLDS - 1}, or null to test on everything, got {self.fold}")


class AsDiv(SplitTask[AsDivConfig]):
    """School problems of many kinds (Miao et al. 2020): a test set."""

    def __init__(self, config: AsDivConfig) -> None:
        hub_splits: Mapping[Split, tuple[str, ...]] = {"test": ("train", "validation", "test")}
        self._source = DataSource.of(config, {"test": ("ASDiv.xml",)}, hub_splits=hub_splits)
        there = SPLITS if config.fold is not None else ("test",)
        advice = "set fold=0 (to 4) for the authors' folds, or train on another task"
        splits = Splits(config=config, read=self._read, there=there, absent=dict.fromkeys(SPLITS, advice))
        super().__init__(splits, score_loose)

    def _read(self, split: Split) -> list[Example]:
        config = self.config
        folder = self._source.folder()
        if folder is None:
            if config.subset == "a" or config.fold is not None:
                raise self._source.no_data("root is not set, and the hub has no folds (subset, fold)")
            rows = self._source.examples(split, _hub_row)
        else:
            path = self._source.path("test")
            rows = converted(_xml_rows(path), _row, split, str(path))
            wanted = _ids(folder, config, split)
            rows = rows if wanted is None else [example for example in rows if example.meta["id"] in wanted]
        return [example for example in rows if _is_number(example.answer)] if config.numbers_only else rows


def score_loose(example: Example, text: str) -> Score:
    """Numbers as numbers, without a unit ("9 (apples)", "9 apples"); lists ("13; 39") in any order; the rest as words.

    Strict: what follows the last mark. Flexible: that, or the last number, or the last line from "answer is" on.
    """
    marked = extract_strict(text)
    last = extract_flexible(_BRACKETS.sub(" ", text)) or extract_flexible(text)  # "9 (since 3*3)" does not say 3
    lines = [line.strip() for line in SPECIAL.sub("\n", text).split("\n") if line.strip()]
    said = [_without_unit(marked)] if marked is not None else []
    strict = any(_same(answer, example.answer) for answer in said)
    claim = re.split(r"\banswer is:?\s", lines[-1], flags=re.IGNORECASE)[-1] if lines else None
    loose = [*said, *(answer for answer in (last, claim) if answer is not None)]
    return Score(
        strict=strict,
        flexible=strict or any(_same(answer, example.answer) for answer in loose),
        extracted=normalise(loose[0]) if loose else None,
    )


def _ids(folder: Path, config: AsDivConfig, split: Split) -> set[str] | None:
    """The ids of a split; None for all."""
    if config.fold is None and config.subset == "all":
        return None
    test, validation = config.fold or 0, ((config.fold or 0) + 1) % FOLDS
    folds = {"test": {test}, "validation": {validation}, "train": set(range(FOLDS)) - {test, validation}}[split]
    if config.fold is None:
        folds = set(range(FOLDS))
    name = "asdiv-a" if config.subset == "a" else "asdiv-w"
    return {line for fold in folds for line in read_text(folder / "nfolds" / name / f"fold{fold}.txt").split()}


def _xml_rows(path: Path) -> list[RawRow]:
    try:
        problems = ElementTree.fromstring(read_text(path)).iter("Problem")
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise DataError(f"{path}:{line}: is not well-formed XML ({error}); expected the file ASDiv.xml") from None
    return [(f"{path}: {p.get('ID')}", {**p.attrib, **{child.tag: child.text or "" for child in p}}) for p in problems]


def _row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    answer, formula = text_field(row, "Answer", where), text_field(row, "Formula", where)
    plain = _without_unit(answer)
    return {
        "question": f"{text_field(row, 'Body', where)} {text_field(row, 'Question', where)}",
        "steps": list(equality_steps(formula, plain)),
        "answer": plain,
        "id": row.get("ID"),
        "grade": row.get("Grade"),
        "type": row.get("Solution-Type"),
        "units": _UNIT.findall(answer),
        "formula": formula,
    }


def _hub_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    names = {
        "body": "Body",
        "question": "Question",
        "answer": "Answer",
        "formula": "Formula",
        "solution_type": "Solution-Type",
    }
    return _row({names.get(key, key): value for key, value in row.items()}, where)


def _without_unit(answer: str) -> str:
    """ "9 (apples)" and "9 apples" -> "9"; "5 (cm); 6 (cm)" -> "5; 6"; "-(1/3)", "6th" and "3:30 p.m." stay."""
    plain = _UNIT.sub("", answer).strip() or answer
    number = re.fullmatch(r"([-−]?\$?[\d,]*\.?\d+)\s+[A-Za-z][A-Za-z .'-]*", plain)
    return number[1] if number and not re.search(r"[ap]\.?m\.?$", plain) else plain.strip()


def _same(answer: str, gold: str) -> bool:
    if equal(answer, gold):
        return True
    parts = [sorted(normalise(part) for part in re.split(r"[;,]|\band\b", text) if part.strip()) for text in (answer, gold)]
    return ";" in gold and parts[0] == parts[1]


def _is_number(answer: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", normalise(answer)) is not None
