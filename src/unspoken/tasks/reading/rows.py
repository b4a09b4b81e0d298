"""Check rows (mappings with `question`, `answer` and reasoning) and turn them into examples; the last stage of every
reader."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from hashlib import sha256

from unspoken.core.text.example import Example
from unspoken.errors import DataError, did_you_mean
from unspoken.tasks.base import SPLITS, Split
from unspoken.tasks.reading.equations import plain_number
from unspoken.tasks.reading.segment import StepRule, natural, split_steps
from unspoken.tasks.reading.traces import holds_trace, split_reasoning, untagged

RawRow = tuple[str, object]  # where it stands ("data.jsonl:3"), and its value, unchecked

REASONING = (
    "steps", "cot", "reasoning", "reasoning_content", "reasoning_steps", "chain_of_thought", "rationale", "thinking",
    "thought", "thoughts", "reasoning_trace", "trace", "scratchpad", "explanation", "solution",
)  # fmt: skip
"""Names of the field with the reasoning, preferred first; compared without case, "-", spaces and "_"."""

_CONVERTED = ("steps", "cot", "reasoning")  # what a task's own converter gives; its other fields are what it says they are
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # valid in JSON, but not encodable
_MOST_DIGITS = 4300  # as Python itself allows for integers


class Number(float):
    """A number with its digits as written in the file, so that 0.1 and 1e400 are exact."""

    __slots__ = ("literal",)

    def __new__(cls, literal: str) -> Number:
        self = super().__new__(cls, literal)
        self.literal = literal
        return self


def examples_of(
    rows: Iterable[RawRow], *, split: Split, steps: StepRule, source: object, names: Sequence[str] = REASONING,
    advice: Callable[[object], str] = lambda row: "",
) -> list[Example]:  # fmt: skip
    """Check rows and convert them to examples.

    Args:
        rows: the rows, unchecked.
        split: their split, which becomes part of their ids.
        steps: the rule that splits reasoning that is one text.
        source: where they come from, for messages about all of them.
        names: the fields that may hold reasoning, preferred first.
        advice: the end of a message about a row without question or answer: what to try.

    Raises:
        DataError: a row is unusable (names its place and field), there are no rows, or the rule finds no step in any.
    """
    found: list[Example] = []
    had_reasoning = False
    for example, reasoning in checked(rows, split=split, steps=steps, names=names, advice=advice):
        had_reasoning = had_reasoning or reasoning
        found.append(example)
    if not found:
        raise DataError(f"{source}: is empty; expected at least one row")
    if had_reasoning and not any(example.steps for example in found):
        raise no_steps(source, steps)
    return found


def checked(
    rows: Iterable[RawRow], *, split: Split, steps: StepRule, names: Sequence[str] = REASONING,
    advice: Callable[[object], str] = lambda row: "",
) -> Iterator[tuple[Example, bool]]:  # fmt: skip
    """Check and convert rows one by one, see `examples_of`; with each, whether it had reasoning that is one text."""
    for number, (where, row) in enumerate(rows):
        example, reasoning = _example(row, where, f"{split}-{number}", steps, names, advice)
        yield example, bool(reasoning)


def no_steps(source: object, steps: StepRule) -> DataError:
    """The error about rows with reasoning in none of which the rule finds a step.

    Some rows without a marker are normal (95 in GSM8K); if no row has one, the rule does not fit the data.
    """
    if steps == "markers":
        return DataError(f"{source}: no row has a <<...>> marker, so all 'steps' are empty; try steps=lines or sentences")
    return DataError(f"{source}: no row has a step by the rule {steps!r}; try steps=lines or sentences")


def converted_examples(rows: Iterable[RawRow], *, split: Split, steps: StepRule, source: object) -> list[Example]:
    """`examples_of` for rows that a task has converted: what they call `solution` or `explanation` is no reasoning."""
    return examples_of(rows, split=split, steps=steps, source=source, names=_CONVERTED)


def _example(
    row: object, where: str, id: str, rule: StepRule, names: Sequence[str], advice: Callable[[object], str]
) -> tuple[Example, str]:
    """One checked example, and the reasoning text that its steps were split from ("" if they came as a list)."""
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where}: a row must be an object with 'question' and 'answer', got {type(row).__name__}{advice(row)}"
        )
    if missing := [name for name in ("question", "answer") if row.get(name) is None]:
        if missing[0] in row:
            raise DataError(f"{where}: field '{missing[0]}' is null; give it a text, or leave the row out")
        there = ", ".join(map(str, row)) or "nothing"
        raise DataError(f"{where}: field '{missing[0]}' is missing; the row has: {there}{advice(row)}")
    question = text_field(row, "question", where)
    body, answer = _body_and_answer(text_field(row, "answer", where), where)
    key = reasoning_field(row, names)
    if key is None and not body:
        _refuse_misspelt(row, names, where)
    value = row[key] if key is not None else body
    reasoning = ""
    if isinstance(value, str) and not (key is not None and _plain(key) == "steps"):
        reasoning = untagged(_clean(value, key or "answer", where))
        steps = split_steps(natural(reasoning, rule), rule)
    elif isinstance(value, (list, tuple)) and all(isinstance(step, str) for step in value):
        steps = tuple(text for step in value if (text := _clean(step, str(key), where)))
    else:
        kind = "a list of strings" if _plain(str(key)) == "steps" else "a string or a list of strings"
        raise DataError(f"{where}: field '{key}' must be {kind}, got {value!r:.60}")
    meta = {k: v for k, v in row.items() if k not in ("question", "answer", "steps", key)}
    return Example(question=question, steps=steps, answer=answer, id=id, meta=meta), reasoning


def _body_and_answer(text: str, where: str) -> tuple[str, str]:
    """Split a field 'answer' into reasoning and answer: GSM8K's "text ... #### 18", or a <think> trace."""
    if holds_trace(text):
        body, answer = split_reasoning(text)
        if answer is None:
            raise DataError(f"{where}: field 'answer' is a trace of thoughts that never ends in an answer; drop the row")
        return body, answer
    body, mark, last = text.rpartition("####")
    if not mark:
        return "", text
    answer = last.strip().partition("\n")[0].strip()  # MetaMath says "The answer is: 18" in a line of its own behind it
    if not answer:
        raise DataError(f"{where}: field 'answer' has nothing after '####'")
    return body.strip(), answer


