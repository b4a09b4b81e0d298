"""Split explicit reasoning, given as one text, into steps. Pure functions.

GSM8K-Aug has its steps marked (`<<48/2=24>>`); natural-language rationales have lines or sentences.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from unspoken.errors import ConfigError, did_you_mean

Rule = Literal["markers", "lines", "sentences"]
RULES: tuple[Rule, ...] = get_args(Rule)

_MARKED = re.compile(r"<<(?!\s*>>).+?>>", re.DOTALL)
_ANNOTATION = re.compile(r"<<.*?>>", re.DOTALL)
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


def split_steps(text: str, rule: str) -> tuple[str, ...]:
    """The steps of a reasoning text, in order, without empty ones.

    Args:
        text: the reasoning, without the question and the answer.
        rule: "markers" takes each `<<...>>`, marks kept, and nothing else; "lines" takes stripped lines; "sentences"
            takes sentences within lines, and does not end one at a decimal point or an abbreviation.

    Raises:
        ConfigError: no such rule.
    """
    if rule == "markers":
        return tuple(_MARKED.findall(text))
    # Not `splitlines`: GSM8K-Aug has rows with U+2028 inside a sentence.
    lines = [line for raw in text.split("\n") if (line := raw.strip())]
    if rule == "lines":
        return tuple(lines)
    if rule == "sentences":
        return tuple(sentence for line in lines for sentence in _sentences(line))
    raise ConfigError(f"unknown rule {rule!r} for splitting steps; {did_you_mean(str(rule), RULES)}")


def drop_annotations(text: str) -> str:
    """Natural text without GSM8K's calculator annotations: "is 48/2 = <<48/2=24>>24" -> "is 48/2 = 24".

    Text that is nothing but annotations (GSM8K-Aug) stays as it is.
    """
    bare = _ANNOTATION.sub("", text)
    return bare if bare.strip() else text


def _sentences(line: str) -> list[str]:
    """The sentences of one stripped line."""
    found, start = [], 0
    for match in _STOP.finditer(line):
        sentence = line[start : match.end()].strip()
        if _ends(sentence, match["stop"], line[match.end() :].lstrip()):
            found.append(sentence)
            start = match.end()
    return [s for s in [*found, line[start:].strip()] if s]


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
