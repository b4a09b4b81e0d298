"""Split reasoning text into sentences: not at a decimal point, an initial, a list number or an abbreviation, and not inside
mathematics. In scripts without spaces after a stop, the stop alone ends a sentence."""

from __future__ import annotations

import re
from bisect import bisect_right

# Han, Kana, Hangul, full-width forms, Thai, Lao, Tibetan, Myanmar, Khmer: written without spaces between sentences.
UNSPACED = (
    r"\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uac00-\ud7af\uf900-\ufaff\uff21-\uff3a\uff41-\uff5a\uff66-\uff9d\U00020000-\U0003ffff"
)
"""The letters of scripts without spaces between sentences, as a character class for patterns."""

_CLOSERS = r"[\"')\]”’」』）】》〉]*"
# Ideographic and full-width stops, danda, Arabic, Urdu, Armenian, Ethiopic, Khmer, Myanmar, Tibetan, Mongolian.
_ANYWHERE = "。｡！？‼⁇⁈⁉।॥؟۔։።፧៖។៕။།༎᠃᱾꓿"
_STOP = re.compile(
    rf"(?:(?P<stop>[.!?…]+){_CLOSERS}(?=\s)"
    rf"|(?P<script>[{_ANYWHERE}][{_ANYWHERE}.!?…]*|．(?![0-9０-９]))[{_CLOSERS[1:-2]}]*"
    # "共7个.他走了": not after a Latin letter, which may belong to an abbreviation.
    rf"|(?<=[^\sA-Za-z.!?…])(?P<tight>[.!?]+){_CLOSERS}(?=[{UNSPACED}]))"
)
_LAST_WORD = re.compile(rf"(?P<word>[^\W\d_](?:[^\W\d_]|\.(?=[^\W\d_]))*)\.{_CLOSERS}$")
_LIST_NUMBER = re.compile(r"\(?[0-9]+\.")
_OPENS_SENTENCE = re.compile(r"[\"'(\[“‘]*[A-Z]")
_MATH = re.compile(
    r"\\begin\{(?P<name>[A-Za-z]+\*?)\}.*?\\end\{(?P=name)\}|\\\[.*?\\\]|\\\(.*?\\\)|(?<!\\)\$\$.+?(?<!\\)\$\$"
    # A price is not mathematics: "5$.", "$3. Then $4", "$5 and he has 3$".
    r"|(?<![\\\w$])\$(?![\s$.,;!?])(?!\d[\d.,]*\s+[A-Za-z]{2})[^$\n]*?(?<![\s\\])\$(?![\d$])"
    r"|(?P<command>\\[A-Za-z]+\*?[ \t]*)(?=\{)",
    re.DOTALL,
)
_STOP_INSIDE = re.compile(r"(?P<stop>[.!?])\s*(?:\$+|\\[\])])\Z")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A name or an example follows these, so the sentence goes on.
_GOES_ON = _words(
    "mr mrs ms mme mlle sra srta dr prof st mt rev gen sen capt lt sgt jr sr vs e.g i.e cf approx resp w.r.t al viz z.b "
    "d.h bzw"
)
# These can be the last word, so the sentence ends if a capital letter follows.
_MAY_END = _words(
    "a.m p.m u.s u.k u.s.a p.e etc inc ltd co sq sq.ft ft yd yds mi oz lb lbs kg km cm mm hr hrs min mins sec secs "
    "jan feb apr jun jul aug sept oct nov dec ave blvd rd"
)
# Only a number after them makes these an abbreviation: "No. 5", but "She said no. He left."
_BEFORE_NUMBER = _words("no nos ca fig figs eq eqs eqn vol ch thm prop def pp")


def stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; empty if it is only white space."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def line_bounds(text: str) -> list[tuple[int, int]]:
    """(start, end) of each line that is not blank, without white space around it."""
    found, start = [], 0
    # Not `splitlines`: GSM8K-Aug has rows with U+2028 inside a sentence.
    for line in text.split("\n"):
        if line.strip():
            found.append(stripped(text, start, start + len(line)))
        start += len(line) + 1
    return found


def sentence_bounds(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence; a line end always ends one, except inside mathematics."""
    found = []
    math = math_bounds(text)
    for first, last in _whole_lines(text, math):
        start = first
        for end, stop in _stops(text, first, last, math):
            bounds = stripped(text, start, end)
            if _ends(text[slice(*bounds)], stop, text[end:last].lstrip()):
                found.append(bounds)
                start = end
        if text[start:last].strip():
            found.append(stripped(text, start, last))
    return [(start, end) for start, end in found if end > start]


def math_bounds(text: str) -> list[tuple[int, int]]:
    """(start, end) of the mathematics in a text, in order: $x$, \\(x\\), \\[x\\], \\begin{align}, \\boxed{x}; no prices."""
    if "\\" not in text and "$" not in text:
        return []
    found: list[tuple[int, int]] = []
    at = 0
    while (match := _MATH.search(text, at)) is not None:
        end = match.end() if match["command"] is None else _closed(text, match.end())
        at = end or match.end()
        if end is not None:
            found.append((match.start(), end))
    return found


def _closed(text: str, start: int) -> int | None:
    """The end of the braces that open at `start`, including further pairs right after them; None if they are not closed."""
    depth, end = 0, None
    for brace in _BRACES.finditer(text, start, start + 2000):
        if depth == 0 and end is not None and brace.start() != end:
            break
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth < 0:
            break
        if depth == 0:
            end = brace.end()
    return end


def _whole_lines(text: str, math: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lines, joined where mathematics continues over a line end."""
    found: list[tuple[int, int]] = []
    for start, end in line_bounds(text):
        if found and (inside := _around(math, found[-1][1])) is not None and inside[1] > start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _around(math: list[tuple[int, int]], place: int) -> tuple[int, int] | None:
    """The mathematics around a position, if any."""
    at = bisect_right(math, (place, 0)) - 1
    return math[at] if at >= 0 and math[at][0] < place < math[at][1] else None


def _stops(text: str, first: int, last: int, math: list[tuple[int, int]]) -> list[tuple[int, str]]:
    """(end, stop) of each place where a sentence of a line may end, in order."""
    found = [
        (m.end(), m["stop"] or m["script"] or m["tight"])
        for m in _STOP.finditer(text, first, last)
        if _around(math, m.start()) is None
    ]
    # "so $x = 3.$ Then": the stop is inside, and the sentence ends after it.
    for _, end in math:
        if first < end < last and text[end].isspace() and _OPENS_SENTENCE.match(text[end:last].lstrip()):
            stop = _STOP_INSIDE.search(text, max(end - 8, first), end)
            found += [(end, stop["stop"])] if stop else []
    return sorted(found)


def _ends(sentence: str, stop: str, rest: str) -> bool:
    """Whether `sentence`, which ends with `stop`, is complete before `rest`."""
    if stop != ".":
        trails_off = stop.startswith(("..", "…"))
        return not (trails_off and rest[:1].islower())
    if _LIST_NUMBER.fullmatch(sentence):  # "1. He buys two."
        return False
    last = _LAST_WORD.search(sentence)
    if last is None:
        return True
    word = last["word"].lower()
    if word in _GOES_ON:
        return False
    if word in _MAY_END:
        return _OPENS_SENTENCE.match(rest) is not None
    if word in _BEFORE_NUMBER:
        return not rest[:1].isdigit()
    # An initial, as in "George R. R. Martin".
    return not (len(last["word"]) == 1 and last["word"].isupper() and last["word"] not in ("I", "Я"))
