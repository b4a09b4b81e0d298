"""Multiple choice: the layout of options in a question, and reading the letter of an answer.

    Where would you put money?
    Options:
    (A) bank
    (B) library

The rules see the question and the text, and the reference only to compare. *Strict*: after the last mark
(`answers.MARKS`) stands a letter of the options, alone or closed by a bracket, a point or a colon: "B", "(B)", "B) bank".
*Flexible*, in this order: what stands after the mark; a last line that is an option; the last claim ("the answer is B",
"option B", "the answer is bank"); the last letter in brackets; the last letter that stands alone; the only option that
the last line names. "A" before a word is an article, not a letter ("A dog"), except in "A because". "Not (B)" names
nothing. Two letters after the mark ("A or B") are no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from unspoken.core.text.example import Example
from unspoken.tasks.base import Score
from unspoken.tasks.scoring.answers import equal, extract_strict
from unspoken.tasks.scoring.rules import bare, trimmed

LETTERS = "ABCDEFGHIJ"

_LISTED = re.compile(r"^[ \t]*\(?(?P<letter>[A-J])[).:][ \t]*(?P<text>\S.*?)[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"(?:^|\s)\(?(?P<letter>[A-J])[).:]\s*(?P<text>.*?)(?=\s+\(?[B-J][).:]\s|\s*$)", re.DOTALL)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
# "A" and one of these words: no noun follows, so "A" is the letter.
_AFTER_LETTER = r"(?:because|since|as|so|and|or|is|was|which|due|for)\b"
_LETTER = r"(?<![\w'’])(?P<letter>[A-Ja-j])(?![\w'’])"
_CLAIM = re.compile(
    r"(?<!not the )\b(?:answer|option|choice)\b(?:\s+(?:is|are|was|would\s+be|should\s+be|must\s+be|option|choice))*\s*:?\s*"
    r"(?=(?P<rest>\S[^\n]*))",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"(?<!\bnot )(?:[(\[](?P<inside>[A-Ja-j])[)\]]|(?<![\w(])(?P<before>[A-J])\))", re.IGNORECASE)
_ALONE = re.compile(rf"(?<!\bnot )(?<![\w'’(\[])(?P<letter>[A-J])(?![\w'’]|\.\s*[a-z]|(?<=A)\s+(?!{_AFTER_LETTER})\w)")

Same = Callable[[str, str], bool]


def lettered(texts: Sequence[str]) -> dict[str, str]:
    """Letter -> option, in order."""
    return dict(zip(LETTERS, texts, strict=False))


def with_options(stem: str, options: Mapping[str, str]) -> str:
    """A question with its options, one per line, as shown in the module's docstring."""
    return "\n".join([stem.strip(), "Options:", *(f"({letter}) {text}" for letter, text in options.items())])


def options_of(question: str) -> dict[str, str]:
    """The options in a question: one per line, else in a row after "Choices:" or "Options:"; {} if there are none."""
    for pattern, text in ((_LISTED, question), (_INLINE, re.split(r"(?:Choices|Options):", question)[-1])):
        found: dict[str, str] = {}
        for match in pattern.finditer(text):
            if match["letter"] == "A":
                found = {}
            if match["letter"] == LETTERS[len(found)]:
                found[match["letter"]] = match["text"].strip()
        if len(found) > 1:
            return found
    return {}


def same_text(a: str, b: str) -> bool:
    """Whether two options are equal: as numbers if both are, else as words without article."""
    return equal(a, b) or equal(_ARTICLE.sub("", a), _ARTICLE.sub("", b))


def score_letter(example: Example, text: str, same: Same = same_text) -> Score:
    """Score the letter of an option. Options are read from the question; the rules are in the module's docstring.

    Args:
        example: its answer is a letter, its question holds the options.
        text: what was written.
        same: whether an answer's text equals an option's text.
    """
    options = options_of(example.question) or dict.fromkeys("ABCDE", "")
    gold = trimmed(example.answer).upper()
    marked = extract_strict(text)
    strict = _strict(marked, options) if marked is not None else None
    if strict is not None:
        found: str | None = strict
    elif marked is not None and _several(marked, options):
        found = None
    else:
        found = _flexible(marked, text, options, same)
    return Score(strict=strict == gold, flexible=found == gold, extracted=found)


