"""Find an answer in text and compare it with the reference: pure functions, no model, no file.

Two rules, as in lm-evaluation-harness. *Strict*: the answer stands after the last answer mark. *Flexible*: the last
number of the text, wherever it stands. The paper's authors differ on this (Coconut compares strings after the last
`#`, CODI takes the last number), so a report quotes both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from unspoken.core.example import Example
from unspoken.tasks.base import Score

MARKS = ("####", "###", "The answer is:")
"""GSM8K's mark, Coconut's and CODI's. A mark inside a longer run of "#" is the same mark; of several, the last counts."""

SPECIAL = re.compile(r"</?s>|<(?:eos|bos|pad)>|<(?:start|end)_of_turn>|<\|[^|<>\n]*\|>")
"""Special tokens that a decoder may leave in text. They end an answer, and digits in their names are no numbers."""
_ANSWER_END = re.compile(rf"[\n\r]|{SPECIAL.pattern}")

# U+2212 stands in GSM8K itself; models also write the dashes that look like it.
_MINUS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"))

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
_CURRENCY = r"\\?[$€£¥]"  # "\$" is how LaTeX writes it
# "16-3" and "(4)-1" are subtractions: a sign counts only where no operand stands before it. ".5" counts as a number
# only where the point cannot end a sentence.
_FOUND = re.compile(
    rf"(?P<sign>(?<![\w)\]%])[-+])?(?:{_CURRENCY})?(?P<sign2>(?<=[$€£¥])[-+])?"
    rf"(?P<number>(?:{_DIGITS}|(?<![\w.])\.[0-9]+)(?:/[0-9]+(?:\.[0-9]+)?)*)"
)
_WHOLE = re.compile(rf"(?P<sign>[-+])?(?:{_CURRENCY})?(?P<sign2>[-+])?(?P<number>{_DIGITS}|\.[0-9]+)\.?(?: ?\\?%)?")


def extract_strict(text: str, marks: Sequence[str] = MARKS) -> str | None:
    """What follows the last answer mark, up to the end of the line or a special token. None: nothing there."""
    end = max((at + len(mark) for mark in marks if mark and (at := text.rfind(mark)) >= 0), default=None)
    if end is None:
        return None
    return _ANSWER_END.split(text[end:], maxsplit=1)[0].strip() or None


def extract_flexible(text: str) -> str | None:
    """The last number in the text, as digits: sign kept, "$", "%", thousands commas and a closing period dropped.

    A fraction such as "3/4" is returned whole and as text, so that an unfinished "48/2" is not read as 2.
    """
    plain = SPECIAL.sub(" ", text).translate(_MINUS).replace("{,}", ",")
    matches = list(_FOUND.finditer(plain))
    if not matches:
        return None
    last = matches[-1]
    minus = "-" in ((last["sign"] or "") + (last["sign2"] or ""))
    return ("-" if minus else "") + last["number"].replace(",", "")


def _tidy(text: str) -> str:
    """One kind of minus, of thousands comma and of white space, and no closing period."""
    tidy = " ".join(text.translate(_MINUS).replace("{,}", ",").split())
    return tidy.rstrip(" .") or tidy


def _decimal(text: str) -> Decimal | None:
    """The number that `text` is as a whole, or None. Exact for any length: Decimal does not round when it reads."""
    match = _WHOLE.fullmatch(_tidy(text))
    if match is None or (match["sign"] and match["sign2"]):
        return None
    sign = match["sign"] or match["sign2"] or ""
    return Decimal(sign + match["number"].replace(",", ""))


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

    `extracted` never looks at the reference, so that a vote over several texts may use it: what stands after the mark
    if that is a number, else the last number, else whatever stands after the mark.
    """
    marked, last = extract_strict(text), extract_flexible(text)
    strict = equal(marked, example.answer)
    is_number = marked is not None and _decimal(marked) is not None
    found = marked if marked is not None and (is_number or last is None) else last
    return Score(
        strict=strict,
        flexible=strict or equal(last, example.answer),
        extracted=None if found is None else normalise(found),
    )


def score_text(example: Example, text: str) -> Score:
    """Score an answer that is words. Strict: after the mark. Flexible: that, or the last line that has any text."""
    marked = extract_strict(text)
    lines = [line.strip() for line in SPECIAL.sub("\n", text).split("\n") if line.strip()]
    last = lines[-1] if lines else None
    strict = equal(marked, example.answer)
    return Score(strict=strict, flexible=strict or equal(last, example.answer), extracted=marked or last)
