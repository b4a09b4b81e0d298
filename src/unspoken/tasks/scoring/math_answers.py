"""Answers as in MATH (Hendrycks et al. 2021): LaTeX in a box, compared after the usual normalisation.

What is the same: \\dfrac, \\tfrac and \\frac, with or without braces; \\left and \\right; spaces of any width; a degree
sign, a unit or none; \\text{...} and its words; x = 5 and 5; .5, 0.5 and \\frac{1}{2}; a closing stop. Nothing else is
computed.
"""

from __future__ import annotations

import re

from unspoken.core.text.example import Example
from unspoken.tasks.base import Score
from unspoken.tasks.reading.styles import boxed
from unspoken.tasks.scoring.answers import MARKS, SPECIAL, extract_strict, numbers_in
from unspoken.tasks.scoring.numerals import plain_numerals, whole_number

_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_INLINE = re.compile(r"\$([^$\n]+)\$|\\\(([^\n]+?)\\\)")
_NUMBER = r"-?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_UNIT = re.compile(
    rf"(?P<number>{_NUMBER}|\}}|\\pi)\s*\\(?:text(?:bf|it|rm)?|mathrm|mbox)\s*\{{[^{{}}]*\}}(?:\^\{{?[0-9]\}}?)?\Z"
)
_PLAIN_UNIT = re.compile(rf"(?P<number>{_NUMBER})\s+[A-Za-z]{{2,}}(?:\s+[A-Za-z]+)*(?:\^\{{?[0-9]\}}?)?\Z")
_SPACES = re.compile(r"\\[,;:> ]|\\q?quad\b|~|\\hspace\{[^{}]*\}")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])\.?")
_DEGREES = re.compile(r"\^\s*\{?\s*(?:\\circ|\\degree)\s*\}?|\\degree\b|\u00b0")
_NAMES = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\leq(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\geq(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne"),
    (re.compile("\u03c0"), r"\\pi "),
    (re.compile("\u221e"), r"\\infty "),
    (re.compile("\u221a"), r"\\sqrt"),
)
_ARGUMENT = r"(?:\{[^{}]*\}|[A-Za-z0-9])"
_FRACTION = re.compile(rf"\\frac\s*(?P<over>{_ARGUMENT})\s*(?P<under>{_ARGUMENT})")
_ROOT = re.compile(r"\\sqrt\s*(?P<of>[A-Za-z0-9])")
_SLASH = re.compile(r"(?P<sign>-?)(?P<over>[0-9]+)/(?P<under>[0-9]+)")
_NAMED = re.compile(r"(?:[A-Za-z](?:_\{?[A-Za-z0-9]+\}?)?|[A-Za-z]\([A-Za-z]\))=(?P<value>[^=]+)")


def normal_math(text: str) -> str:
    """Normalise an answer; see the module's docstring. No white space is left."""
    text = plain_numerals(SPECIAL.sub(" ", text)).strip()
    text = re.sub(r"\A(?:\$\$?|\\\(|\\\[)|(?:\$\$?|\\\)|\\\])\Z", "", text.rstrip(" .")).rstrip(" .")
    text = text.replace("\\!", "")  # a space that takes space away: 10\!,000
    text = _DEGREES.sub("", _SIZES.sub("", _SPACES.sub(" ", text.replace("\\$", "").replace("\\%", "").replace("%", ""))))
    for pattern, name in _NAMES:
        text = pattern.sub(name, text)
    text = text.strip()
    text = _PLAIN_UNIT.sub(r"\g<number>", _UNIT.sub(r"\g<number>", text))
    words = _WRAPPED.fullmatch(text)
    text = _WRAPPED.sub(r"\1", text)
    if (number := whole_number(text.strip())) is not None:
        digits = f"{number:f}"
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return "\\frac{1}{2}" if digits == "0.5" else "0" if number == 0 else digits
    text = "".join(text.split())
    text = _FRACTION.sub(lambda m: f"\\frac{{{m['over'].strip('{}')}}}{{{m['under'].strip('{}')}}}", text)
    text = _ROOT.sub(r"\\sqrt{\g<of>}", text)
    if slash := _SLASH.fullmatch(text):
        text = f"{slash['sign']}\\frac{{{slash['over']}}}{{{slash['under']}}}"
    text = re.sub(r"(?<![0-9.])\.(?=[0-9])", "0.", text)
    if named := _NAMED.fullmatch(text):
        return normal_math(named["value"])
    if re.fullmatch(r"\([A-Z]\)", text):  # an option
        text = text[1]
    return text.casefold() if words is not None and len(text) > 1 else text


def equal_math(a: str | None, b: str | None) -> bool:
    """Whether two answers are equal after `normal_math`, ignoring case. None (nothing found) equals nothing."""
    if a is None or b is None:
        return False
    first, second = normal_math(a), normal_math(b)
    wordy = all(re.fullmatch(r"[A-Za-z]{2,}", text) for text in (first, second))
    return first == second or (wordy and first.casefold() == second.casefold())


def marked_math(text: str) -> str | None:
    """The content of the last box, or the text after the last answer mark if that comes later; None if there is neither."""
    boxes = [match.start() for match in _BOX.finditer(text)]
    mark = max((text.rfind(mark) for mark in MARKS), default=-1)
    if boxes and boxes[-1] > mark:
        return boxed(text)
    return extract_strict(text)


def score_math(example: Example, text: str) -> Score:
    """Score an answer in LaTeX. Strict: what `marked_math` finds. Flexible: that, else the last inline formula or number."""
    text = SPECIAL.sub("\n", text)
    said = marked_math(text)
    strict = equal_math(said, example.answer)
    found = said
    if said is None:
        formulas = _INLINE.findall(text)
        found = next((one for one in formulas[-1] if one), None) if formulas else numbers_in(text).found
    elif not strict and whole_number(normal_math(said)) is None:
        # "12 (since 3*4)" after a mark, where the reference is a number: read as numbers are.
        number = numbers_in(f"#### {said}").found
        loose = equal_math(number, example.answer) and whole_number(normal_math(example.answer)) is not None
        return Score(strict=False, flexible=loose and "\\" not in said, extracted=normal_math(said))
    return Score(
        strict=strict,
        flexible=strict or equal_math(found, example.answer),
        extracted=None if found is None else normal_math(found),
    )


def first_answer(text: str, mark: str | None = None) -> str:
    """A text up to its first answer, for models that do not stop there; unchanged if there is none.

    Args:
        text: what was written.
        mark: the mark of the task's template; in a text without it, the first of `answers.MARKS` or the first box counts.
    """
    marks = [mark] if mark and mark in text else list(MARKS)
    places = [(at, at + len(one)) for one in marks if (at := text.find(one)) >= 0]
    box = _BOX.search(text)
    if box is not None and (not places or box.start() < min(places)[0]):
        end = _closing(text, box.end())
        return text[:end]
    if not places:
        return text
    _, end = min(places, key=lambda place: (place[0], -place[1]))
    end = end + len(re.match(r"#*", text[end:])[0])  # pyright: ignore[reportOptionalSubscript]
    line = re.compile(rf"[\n\r]|{SPECIAL.pattern}|(?:{'|'.join(map(re.escape, MARKS))})").search(text, end)
    return text if line is None else text[: line.start()]


def _closing(text: str, start: int) -> int:
    """The end of the braces that open at or after `start`; the end of the word if there are none."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if (depth == 0 and text[at] == "}") or (depth == 0 and text[at] == "\n"):
            return at + 1
    return len(text)
