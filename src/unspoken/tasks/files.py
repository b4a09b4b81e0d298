"""Any JSONL, JSON, iCoT text or GSM8K file as a task, and the readers that other tasks use.

A row is a mapping with `question`, `answer` and, for its reasoning, one of: `steps` (a list of strings); `cot` or
`reasoning` (one text, split by the config's `steps` rule); or an `answer` as in GSM8K, "text ... #### 18". Calculator
annotations `<<48/2=24>>` are what the rule "markers" takes, and "annotated" keeps; the other rules drop them from natural
text. Other keys go to `meta`. Rows of MATH, of HotpotQA and of chats are read by their `style`. The iCoT text format is one
row a line: `question||<<a+b=c>> <<..>> #### answer`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

from unspoken.core.config import STRICT
from unspoken.core.example import Example
from unspoken.errors import ConfigError, DataError, did_you_mean
from unspoken.tasks.answers import score_number, score_text
from unspoken.tasks.base import SPLITS, Score, Split, fingerprint_examples
from unspoken.tasks.segment import Rule, natural, split_steps
from unspoken.tasks.styles import Style, restyled

Format = Literal["auto", "jsonl", "json", "txt"]
Row = tuple[str, Any]  # where it stands ("data.jsonl:3"), and its value, unchecked
_REASONING = ("steps", "cot", "reasoning")  # where a row may have it
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can say this, no tokenizer can read it


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """A task made of up to three files.

    Attributes:
        train, validation, test: paths; None for a split that there is not.
        format: "auto" goes by the suffix (.jsonl, .json, .txt), then by the first character.
        style: which data set the rows look like, see `tasks/styles.py`.
        steps: how to split reasoning that a row gives as one text; rows with `steps` are not touched.
        limit: use the first rows of each split only.
        validation_fraction: carve this share of train out as validation, by a hash of the question, so that a row
            stays on its side when others come or go. Only without a validation file.
        answer: "number" compares as decimals, "text" as words.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: Literal["files"] = "files"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    format: Format = "auto"
    style: Style = "plain"
    steps: Rule = "markers"
    limit: int | None = None
    validation_fraction: float = 0.0
    answer: Literal["number", "text"] = "number"

    def __post_init__(self) -> None:
        check_ranges(self, "limit")
        if self.validation is not None and self.validation_fraction:
            raise ConfigError("set either 'validation' (a file) or 'validation_fraction' (a share of train), not both")


class Files:
    """Your own rows; see the module's docstring for what a row looks like."""

    name: ClassVar[str] = "files"
    Config: ClassVar[type[FilesConfig]] = FilesConfig

    def __init__(self, config: FilesConfig) -> None:
        self.config = config
        self._cache: dict[Split, list[Example]] = {}
        never = "the test split must not be used for selection or training"
        pairs = (
            ("train", "test", never),
            ("validation", "test", never),
            ("validation", "train", "splits are disjoint"),
        )
        for split, other, rule in pairs:
            path, same = getattr(config, split), getattr(config, other)
            if _same_content(path, same):
                raise DataError(f"{path}: given as {split}, but it is the {other} file ({same}); {rule}: give another file")

    def examples(self, split: Split) -> list[Example]:
        """All examples of a split, in file order. Read once; the list is the caller's own."""
        check_split(split)
        if split not in self._cache:
            self._cache[split] = self._read(split)[: self.config.limit]
        return list(self._cache[split])

    def score(self, example: Example, text: str) -> Score:
        """Strict and flexible score, by the config's kind of answer."""
        return (score_number if self.config.answer == "number" else score_text)(example, text)

    def fingerprint(self, split: Split) -> str:
        """16 hex digits that change when an example of the split does."""
        return fingerprint_examples(self.examples(split))

    def _read(self, split: Split) -> list[Example]:
        config = self.config
        carved = split != "test" and config.validation_fraction > 0 and config.train is not None
        path = config.train if carved else getattr(config, split)
        if path is None:
            hint = " or validation_fraction" if split == "validation" else ""
            raise DataError(f"task 'files' has no {split} split; set {split}=PATH{hint}")
        source: Split = "train" if carved else split
        rows = read_examples(path, split=source, steps=config.steps, format=config.format, style=config.style)
        return carve(rows, config.validation_fraction, split) if carved else rows