def _strict(marked: str, options: Mapping[str, str]) -> str | None:
    match = re.fullmatch(r"[\s(\[]*(?P<letter>[A-Ja-j])(?:[)\]]*[.,;!]?\s*|(?:[)\]]|[.:](?=\s))\s*\S.*)", bare(marked))
    if match is None or _several(marked, options):
        return None
    letter = match["letter"].upper()
    return letter if letter in options else None


def _several(marked: str, options: Mapping[str, str]) -> bool:
    """Whether more than one option is named by its letter: "A or B", "(A), (C)"."""
    if re.search(r"\bnot\b", marked, re.IGNORECASE):
        return False
    plain = bare(marked)
    letters = {m["letter"] for m in re.finditer(r"(?<![\w'’])(?P<letter>[A-J])(?=\s*(?:$|[).,;/&]|and\b|or\b))", plain)}
    return len(letters & set(options)) > 1


def _flexible(marked: str | None, text: str, options: Mapping[str, str], same: Same) -> str | None:
    if marked is not None and (found := _named(marked, options, same)):
        return found
    plain = bare(text)
    lines = [line for line in plain.split("\n") if line.strip()]
    if lines and (found := _is_option(lines[-1], options, same)):
        return found
    claims = [found for match in _CLAIM.finditer(plain) if (found := _named(match["rest"], options, same))]
    if claims:
        return claims[-1]
    for pattern in (_BRACKETED, _ALONE):
        letters = [next(filter(None, match.groups())).upper() for match in pattern.finditer(plain)]
        letters = [letter for letter in letters if letter in options]
        if letters:
            return letters[-1]
    return _mentioned(lines[-1], options) if lines else None


def _named(phrase: str, options: Mapping[str, str], same: Same) -> str | None:
    """The option that a phrase starts with or is: "B", "B) bank", "(b), since ...", "bank", "bank. It is ..."."""
    content = bare(phrase).strip()
    if re.match(r"not\b", content, re.IGNORECASE):
        return None
    first = re.split(r"(?<=[^\d\s])[.;](?:\s|$)|\s(?:because|since)\b", content, maxsplit=1)[0]
    for said in (content, first):
        found = [letter for letter, option in options.items() if option and same(trimmed(said), trimmed(option))]
        if len(found) == 1:
            return found[0]
    match = re.match(rf"[\s(\[]*(?:option\s+|choice\s+)?[(\[]?{_LETTER}(?P<closed>[)\]])?", content, re.IGNORECASE)
    if match is None or match["letter"].upper() not in options:
        return None
    rest = content[match.end() :]
    if match["closed"] or not re.match(r"\s+\w", rest) or re.match(rf"\s+{_AFTER_LETTER}", rest):
        return None if re.match(r"[.][A-Za-z]", rest) else match["letter"].upper()
    return match["letter"] if match["letter"] in LETTERS[1:] else None  # "B it is", but not "A dog", "a dog", "b dog"


def _is_option(line: str, options: Mapping[str, str], same: Same) -> str | None:
    """The option that a line is as a whole: "b", "(B)", "B) bank", "bank"."""
    said = [letter for letter, option in options.items() if option and same(trimmed(line), trimmed(option))]
    if len(said) == 1:
        return said[0]
    match = re.fullmatch(r"[(\[]?(?P<letter>[A-Ja-j])(?:[)\].:]+\s*(?P<rest>.*))?", line.strip().rstrip(".!"))
    letter, rest = (match["letter"].upper(), trimmed(match["rest"] or "")) if match else ("", "")
    return letter if letter in options and (not rest or same(rest, trimmed(options[letter]))) else None


def _mentioned(line: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text stands in a line as whole words."""

    def stands(option: str) -> bool:
        return re.search(rf"(?<!\w){re.escape(option.casefold())}(?!\w)", line.casefold()) is not None

    found = [letter for letter, option in options.items() if option and stands(option)]
    return found[0] if len(found) == 1 else None
