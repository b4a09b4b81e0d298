"""Find an answer in text and compare it with the reference: pure functions, no model, no file.

Two rules, as in lm-evaluation-harness. *Strict*: the answer stands after the last answer mark, and nothing else does.
*Flexible*: the first number behind that mark, or the last number of the text, wherever it stands.
The papers' authors differ on this (Coconut compares strings after the last `#`, CODI takes the last number), so a report
quotes both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from unspoken.core.text.example import Example
from unspoken.tasks.base import Score
from unspoken.tasks.scoring.numerals import first_number, last_number, plain_fractions, plain_numerals, whole_number

MARKS = ("####", "###", "The answer is:")
"""GSM8K's mark, Coconut's and CODI's. A mark inside a longer run of "#" is the same mark; of several, the last counts."""

SPECIAL = re.compile(r"</?s>|<(?:eos|bos|pad)>|<(?:start|end)_of_turn>|<\|[^|<>\n]*\|>")
"""Special tokens that a decoder may leave in text. They end an answer, and digits in their names are no numbers."""
_CLAIM = re.compile(r"\banswer\b\W{0,3}(?:\s*is\b|[:=])[\s:*$]*", re.IGNORECASE)
"""What says that an answer follows, where a text has no mark: for the flexible rule alone."""
_ANSWER_END = re.compile(rf"[\n\r]|{SPECIAL.pattern}")


def extract_strict(text: str, marks: Sequence[str] = MARKS) -> str | None:
    """What follows the last answer mark, up to the end of the line or a special token. None: nothing there."""
    end = _marks_end(text, marks)
    if end < 0:
        return None
    return _ANSWER_END.split(text[end:], maxsplit=1)[0].strip() or None


def _marks_end(text: str, marks: Sequence[str] = MARKS) -> int:
    """Where the last mark of a text ends; -1 where there is none."""
    return max((at + len(mark) for mark in marks if mark and (at := text.rfind(mark)) >= 0), default=-1)


def extract_flexible(text: str) -> str | None:
    """The last number in the text, in digits of any script, as ASCII digits; see `numerals.last_number`."""
    return last_number(_plain(SPECIAL.sub(" ", text)))


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of a text that may be its answer.

    Attributes:
        marked: what stands after the last mark, be it a number or not.
        found: the answer: what stands after the mark if that is a number, else the first number behind the mark (or behind
            the last "answer:" or "answer is" of any spelling), else the last number of the text, else `marked`.
        last: the last number of the text; one that only explains the marked answer, on its line behind it, does not count.
    """

    marked: str | None
    found: str | None
    last: str | None


def numbers_in(text: str) -> Numbers:
    """Read a text for its answer. Never looks at a reference, so that a vote over several texts may use it."""
    marked = extract_strict(text)
    claims = [match.end() for match in _CLAIM.finditer(text)]
    for end in (_marks_end(text), claims[-1] if claims else -1):
        said = _ANSWER_END.split(text[end:], maxsplit=1)[0] if end >= 0 else ""
        first = first_number(_plain(said.strip()))
        if first is not None:
            found = said.strip() if _decimal(said) is not None else first
            return Numbers(marked=marked, found=found, last=extract_flexible(text[end + len(said) :]) or first)
    last = extract_flexible(text)
    return Numbers(marked=marked, found=last or marked, last=last)


def _plain(text: str) -> str:
    return plain_fractions(plain_numerals(text))


def _tidy(text: str) -> str:
    """One way to write digits, minus, thousands and white space, and no closing stop."""
    tidy = " ".join(_plain(text).split())
    return tidy.rstrip(" .\u3002\uff0e\uff61\u0964\u06d4") or tidy


def _decimal(text: str) -> Decimal | None:
    """The number that `text` is as a whole, or None."""
    return whole_number(_tidy(text))


def normalise(answer: str) -> str:
    """One spelling per answer: "$1,000.00" -> "1000", "+3." -> "3", "Tom is a  Lempus." -> "tom is a lempus"."""
    number = _decimal(answer)
    if number is None:
        return _tidy(answer).casefold()
    digits = f"{number:f}"
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if number == 0 else digits


def equal(a: str | None, b: str | None) -> bool:
    """Whether two answers are the same: as exact decimals if both are numbers, else as normalised text.

    Never raises. None (nothing was extracted) equals nothing. Nothing is computed: "3/4" is not "0.75", and "50%" is
    the "50" of a question that asks for per cent.
    """
    if a is None or b is None:
        return False
    number_a, number_b = _decimal(a), _decimal(b)
    if number_a is not None and number_b is not None:
        return number_a == number_b
    return normalise(a) == normalise(b)


def score_number(example: Example, text: str) -> Score:
    """Score by the strict rule and by the flexible one (right by the strict rule, or its last number is right).

    `extracted` never looks at the reference, so that a vote over several texts may use it: see `Numbers.found`.
    """
    read = numbers_in(text)
    strict = equal(read.marked, example.answer)
    return Score(
        strict=strict,
        flexible=strict or equal(read.found, example.answer) or equal(read.last, example.answer),
        extracted=None if read.found is None else normalise(read.found),
    )


def score_text(example: Example, text: str) -> Score:
    """Score an answer that is words. Strict: after the mark. Flexible: that, or the last line that has any text."""
    marked = extract_strict(text)
    lines = [line.strip() for line in SPECIAL.sub("\n", text).split("\n") if line.strip()]
    last = lines[-1] if lines else None
    strict = equal(marked, example.answer)
    return Score(strict=strict, flexible=strict or equal(last, example.answer), extracted=marked or last)