def read_examples(
    path: str | Path, *, split: Split, steps: Rule = "markers", format: Format = "auto", style: Style = "plain"
) -> list[Example]:
    """The examples of one file. Ids are "<split>-<row>", counted from 0 over the rows that are not blank.

    Raises:
        DataError: the file or a row cannot be used; names the file, the line (or the item of a JSON list), the field.
    """
    rows = ((where, restyled(row, where, style)) for where, row in read_rows(path, format))
    return examples_of(rows, split=split, steps=steps, source=path)


def read_rows(path: str | Path, format: Format = "auto") -> Iterator[Row]:
    """The rows of one file, unchecked, each with where it stands. For tasks whose rows have fields of their own.

    Raises:
        DataError: the file cannot be read or parsed.
    """
    text = read_text(path)
    return _READERS[_format_of(path, text, format)](str(path), text)


def listed_rows(path: str | Path, field: str = "examples") -> Iterator[Row]:
    """The rows of a file that is one JSON object with a list of them, as BIG-bench's task files are, unchecked.

    Raises:
        DataError: the file cannot be read or parsed, or has no such list.
    """
    whole = _parse(read_text(path), str(path), 1, f"one object with a list '{field}'")
    rows = whole.get(field) if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path}:1: must be an object with a list '{field}', got {type(whole).__name__}")
    return ((f"{path}: item {index}", row) for index, row in enumerate(rows))


def examples_of(rows: Iterable[Row], *, split: Split, steps: Rule, source: object) -> list[Example]:
    """Check rows and make examples of them. `source` names where they come from, for messages about all of them."""
    found: list[Example] = []
    had_reasoning = False
    for where, row in rows:
        example, reasoning = _example(row, where, f"{split}-{len(found)}", steps)
        had_reasoning = had_reasoning or bool(reasoning)
        found.append(example)
    if not found:
        raise DataError(f"{source}: is empty; expected at least one row")
    # One row without a marker is normal (95 of GSM8K's); all rows without one is a rule that does not fit the data.
    if had_reasoning and steps == "markers" and not any(example.steps for example in found):
        raise DataError(f"{source}: no row has a <<...>> marker, so all 'steps' are empty; try steps=lines or sentences")
    if had_reasoning and not any(example.steps for example in found):
        raise DataError(f"{source}: no row has a step by the rule {steps!r}; try steps=lines or sentences")
    return found


def _example(row: Any, where: str, id: str, rule: Rule) -> tuple[Example, str]:
    """One checked example, and the reasoning text that its steps were split from ("" if they came as a list)."""
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a row must be an object with 'question' and 'answer', got {type(row).__name__}")
    question = text_field(row, "question", where)
    answer = text_field(row, "answer", where)
    body, mark, last = answer.rpartition("####")
    if mark:
        answer = last.strip()
        if not answer:
            raise DataError(f"{where}: field 'answer' has nothing after '####'")
    key = next((k for k in _REASONING if row.get(k) is not None), None)
    if key is None and not mark:
        for name in row:  # "stepz" would pass for a row without reasoning
            if name not in _REASONING and difflib.get_close_matches(str(name), _REASONING, n=1, cutoff=0.75):
                raise DataError(f"{where}: field {name!r} is not read; {did_you_mean(str(name), _REASONING)}")
    if key == "steps":
        reasoning, value = "", row["steps"]
        if not isinstance(value, (list, tuple)) or not all(isinstance(step, str) for step in value):
            raise DataError(f"{where}: field 'steps' must be a list of strings, got {value!r:.60}")
        steps = tuple(text for step in value if (text := _clean(step, "steps", where)))
    else:
        reasoning = text_field(row, key, where, may_be_empty=True) if key else body.strip()
        steps = split_steps(natural(reasoning, rule), rule)
    meta = {k: v for k, v in row.items() if k not in ("question", "answer", "steps", key)}
    return Example(question=question, steps=steps, answer=answer, id=id, meta=meta), reasoning


def text_field(row: Mapping[str, Any], field: str, where: str, may_be_empty: bool = False) -> str:
    """A field of a row as stripped text. Raises DataError that names the place and the field."""
    value = row.get(field)
    if value is None:
        raise DataError(f"{where}: field '{field}' is missing; the row has: {', '.join(map(str, row)) or 'nothing'}")
    # {"answer": 18} is common and has one reading; a question or a rationale that is a number is a mistake.
    if field == "answer" and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: field '{field}' must be a string, got {type(value).__name__} ({value!r:.60})")
    value = _clean(value, field, where)
    if not value and not may_be_empty:
        raise DataError(f"{where}: field '{field}' is empty; give some text or drop the row")
    return value


