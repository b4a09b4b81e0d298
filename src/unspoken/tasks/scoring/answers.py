"""Find an answer in text and compare it with the reference.

There are two rules, as in lm-evaluation-harness. *Strict*: the text after the last answer mark is the answer, and nothing
else. *Flexible*: the first number after that mark, or the last number of the text. Papers differ in this (Coconut compares
strings after the last `#`, CODI takes the last number), so reports give both.
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
"""Special tokens that may remain in decoded text. They end an answer, and digits in their names are ignored."""
_CLAIM = re.compile(r"\banswer\b\W{0,3}(?:\s*is\b|[:=])[\s:*$]*", re.IGNORECASE)
"""Phrases that announce an answer in a text without a mark, for the flexible rule only."""
_ANSWER_END = re.compile(rf"[\n\r]|{SPECIAL.pattern}")


def extract_strict(text: str, marks: Sequence[str] = MARKS) -> str | None:
    """The text after the last answer mark, up to the end of the line or a special token; None if there is none."""
    end = _marks_end(text, marks)
    if end < 0:
        return None
    return _ANSWER_END.split(text[end:], maxsplit=1)[0].strip() or None


def _marks_end(text: str, marks: Sequence[str] = MARKS) -> int:
    """The end of the last mark in a text; -1 if there is none."""
    return max((at + len(mark) for mark in marks if mark and (at := text.rfind(mark)) >= 0), default=-1)


def extract_flexible(text: str) -> str | None:
    """The last number in the text, in digits of any script, as ASCII digits; see `numerals.last_number`."""
    return last_number(_plain(SPECIAL.sub(" ", text)))


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers in a text that may be its answer.

    Attributes:
        marked: the text after the last mark, number or not.
        found: the answer: the text after the mark if it is a number, else the first number after the mark (or after the
            last "answer:" or "answer is"), else the last number of the text, else `marked`.
        last: the last number of the text, ignoring numbers after the marked answer on the same line, which explain it.
    """

    marked: str | None
    found: str | None
    last: str | None


def numbers_in(text: str) -> Numbers:
    """Find a text's answer without looking at the reference, so that it can be used in a vote."""
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
    """Normalise digits, minus, thousands separators and white space, and drop a closing stop."""
    tidy = " ".join(_plain(text).split())
    return tidy.rstrip(" .\u3002\uff0e\uff61\u0964\u06d4") or tidy


def _decimal(text: str) -> Decimal | None:
    """The number if the whole text is one, or None."""
    return whole_number(_tidy(text))


def normalise(answer: str) -> str:
    """Normalise an answer: "$1,000.00" -> "1000", "+3." -> "3", "Tom is a Lempus." -> "tom is a lempus"."""
    number = _decimal(answer)
    if number is None:
        return _tidy(answer).casefold()
    digits = f"{number:f}"
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if number == 0 else digits


def equal(a: str | None, b: str | None) -> bool:
    """Whether two answers are the same: as exact decimals if both are numbers, else as normalised text.

    Never raises. None (nothing extracted) equals nothing. Nothing is computed: "3/4" is not "0.75", and "50%" equals "50",
    for questions that ask for per cent.
    """
    if a is None or b is None:
        return False
    number_a, number_b = _decimal(a), _decimal(b)
    if number_a is not None and number_b is not None:
        return number_a == number_b
    return normalise(a) == normalise(b)


def score_number(example: Example, text: str) -> Score:
    """Score by the strict rule and by the flexible one (right by the strict rule, or its last number is right).

    `extracted` does not depend on the reference, so that it can be used in a vote; see `Numbers.found`.
    """
    read = numbers_in(text)
    strict = equal(read.marked, example.answer)
    return Score(
        strict=strict,
        flexible=strict or equal(read.found, example.answer) or equal(read.last, example.answer),
        extracted=None if read.found is None else normalise(read.found),
    )


def score_text(example: Example, text: str) -> Score:
    """Score a textual answer. Strict: after the mark. Flexible: that, or the last non-empty line."""
    marked = extract_strict(text)
    lines = [line.strip() for line in SPECIAL.sub("\n", text).split("\n") if line.strip()]
    last = lines[-1] if lines else None
    strict = equal(marked, example.answer)
    return Score(strict=strict, flexible=strict or equal(last, example.answer), extracted=marked or last)
