"""Find the reasoning steps in a text: the characters of each step, and those of its result.

A rule is a name of `RULES`, "regex:PATTERN", or "learned:PATH" (a tagger that `experimental/step_tagger.py` has fitted
and saved):

    markers     <<48/2=24>>, GSM8K's calculator annotations
    lines       each line that is not blank
    sentences   sentences within lines, in Latin and other scripts; none ends inside mathematics
    numbered    "Step 2: ...", "2. ...", "(2) ...", from the number to the next one
    equations   48/2 = 24 inside natural text
    latex       $x^2 = 4$, \\[ ... \\], align: mathematics that holds a relation, as in MATH
    tool_calls  nanochat's and Qwen's calls, code fences, [Calculator(3+4) -> 7], each with the output behind it

Spans are in order and do not overlap.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from unspoken.core.text.digits import plain_digits
from unspoken.core.text.sentences import line_bounds, sentence_bounds, stripped
from unspoken.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Span:
    """A step: characters `start` to `end` of the text, and those of its result, if it states one."""

    start: int
    end: int
    result: tuple[int, int] | None = None


Finder = Callable[[str], list[Span]]
"""A text -> the spans of its steps."""

_MARKED = re.compile(r"<<(?!\s*>>).+?>>", re.DOTALL)
_NUMBERED = re.compile(
    r"^[ \t]*(?:[*#]{1,4}[ \t]*)?(?:step[ \t]+\d+\b|[(（]\d{1,3}[)）](?=\s|[^\x00-\x7f])|\d{1,3}(?:[.)](?=\s)|[、．）])"
    # "Step 1" in Chinese, Japanese, Korean, Hindi, Bengali, Thai, Arabic, Persian and more.
    r"|(?:步骤|步驟|ステップ|手順|단계|चरण|कदम|ধাপ|পদক্ষেপ|ขั้นตอนที่|ขั้นตอน|ขั้นที่|الخطوة|خطوة|مرحله|گام|قدم|مرحلہ"
    r"|шаг|schritt|[ée]tape|paso|passo)[ \t]*\d+|[①-⑳][ \t]*(?=\S)"
    r"|第[ \t]*[\d一二三四五六七八九十]+[ \t]*步|\d+[ \t]*단계)",
    re.IGNORECASE | re.MULTILINE,
)
# Possessive quantifiers avoid exponential backtracking on a long run of numbers without "=". \d is a digit of any script;
# the patterns read `plain_digits`, so that the signs of those scripts are plain as well.
_NUMBER = r"[-+−]?[$€£¥₹]?(?:\d++(?:[,\u00a0\u2009\u202f]\d{3})*+(?:\.\d++)?|\.\d++)%?"
_OPERAND = rf"(?:\([ \t]*+)*+{_NUMBER}(?:[ \t]*+\))*+"
_OPERATOR = r"[ \t]*+(?:\*\*|[-+−–*/^×·÷]|x(?![A-Za-z])|\\(?:times|cdot|div)(?![A-Za-z]))[ \t]*+"
_SIDE = rf"{_OPERAND}(?:{_OPERATOR}{_OPERAND})*+"
# "x3+4=7" is not a sum of 3 and 4, but "共3+4=7个" is: only letters that are used in variable names count.
_VARIABLE = r"A-Za-z\u00c0-\u02af\u0370-\u052f"
_EQUATION = re.compile(rf"(?<![\d_.{_VARIABLE}]){_SIDE}(?:[ \t]*+[=≈][ \t]*+(?P<result>{_SIDE}))*+")
_STARTS_NUMBER = re.compile(rf"[-+−]?[$€£¥₹]?\d[\d,]*(?:\.\d+)?%?(?=[^\x00-\x7f])(?![{_VARIABLE}])")
_CALCULATES = re.compile(rf"{_OPERAND}{_OPERATOR}{_OPERAND}")
_LATEX = re.compile(
    r"\[asy\].*?\[/asy\]"  # a drawing, which is no step
    r"|\\begin\{(?P<name>align|equation|gather|multline|eqnarray)(?P<star>\*?)\}(?P<a>.*?)\\end\{(?P=name)(?P=star)\}"
    r"|\\\[(?P<b>.*?)\\\]|\\\((?P<c>.*?)\\\)|(?<!\\)\$\$(?P<d>.+?)(?<!\\)\$\$|(?<!\\)\$(?P<e>[^$]+?)(?<!\\)\$",
    re.DOTALL,
)
_RELATION = re.compile(r"[=<>≤≥≈≠]|\\(?:leq?|geq?|neq?|approx|equiv|sim|iff|implies|Rightarrow|in)(?![A-Za-z])")
_CALLS = re.compile(
    r"<\|python_start\|>.*?<\|python_end\|>(?:\s*<\|output_start\|>(?P<a>.*?)<\|output_end\|>)?"
    r"|<tool_call>.*?</tool_call>(?:\s*<tool_response>(?P<b>.*?)</tool_response>)?"
    r"|```(?:python|py|tool_code)[ \t]*\n.*?```(?:\s*```(?:output|tool_output)[ \t]*\n(?P<c>.*?)```)?"
    r"|\[[A-Za-z_]\w*\((?:[^()\n]|\([^()\n]*\))*\)(?:[ \t]*(?:->|→)[ \t]*(?P<d>[^\]\n]*))?\]",
    re.DOTALL,
)


def check_rule(rule: str) -> str:
    """Returns the rule if it exists. The file of a learned rule is not read.

    Raises:
        ConfigError: no such rule, or an invalid pattern.
    """
    kind, colon, rest = str(rule).partition(":")
    if colon and rest and kind == "learned":
        return rule
    if colon and rest and kind == "regex":
        try:
            re.compile(rest)
        except re.error as error:
            raise ConfigError(f"rule {rule!r} for finding steps: {error}; give a regular expression of Python") from None
        return rule
    if rule not in RULES:
        raise ConfigError(f"unknown rule {rule!r} for finding steps; {did_you_mean(str(rule), [*RULES, *PATTERNS])}")
    return rule


_AROUND_RESULT = frozenset(".,;:!?)]\"'>*。｡．，、；：！？）】」』।॥؟۔،؛")


def result_of(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span of a step's result: the first word after its last "=", without the stop at the end of the sentence."""
    at = max(text.rfind(sign, start, end) for sign in "=＝")
    word = re.compile(r"\s*(?P<word>\S+)").match(text, at + 1, end) if at >= 0 else None
    if word is None:
        return None
    first, last = word.span("word")
    if (number := _STARTS_NUMBER.match(plain_digits(text[first:last]))) is not None:  # "=7个苹果。"
        last = first + number.end()
    while last > first and text[last - 1] in _AROUND_RESULT:
        last -= 1
    return (first, last) if last > first else None