def _clean(value: str, field: str, where: str) -> str:
    if _HALF_PAIR.search(value):
        raise DataError(f"{where}: field '{field}' holds half of a surrogate pair, which is not text")
    return value.strip()


def read_text(path: str | Path) -> str:
    """A UTF-8 file. Raises DataError that says why it cannot be used: missing, a folder, empty, a Git LFS pointer."""
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give a file") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; looked from {Path.cwd()}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    try:
        text = data.decode("utf-8-sig")  # accepts a byte order mark, and none
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise DataError(f"{path}:{line}: is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None
    if not text.strip():
        raise DataError(f"{path}: is empty; expected at least one row")
    if text.startswith("version https://git-lfs"):
        raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` where it came from")
    return text


def _format_of(path: str | Path, text: str, format: Format) -> Literal["jsonl", "json", "txt"]:
    if format != "auto":
        return format
    suffix, first = Path(path).suffix.lower(), text.lstrip()[:1]
    if suffix in (".jsonl", ".ndjson") or (suffix != ".txt" and first == "{"):
        return "jsonl"
    return "json" if suffix == ".json" or (suffix != ".txt" and first == "[") else "txt"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not `splitlines`: GSM8K-Aug has rows with U+2028 inside.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _parse(text: str, path: str, first_line: int, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # Recursion: brackets nested very deep
        line = first_line + getattr(error, "lineno", 1) - 1
        problem = str(error).split(": line ")[0]
        raise DataError(f"{path}:{line}: invalid JSON ({problem}); expected {expected}") from None


def _rows_jsonl(path: str, text: str) -> Iterator[Row]:
    for number, line in _lines(text):
        yield f"{path}:{number}", _parse(line, path, number, "one object a line")


def _rows_json(path: str, text: str) -> Iterator[Row]:
    rows = _parse(text, path, 1, "a list of rows")
    if not isinstance(rows, list):
        raise DataError(f"{path}:1: must be a list of rows, got {type(rows).__name__}; for one object a line: format=jsonl")
    return ((f"{path}: item {index}", row) for index, row in enumerate(rows))


def _rows_txt(path: str, text: str) -> Iterator[Row]:
    for number, line in _lines(text):
        where = f"{path}:{number}"
        question, bars, rest = line.partition("||")
        if not bars:
            raise DataError(f"{where}: no '||' after the field 'question'; expected question||steps #### answer")
        steps, mark, answer = rest.rpartition("####")
        if not mark:
            raise DataError(f"{where}: no '####' before the field 'answer'; expected question||steps #### answer")
        yield where, {"question": question, "cot": steps, "answer": answer}


_READERS: dict[str, Callable[[str, str], Iterator[Row]]] = {"jsonl": _rows_jsonl, "json": _rows_json, "txt": _rows_txt}


def question_key(question: str) -> str:
    """What makes two questions the same: white space and case do not count."""
    return " ".join(question.split()).casefold()


def carve(rows: list[Example], fraction: float, split: Split) -> list[Example]:
    """The train or validation side of rows, drawn by a hash of the question: equal questions fall on one side."""

    def share(example: Example) -> float:
        digest = sha256(question_key(example.question).encode("utf-8")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    side = [example for example in rows if (share(example) < fraction) == (split == "validation")]
    if not side:
        raise DataError(f"validation_fraction={fraction} of {len(rows)} rows leaves no {split} row; change it")
    return side


def check_split(split: str) -> None:
    """Raises DataError for a split that no task has."""
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; {did_you_mean(str(split), SPLITS)}")


def check_ranges(config: Any, *limits: str) -> None:
    """Raises ConfigError where a limit is below 1, or `validation_fraction` is not in [0, 1)."""
    for field in limits:
        value = getattr(config, field)
        if value is not None and value < 1:
            raise ConfigError(f"field '{field}' must be 1 or more, or null for all rows, got {value}")
    fraction = getattr(config, "validation_fraction", 0.0)
    if not 0 <= fraction < 1:
        raise ConfigError(f"field 'validation_fraction' must be at least 0 and below 1, got {fraction}")


def _same_content(a: str | None, b: str | None) -> bool:
    """Whether two paths lead to one file or to equal bytes. A file that is not there is reported when it is read."""
    if a is None or b is None:
        return False
    one, two = Path(a).expanduser(), Path(b).expanduser()
    if one.resolve() == two.resolve():
        return True
    if not (one.is_file() and two.is_file()) or one.stat().st_size != two.stat().st_size:
        return False
    return sha256(one.read_bytes()).digest() == sha256(two.read_bytes()).digest()
