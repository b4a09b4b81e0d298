"""Three sets of arithmetic word problems, used above all to test what was trained on GSM8K: SVAMP, MultiArith, GSM-Hard.

    svamp       test        SVAMP.json (hub: its two splits joined, as CODI does)
                train       mawps-asdiv-a_train.csv: MAWPS and ASDiv-A, the training set that SVAMP's authors ship;
                            validation is carved out of it by a hash of the question
    multiarith  test        MultiArith.json; no other split: the data set has none
    gsm_hard    test        gsmhardv2.jsonl; no other split

Steps are the equation that a row gives, one operation a step (`equations.py`), where it is plain arithmetic whose result
is the answer; GSM-Hard has no steps (a row has a program, which is kept in `meta` and never run).

**The training set of SVAMP holds all 600 MultiArith questions and hundreds of ASDiv's.** By default they are taken out,
for which the files of those tasks must be at hand; `avoid` says which are to be avoided. 276 rows of GSM-Hard are GSM8K
questions word for word: `meta["changed"]` is false there, and `changed_only` leaves them out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.tasks.base import Split
from unspoken.tasks.data.asdiv import AsDiv, AsDivConfig
from unspoken.tasks.reading.equations import infix_steps, plain_number, prefix_steps
from unspoken.tasks.reading.readers import read_text
from unspoken.tasks.reading.rows import RawRow, text_field
from unspoken.tasks.reading.source import (
    DataSetConfig,
    DataSource,
    EvaluationSetConfig,
    SplitTask,
    carved,
    converted,
    only_test,
)
from unspoken.tasks.scoring.answers import score_number
from unspoken.tasks.scoring.rules import score_close

Shared = Literal["multiarith", "asdiv"]
_BOTH: Mapping[Split, tuple[str, ...]] = {"test": ("train", "test")}
"""The hub splits these test sets in two; here they are joined."""
_ONLY_TEST = "it is a test set without a split; train on another task, such as gsm8k_aug"


@config_class
class SvampConfig(DataSetConfig):
    """SVAMP (Patel et al. 2021): simple problems, varied so that shallow cues fail.

    Attributes:
        root: a folder with SVAMP.json and, for train, mawps-asdiv-a_train.csv; None for UNSPOKEN_DATA/svamp or the hub.
        hub: a data set on the hub for test, used when there is no folder; None to never ask the network.
        avoid: tasks whose questions are taken out of train and validation. Their files are looked for beside `root`
            and in UNSPOKEN_DATA; [] keeps all 3,138 rows.
        validation_fraction: the share of the training file to validate on. Ours: 5 %, as for gsm8k.
    """

    name: Literal["svamp"] = "svamp"
    hub: str | None = "ChilleD/SVAMP"
    avoid: tuple[Shared, ...] = ("multiarith", "asdiv")
    validation_fraction: float = 0.05


class Svamp(SplitTask[SvampConfig]):
    """Easy problems, varied so that shortcuts fail (Patel et al. 2021).

    Attributes:
        avoided: how many rows of the training file were taken out because a task of `avoid` has their question.
    """

    answers: ClassVar[str] = "number"

    def __init__(self, config: SvampConfig) -> None:
        self.avoided = 0
        files: Mapping[Split, tuple[str, ...]] = {"train": ("mawps-asdiv-a_train.csv",), "test": ("SVAMP.json",)}
        self._source = DataSource.of(config, files, hub_splits=_BOTH)
        advice = "SVAMP has no validation split of its own; set validation_fraction=0.05"
        super().__init__(carved(config, self._read, advice), score_number)

    def _read(self, split: Split) -> list[Example]:
        if split == "test":
            return self._source.examples("test", _svamp_row)
        path = self._source.path("train")
        rows = converted(_csv_rows(path), _mawps_row, "train", str(path))
        taken = {key for task in self.config.avoid for key in self._questions(task)}
        kept = [example for example in rows if _letters(example.question) not in taken]
        self.avoided = len(rows) - len(kept)
        return kept

    def _questions(self, task: Shared) -> set[str]:
        """The questions of another task, compared by letters only: MAWPS writes "shelves ," for "shelves,"."""
        beside = self._source.path("train").parent.parent / task
        root = str(beside) if beside.is_dir() else None
        try:
            other = MultiArith(MultiArithConfig(root=root, hub=None)) if task == "multiarith" else None
            rows = (other or AsDiv(AsDivConfig(root=root, hub=None))).examples("test")
        except DataError as error:
            raise DataError(
                f"train of task 'svamp' holds questions of {task}, whose files are needed to take them out ({error}); "
                "give them, or set avoid=[] to keep every row and test on no other task"
            ) from None
        return {_letters(example.question) for example in rows}


@config_class
class MultiArithConfig(EvaluationSetConfig):
    """MultiArith (Roy and Roth 2015): 600 problems of two operations, 20 of them twice.

    Attributes:
        root: a folder with MultiArith.json; None for UNSPOKEN_DATA/multiarith or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
    """

    name: Literal["multiarith"] = "multiarith"
    hub: str | None = "ChilleD/MultiArith"


class MultiArith(SplitTask[MultiArithConfig]):
    """Problems of two operations and more (Roy and Roth 2015): a test set."""

    answers: ClassVar[str] = "number"

    def __init__(self, config: MultiArithConfig) -> None:
        source = DataSource.of(config, {"test": ("MultiArith.json",)}, hub_splits=_BOTH)
        splits = only_test(config, lambda split: source.examples(split, _multiarith_row), _ONLY_TEST)
        super().__init__(splits, score_number)


@config_class
class GsmHardConfig(EvaluationSetConfig):
    """GSM-Hard (Gao et al. 2022, PAL): GSM8K's test questions with one number made large.

    Attributes:
        root: a folder with gsmhardv2.jsonl; None for UNSPOKEN_DATA/gsm_hard or the hub.
        hub: a data set on the hub, used when there is no folder; None to never ask the network.
        changed_only: leave out the questions that are GSM8K's, unchanged.
    """

    name: Literal["gsm_hard"] = "gsm_hard"
    hub: str | None = "reasoning-machines/gsm-hard"
    changed_only: bool = False


class GsmHard(SplitTask[GsmHardConfig]):
    """GSM8K's test problems with large numbers (Gao et al. 2023): a test set."""

    def __init__(self, config: GsmHardConfig) -> None:
        self._source = DataSource.of(config, {"test": ("gsmhardv2.jsonl",)}, hub_splits=_BOTH)
        super().__init__(only_test(config, self._read, _ONLY_TEST), score_close)

    def _read(self, split: Split) -> list[Example]:
        rows = self._source.examples(split, _gsm_hard_row)
        return [row for row in rows if row.meta["changed"]] if self.config.changed_only else rows


