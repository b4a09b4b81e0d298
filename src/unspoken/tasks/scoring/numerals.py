"""Numbers in any script: convert to ASCII, find in text, parse exactly.

Digits of every script, their separators and signs, vulgar fractions, thousands grouped by threes or as in India, and the
exponents that JSON writes (1e-05, 1e+16). The papers' own rules (`tasks/scoring/extractors.py`) use none of this.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from unspoken.core.text.digits import SIGNS

# U+2212 stands in GSM8K itself; models also write the dashes that look like it.
_SIGNS = str.maketrans({**SIGNS, **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"), "\u2044": "/"})
_BETWEEN = (
    (re.compile(r"(?<=[0-9])[\uff0c\u00a0\u2009\u202f\u2019](?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"(?<=[0-9])\uff0e(?=[0-9])"), "."),
)
"""Separators that count only between digits: full-width comma or stop, no-break spaces, an apostrophe."""
_BETWEEN_ASCII = re.compile(r"(?<=[0-9])['_](?=[0-9]{3}(?![0-9]))")
# Only what has one reading: 1.500,25 and 1.500.000, but not 1.500.
_EUROPEAN = re.compile(
    r"(?<![\w.,])(?P<whole>[0-9]{1,3}(?:\.[0-9]{3})+),(?P<part>[0-9]{1,2})(?![\w]|[.,][0-9])"
    r"|(?<![\w.,])(?P<groups>[0-9]{1,3}(?:\.[0-9]{3}){2,})(?![\w]|[.,][0-9])"
)
_LATEX_FRACTION = re.compile(
    r"(?P<digit>(?<=[0-9])\s*)?\\[cdt]?frac\s*"
    r"(?:\{\s*([0-9.]+)\s*\}\s*\{\s*([0-9.]+)\s*\}|([0-9])\s*([0-9]))"
)
_UNSEEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Invisible characters: direction marks and joiners."""

SPACED = r"[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9/])"
"""Thousands separated by ordinary spaces: 1 500. Ambiguous with two numbers, so only used where one number is expected."""
GROUPED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]+)"
"""Digits with or without thousands commas, also as in India: 1,00,000."""
DIGITS = rf"{GROUPED}(?:\.[0-9]+)?"
# Only what a JSON writer gives an exponent: below 1e-4 and from 1e16 on. "1e2" is written by nobody who means 100.
EXPONENT = r"(?:[eE](?:\+?0?(?:1[6-9]|[2-9][0-9]|[1-9][0-9]{2})|-0?(?:[5-9]|[1-9][0-9]{1,2}))(?![0-9A-Za-z.]))"
CURRENCY = r"\\?[$€£¥₹₩₽₪₺₴₦₱฿]"  # "\$" is how LaTeX writes it

# "16-3" and "(4)-1" are subtractions: a sign counts only where no operand stands before it. ".5" counts as a number
# only where the point cannot end a sentence.
_FOUND = re.compile(
    rf"(?P<sign>(?<![\w)\]%])[-+])?(?:{CURRENCY})?(?P<sign2>(?<=[$€£¥₹])[-+])?"
    rf"(?P<number>(?:{DIGITS}|(?<![\w.])\.[0-9]+)(?:{EXPONENT}|(?:/[0-9]+(?:\.[0-9]+)?)*))"
)
_WHOLE = re.compile(
    rf"(?:(?P<sign>[-+]) ?)?(?:{CURRENCY})?(?P<sign2>[-+])?"
    rf"(?P<number>{SPACED}(?:\.[0-9]+)?|(?:{DIGITS}|\.[0-9]+){EXPONENT}?)\.?"
    rf"(?: ?(?:\\?%|{CURRENCY}))?"
)
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_OPERATOR = re.compile(
    r"(?:[\u00b2\u00b3\u2074-\u2079]\s*=|\s*(?:\*\*|[-+*/×÷·^]|x(?![A-Za-z])|\\times|\\cdot|\\div|(?:%|(?<=/[0-9]))\s*of\b)"
    r"\s*[$€£¥₹(]?\s*[-+]?[0-9.])"
)
_LOOSE_MINUS = re.compile(r"(?P<before>\A|=)\s*(?:-\s+|(?:minus|negative)\s+)(?=[$€£¥₹]?[0-9.])", re.IGNORECASE)
_SPACED = re.compile(rf"(?<![\w.,/] )(?<![\w.,/]){SPACED}")


