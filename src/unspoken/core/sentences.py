"""Where sentences end in a reasoning text: not at a decimal point, an initial, a list number or an abbreviation. Pure."""

from __future__ import annotations

import re

_STOP = re.compile(r"(?P<stop>[.!?…]+)[\"')\]”’]*(?=\s)")
_LAST_WORD = re.compile(r"(?P<word>[A-Za-z](?:[A-Za-z]|\.(?=[A-Za-z]))*)\.[\"')\]”’]*$")
_LIST_NUMBER = re.compile(r"\(?[0-9]+\.")
_OPENS_SENTENCE = re.compile(r"[\"'(\[“‘]*[A-Z]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A name or an example follows these, so the sentence goes on.
_GOES_ON = _words("mr mrs ms dr prof st mt rev gen sen capt lt sgt jr sr vs e.g i.e cf approx")
# These can stand last, so the sentence ends where a capital letter follows.
_MAY_END = _words(
    "a.m p.m u.s u.k u.s.a p.e etc inc ltd co sq sq.ft ft yd yds mi oz lb lbs kg km cm mm hr hrs min mins sec secs "
    "jan feb apr jun jul aug sept oct nov dec ave blvd rd"
)
# Only a number after them makes these an abbreviation: "No. 5", but "She said no. He left."
_BEFORE_NUMBER = _words("no nos fig eq vol ch")


def stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The same stretch of a text without white space at its ends; empty where it is nothing else."""
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
    """(start, end) of each sentence; a line end always ends one."""
    found = []
    for first, last in line_bounds(text):
        start = first
        for match in _STOP.finditer(text, first, last):
            bounds = stripped(text, start, match.end())
            if _ends(text[slice(*bounds)], match["stop"], text[match.end() : last].lstrip()):
                found.append(bounds)
                start = match.end()
        if text[start:last].strip():
            found.append(stripped(text, start, last))
    return [(start, end) for start, end in found if end > start]


def _ends(sentence: str, stop: str, rest: str) -> bool:
    """Whether `sentence`, which closes with `stop` and white space, is over before `rest`."""
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
    return not (len(last["word"]) == 1 and last["word"].isupper() and last["word"] != "I")