def _spans(text: str, bounds: list[tuple[int, int]]) -> list[Span]:
    return [Span(start=start, end=end, result=result_of(text, start, end)) for start, end in bounds]


def _markers(text: str) -> list[Span]:
    return [
        Span(start=m.start(), end=m.end(), result=_tail(text, m.start() + 2, m.end() - 2)) for m in _MARKED.finditer(text)
    ]


def _tail(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span after the last "=" in a stretch of text, or None."""
    at = text.rfind("=", start, end)
    first, last = stripped(text, at + 1, end) if at >= 0 else (0, 0)
    return (first, last) if last > first else None


def _lines(text: str) -> list[Span]:
    return _spans(text, line_bounds(text))


def _sentences(text: str) -> list[Span]:
    return _spans(text, sentence_bounds(text))


def _numbered(text: str) -> list[Span]:
    starts = [match.start() for match in _NUMBERED.finditer(text)]
    ends = [*starts, len(text)][1:]
    return _spans(text, [stripped(text, *bounds) for bounds in zip(starts, ends, strict=True)])


def _equations(text: str) -> list[Span]:
    text = plain_digits(text)
    # The pattern also matches expressions without "=", so that one scan is enough. "5 = 5" is not a step.
    found = [m for m in _EQUATION.finditer(text) if m["result"] is not None and _CALCULATES.search(m[0])]
    return [Span(start=m.start(), end=m.end(), result=m.span("result")) for m in found]


def _latex(text: str) -> list[Span]:
    found = []
    for match in _LATEX.finditer(text):
        group = next((name for name in "abcde" if match[name] is not None), None)
        if group is not None and _RELATION.search(match[group]):
            found.append(Span(start=match.start(), end=match.end(), result=_tail(text, *match.span(group))))
    return found


def _tool_calls(text: str) -> list[Span]:
    found = []
    for match in _CALLS.finditer(text):
        group = next((name for name in "abcd" if match[name] is not None and match[name].strip()), None)
        result = stripped(text, *match.span(group)) if group is not None else None
        found.append(Span(start=match.start(), end=match.end(), result=result))
    return found


def _by_pattern(pattern: re.Pattern[str], text: str) -> list[Span]:
    """Non-empty matches of a pattern; a group named "result" is the result."""
    found = []
    for match in pattern.finditer(text):
        if match.group().strip():
            said = match.span("result") if "result" in pattern.groupindex else result_of(text, *match.span())
            found.append(Span(start=match.start(), end=match.end(), result=said if said and said[0] < said[1] else None))
    return found


RULES: dict[str, Finder] = {
    "markers": _markers,
    "lines": _lines,
    "sentences": _sentences,
    "numbered": _numbered,
    "equations": _equations,
    "latex": _latex,
    "tool_calls": _tool_calls,
}
"""Rules without an argument."""

PATTERNS = ("regex:PATTERN", "learned:PATH")
"""Rules with an argument."""
