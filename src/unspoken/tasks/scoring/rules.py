"""Scoring rules of single tasks: yes or no, dates, digits in a row, numbers of any size.

Each `score_...` function has two rules, like `answers.score_number`. *Strict*: the text after the last mark
(`answers.MARKS`) is the answer in the task's own form, and nothing else. *Flexible*: the last such answer in the text.
`extracted` does not depend on the reference, so it can be used in a vote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation

from unspoken.core.text.example import Example
from unspoken.tasks.base import Score
from unspoken.tasks.scoring.answers import SPECIAL, extract_strict, normalise, numbers_in
from unspoken.tasks.scoring.numerals import plain_numerals

_MARKUP = re.compile(r"[*_`$]+|\\boxed|\\text(?:bf)?|[{}]")
_EDGES = " \t.,;:!?\"'()[]“”‘’"


def bare(text: str) -> str:
    """Text without special tokens and without Markdown and LaTeX around an answer."""
    return _MARKUP.sub("", SPECIAL.sub("\n", text))


def trimmed(text: str) -> str:
    """`bare` text without the punctuation and white space around it."""
    return bare(text).strip().strip(_EDGES)


# Yes or no

_TRUTH = {"yes": True, "true": True, "no": False, "false": False}
_VERDICT = re.compile(r"(?<!\w)(?<!\w')(?P<not>not\s+)?(?P<word>yes|no|true|false)(?!\w|'\w)", re.IGNORECASE)
_EITHER = re.compile(r"\b(?:yes\s+or\s+no|true\s+or\s+false)\b", re.IGNORECASE)
_GOES_ON = re.compile(r"[ \t]+[\w'\"“(]")


def read_verdict(text: str, also: Mapping[str, bool] | None = None) -> bool | None:
    """The last yes or no of a text (true and false are the same), or None.

    A verdict at the end of a phrase is preferred to one that continues ("no reason", "true love"), which counts only at the
    start of a sentence. "Not true" is no. "Yes or no" is a question and is skipped.

    Args:
        text: what was written.
        also: other words for yes or no, used if the text has neither: {"heads": True, "tails": False}.
    """
    plain = _EITHER.sub(" ", bare(text))
    closing: bool | None = None
    opening: bool | None = None
    for match in _VERDICT.finditer(plain):
        verdict = _TRUTH[match["word"].lower()] is not bool(match["not"])
        if not _GOES_ON.match(plain, match.end()):
            closing = verdict
        elif re.search(r"(?:^|[.!?:\n])\s*$", plain[: match.start()]):
            opening = verdict
    found = opening if closing is None else closing
    if found is None and also:
        words = re.findall(rf"\b(?:{'|'.join(map(re.escape, also))})\b", plain.lower())
        found = also[words[-1]] if words else None
    return found


def score_verdict(
    example: Example, text: str, words: tuple[str, str] = ("yes", "no"), also: Mapping[str, bool] | None = None
) -> Score:
    """Score a yes or no. Strict: one such word after the mark. Flexible: `read_verdict` after the mark, else anywhere.

    Args:
        example: its answer is one of the four words.
        text: what was written.
        words: the words for yes and no in `extracted`.
        also: see `read_verdict`.
    """
    gold = _TRUTH[example.answer.lower()]
    marked = extract_strict(text)
    strict = marked is not None and _TRUTH.get(trimmed(marked).lower()) is gold
    found = read_verdict(marked, also) if marked is not None else None
    if found is None:
        found = read_verdict(text, also)
    return Score(strict=strict, flexible=found is gold, extracted=None if found is None else words[0 if found else 1])


def score_coin(example: Example, text: str) -> Score:
    """Score whether a coin is heads up: `score_verdict`, where "heads" and "tails" are a flexible yes and no."""
    return score_verdict(example, text, also={"heads": True, "tails": False})


def score_truth(example: Example, text: str) -> Score:
    """Score a true or false (yes and no are the same): see `score_verdict`."""
    return score_verdict(example, text, ("True", "False"))


# Dates

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<{{}}>{'|'.join(_MONTHS)})[a-z]*\.?"
_DATE = re.compile(
    r"(?<![\w/-])(?:"
    r"(?P<m1>\d{1,2})(?P<cut>[/-])(?P<d1>\d{1,2})(?P=cut)(?P<y1>\d{4})"  # 05/01/2021
    r"|(?P<y2>\d{4})-(?P<m2>\d{1,2})-(?P<d2>\d{1,2})"  # 2021-05-01
    rf"|{_MONTH.format('m3')}\s+(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y3>\d{{4}})"  # May 1st, 2021
    rf"|(?P<d4>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH.format('m4')},?\s+(?P<y4>\d{{4}})"  # 1 May 2021
    r")(?![\w/-])",
    re.IGNORECASE,
)


def read_dates(text: str) -> list[date]:
    """The dates of a text in order: MM/DD/YYYY (zeros may be missing), YYYY-MM-DD, "May 1, 2021", "1 May 2021"."""
    found: list[date] = []
    for match in _DATE.finditer(bare(text)):
        kind = next(kind for kind in "1234" if match[f"y{kind}"])
        month = match[f"m{kind}"]
        number = int(month) if month.isdigit() else 1 + _MONTHS.index(month.lower())
        try:
            found.append(date(int(match[f"y{kind}"]), number, int(match[f"d{kind}"])))
        except ValueError:  # 13/45/2020
            continue
    return found


def date_text(day: date) -> str:
    """MM/DD/YYYY."""
    return f"{day.month:02d}/{day.day:02d}/{day.year:04d}"


def score_date(example: Example, text: str) -> Score:
    """Score a date, compared as a date. Strict: MM/DD/YYYY alone after the mark. Flexible: the last date, in words too."""
    (gold,) = read_dates(example.answer)
    marked = extract_strict(text)
    whole = trimmed(marked) if marked is not None else ""
    strict = re.fullmatch(r"\d{1,2}/\d{1,2}/\d{4}", whole) is not None and read_dates(whole) == [gold]
    dates = (read_dates(marked) if marked is not None else []) or read_dates(text)
    return Score(
        strict=strict, flexible=bool(dates) and dates[-1] == gold, extracted=date_text(dates[-1]) if dates else None
    )


# Digits in a row, least significant first

_DIGITS = re.compile(r"\d(?:[ \t]*\d)*")


def read_digits(text: str) -> str | None:
    """A text of digits only, as "3 2 1", without zeros at the end, where the most significant digits are; else None."""
    joined = "".join(text.split())
    if not re.fullmatch("[0-9]+", joined):
        return None
    return " ".join(joined.rstrip("0") or "0")


def score_digits(example: Example, text: str) -> Score:
    """Score a number written with its least significant digit first. Spaces and zeros at the end are ignored.

    Strict: only digits after the mark. Flexible: the last run of digits in the text.
    """
    gold = read_digits(plain_numerals(example.answer))
    text = plain_numerals(text)
    plain = SPECIAL.sub("\n", text)
    marked = extract_strict(text)
    exact = read_digits(marked) if marked is not None else None
    runs = _DIGITS.findall(plain)
    last = read_digits(runs[-1]) if runs else None
    found = last if exact is None else exact
    return Score(strict=exact is not None and exact == gold, flexible=found is not None and found == gold, extracted=found)


# Numbers of any size

TOLERANCE = Decimal("1e-6")
"""Relative: targets such as 3244047.0999999996 and 14053029.666666666 are sums in floats. Ours; PAL takes 1e-3 absolute,
which calls every answer below it right."""

_SCIENTIFIC = re.compile(
    r"(?P<digits>\d+(?:\.\d+)?|\.\d+)\s*(?:[eE]|(?:×|x|\*|\\times|\\cdot)\s*10\s*\^\s*\{?\s*)(?P<power>[-+−]?\d{1,3})\b\}?"
)


def _plain_powers(text: str) -> str:
    """ "1.5e9", "1.5 × 10^9" and "1.5 \\times 10^{9}" as 1500000000."""
    return _SCIENTIFIC.sub(lambda m: f"{Decimal(m['digits']).scaleb(int(m['power'].replace('−', '-'))):f}", text)


def close(a: str | None, b: str) -> bool:
    """Whether two numbers differ by at most `TOLERANCE` of `b`. False for None and for text that is not a number."""
    try:
        first, second = Decimal(normalise(a or "")), Decimal(normalise(b))
        return abs(first - second) <= TOLERANCE * abs(second)
    except InvalidOperation:
        return False


def score_close(example: Example, text: str) -> Score:
    """Score a number with `TOLERANCE`. Strict: the number after the mark. Flexible: that, else the last number."""
    read = numbers_in(_plain_powers(plain_numerals(text)))
    strict = close(read.marked, example.answer)
    return Score(
        strict=strict,
        flexible=strict or close(read.found, example.answer),
        extracted=None if read.found is None else normalise(read.found),
    )