def number_field(row: Mapping[str, object], field: str, where: str) -> str:
    """A field that must be a number, as plain digits."""
    value = row.get(field)
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(f"not a number: {value!r}")
        return plain_number(value)
    except ValueError as error:
        raise DataError(f"{where}: field '{field}' must be a number, got {value!r:.60} ({error})") from None


def _svamp_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    answer = number_field(row, "Answer", where)
    equation = text_field(row, "Equation", where)
    return {
        "question": f"{text_field(row, 'Body', where)} {text_field(row, 'Question', where)}",
        "steps": list(infix_steps(equation, answer)),
        "answer": answer,
        "id": row.get("ID"),
        "type": row.get("Type"),
        "equation": equation,
    }


def _csv_rows(path: Path) -> Iterator[RawRow]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    for row in reader:
        yield f"{path}:{reader.line_num}", row


def _mawps_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    numbers = text_field(row, "Numbers", where).split()

    def number(match: re.Match[str]) -> str:
        if int(match[1]) >= len(numbers):
            raise DataError(f"{where}: field 'Question' names number{match[1]}, and 'Numbers' has {len(numbers)}")
        return plain_number(numbers[int(match[1])])

    answer = number_field(row, "Answer", where)
    equation = text_field(row, "Equation", where)
    return {
        "question": re.sub(r"number(\d+)", number, text_field(row, "Question", where)),
        "steps": list(prefix_steps(equation, numbers, answer)),
        "answer": answer,
        "equation": equation,
    }


def _multiarith_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    if "sQuestion" not in row and "question" in row:  # the hub's columns: question, final_ans
        return {"question": text_field(row, "question", where), "answer": number_field(row, "final_ans", where)}
    question = text_field(row, "sQuestion", where)
    solutions, equations = row.get("lSolutions"), row.get("lEquations")
    if not isinstance(solutions, list) or len(solutions) != 1:
        raise DataError(f"{where}: field 'lSolutions' must be a list of one number, got {solutions!r:.60}")
    answer = number_field({"lSolutions": solutions[0]}, "lSolutions", where)
    equation = equations[0] if isinstance(equations, list) and equations and isinstance(equations[0], str) else ""
    steps = infix_steps(equation.partition("=")[2], answer)  # "X=((32.0+42.0)-35.0)"
    return {"question": question, "steps": list(steps), "answer": answer, "equation": equation}


def _gsm_hard_row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    question, code = text_field(row, "input", where), text_field(row, "code", where)
    original = re.search(r'"""(.*?)"""', code, re.DOTALL)
    same = original is not None and " ".join(original[1].split()) == " ".join(question.split())
    return {
        "question": question,
        "steps": [],
        "answer": number_field(row, "target", where),
        "changed": not same,
        "code": code,
    }


def _letters(question: str) -> str:
    return re.sub(r"[^a-z0-9]", "", question.casefold())