def reasoning_field(row: Mapping[str, object], names: Sequence[str] = REASONING) -> str | None:
    """The name of the field with a row's reasoning; an empty one only if no other has any."""
    there = {_plain(key): key for key in row if isinstance(key, str) and row[key] is not None}
    found = [there[_plain(name)] for name in names if _plain(name) in there]
    return next((key for key in found if row[key]), found[0] if found else None)


@functools.lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _refuse_misspelt(row: Mapping[str, object], names: Sequence[str], where: str) -> None:
    """Raise DataError for a misspelt field such as "stepz", which would look like a row without reasoning."""
    for name in row:
        if name not in names and difflib.get_close_matches(str(name), names, n=1, cutoff=0.8):
            raise DataError(f"{where}: field {name!r} is not read; {did_you_mean(str(name), names)}")


def text_field(row: Mapping[str, object], field: str, where: str, may_be_empty: bool = False) -> str:
    """A field of a row as stripped text. Raises DataError with the place and the field."""
    value = row.get(field)
    if value is None:
        there = ", ".join(map(str, row)) or "nothing"
        raise DataError(f"{where}: field '{field}' is missing; the row has: {there}")
    # {"answer": 18} is common and has one reading; a question or a rationale that is a number is a mistake.
    if field == "answer" and isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        value = _number_text(value, where)
    if not isinstance(value, str):
        raise DataError(f"{where}: field '{field}' must be a string, got {type(value).__name__} ({value!r:.60})")
    value = _clean(value, field, where)
    if not value and not may_be_empty:
        raise DataError(f"{where}: field '{field}' is empty; give some text or drop the row")
    return value


def _number_text(value: int | float | Decimal, where: str) -> str:
    """A number as plain digits: 0.00001 instead of 1e-05, which answer rules do not read and models do not write."""
    if isinstance(value, int):
        return str(value)  # JSON of more than 4,300 digits is refused where it is read
    number = (
        Decimal(value.literal) if isinstance(value, Number) else Decimal(repr(value)) if isinstance(value, float) else value
    )
    if not number.is_finite():
        raise DataError(f"{where}: field 'answer' must be a string, got float ({value!r}), which is no finite number")
    if number and (abs(number.adjusted()) > _MOST_DIGITS or len(number.as_tuple().digits) > _MOST_DIGITS):
        raise DataError(f"{where}: field 'answer' is a number of more than {_MOST_DIGITS:,} digits; write it as a string")
    return plain_number(str(number))


def _clean(value: str, field: str, where: str) -> str:
    if _HALF_PAIR.search(value):
        raise DataError(f"{where}: field '{field}' holds half of a surrogate pair, which is not text")
    return value.strip()


def question_key(question: str) -> str:
    """The key of a question: its text without white space, case and differences between Unicode forms of a character.

    Full-width letters and stops equal narrow ones, composed accents equal combining ones, curly quotes and long dashes equal
    plain ones; invisible characters are left out. "5\u00b2" is not "52".
    """
    if not question.isascii():
        question = unicodedata.normalize("NFC", question).translate(_ONE_FORM)
    return " ".join(question.split()).casefold()


class _OneForm(dict[int, str]):
    """A table for `str.translate` that is filled on demand."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        if unicodedata.category(sign) == "Cf":
            form = ""
        elif unicodedata.decomposition(sign).startswith(("<wide>", "<narrow>", "<compat>", "<noBreak>")):
            form = unicodedata.normalize("NFKC", sign)
        else:
            form = _ALIKE.get(sign, sign)
        self[code] = form
        return form


_ALIKE = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
    "\u3002": ".",
    "\u3001": ",",
}
_ONE_FORM = _OneForm()


def carve(rows: Sequence[Example], fraction: float, split: Split, test: float = 0.0) -> list[Example]:
    """The part of rows that a split gets, chosen by a hash of the question, so equal questions are in one part.

    Args:
        rows: rows of one file.
        fraction: the share that validation gets.
        split: whose part it is.
        test: the share that test gets.
    """

    wordings: dict[str, str] = {}  # question key -> the wording met first

    def side(example: Example) -> Split:
        written = " ".join(example.question.split()).casefold()
        digest = sha256(wordings.setdefault(question_key(example.question), written).encode("utf-8")).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        return "validation" if share < fraction else "test" if share >= 1 - test else "train"

    found = [example for example in rows if side(example) == split]
    if not found:
        shares = f"validation_fraction={fraction}" + (f" and test_fraction={test}" if test else "")
        raise DataError(f"{shares} of {len(rows)} rows leaves no {split} row; change it")
    return found


def check_split(split: str) -> None:
    """Raise DataError for an unknown split."""
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; {did_you_mean(str(split), SPLITS)}")