def plain_numerals(text: str) -> str:
    """Text with ASCII digits, signs and separators.

    Full-width, Devanagari and Arabic-Indic twelve give "12", a full-width "1,200" its ASCII comma, U+2212 "-", U+00BD "1/2".
    """
    if not text.isascii():
        text = "".join(map(_plain, _UNSEEN.sub("", text).translate(_SIGNS)))
        for pattern, mark in _BETWEEN:
            text = pattern.sub(mark, text)
        text = re.sub(r"(?<=[0-9])\u2008(?=[0-9]+/[0-9])", " ", text).replace("\u2008", "")
    text = _EUROPEAN.sub(_english, _BETWEEN_ASCII.sub(",", text))
    return text.replace("{,}", ",")


def plain_fractions(text: str) -> str:
    """Text whose LaTeX fractions of two numbers are written with a slash: "\\\\dfrac{3}{4}" as "3/4"."""
    if "frac" not in text:
        return text
    return _LATEX_FRACTION.sub(lambda m: f"{' ' if m['digit'] is not None else ''}{m[2] or m[4]}/{m[3] or m[5]}", text)


def _english(match: re.Match[str]) -> str:
    whole = (match["whole"] or match["groups"]).replace(".", ",")
    return f"{whole}.{match['part']}" if match["part"] else whole


def _plain(letter: str) -> str:
    """A digit of any script in ASCII; a vulgar fraction as "1/2", with a mark that separates it from preceding digits."""
    if letter.isascii():
        return letter
    if letter.isdecimal():
        return str(unicodedata.decimal(letter))
    if unicodedata.category(letter) == "No" and "<fraction>" in unicodedata.decomposition(letter):
        return "\u2008" + unicodedata.normalize("NFKD", letter).replace("\u2044", "/")
    return letter


def whole_number(text: str) -> Decimal | None:
    """The number if a whole text in plain numerals is one, or None. Exact for any length."""
    match = _WHOLE.fullmatch(text)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    sign = match["sign"] or match["sign2"] or ""
    return Decimal(sign + match["number"].replace(",", "").replace(" ", ""))


def last_number(text: str) -> str | None:
    """The last number in a text of plain numerals, as digits with sign, without "$", "%", thousands commas and closing
    stop.

    A fraction such as "3/4" is returned as text, so that an unfinished "48/2" is not read as 2.
    """
    matches = list(_FOUND.finditer(_LOOSE_MINUS.sub(r"\g<before>-", text)))
    return _written(matches[-1]) if matches else None


def first_number(text: str) -> str | None:
    """The number that a text of plain numerals gives as its answer, if it contains more than the number.

    This is the first one, since what follows explains it ("12 (since 3*4)", "20, see step 3", "12 or 13", "1,200 (about
    1000)"); not one in brackets if there is another; and for a calculation, "3*4 = 12 eggs", its result.
    """
    text = _LOOSE_MINUS.sub(r"\g<before>-", _SPACED.sub(lambda match: match[0].replace(" ", ""), text))
    bare = _BRACKETS.sub(" ", text)
    if _FOUND.search(bare):
        text = bare
    matches = [match for match in _FOUND.finditer(text) if not _in_word(text, match)] or list(_FOUND.finditer(text))
    if not matches:
        return None
    if "=" in text and _OPERATOR.match(text, matches[0].end()):
        after = next((m for m in matches if m.start() > text.rindex("=")), None)
        return _written(after or matches[0])
    mixed = re.compile(r" [0-9]+/[0-9]+(?![0-9/])").match(text, matches[0].end())
    return _written(matches[0]) + (mixed[0] if mixed else "")


def _in_word(text: str, match: re.Match[str]) -> bool:
    """Whether digits are part of a name: x1, H2O."""
    return match.start() > 0 and (text[match.start() - 1].isalpha() or text[match.start() - 1] == "_")


def _written(match: re.Match[str]) -> str:
    minus = "-" if "-" in ((match["sign"] or "") + (match["sign2"] or "")) else ""
    number = match["number"].replace(",", "")
    return minus + (f"{Decimal(number):f}" if "e" in number.lower() else number)
