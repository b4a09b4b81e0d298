"""Replace digits of any script by ASCII, character for character, so that positions in the text stay valid.

"３＋４＝７"  ->  "3+4=7"        full width, as Chinese and Japanese texts have it
"٣٫٥"         ->  "3.5"          Arabic-Indic, with its decimal and thousands separators
"४२"          ->  "42"           Devanagari; in the same way every other script whose digits Unicode knows
"""

from __future__ import annotations

import re
import unicodedata

SIGNS = dict(zip("＋％＄￥￡٫٬٪", "+%$¥£.,%", strict=True))
"""What stands with digits, wherever it stands."""
_SIGNS = {**SIGNS, **dict(zip("－＊／＝＜＞．（）", "-*/=<>.()", strict=True))}
_WIDE_COMMA = re.compile(r"(?<=[０-９])，(?=[０-９]{3}(?![０-９]))")


class _Plain(dict[int, int]):
    """A table for `str.translate` that is filled on demand."""

    def __missing__(self, code: int) -> int:
        char = chr(code)
        digit = unicodedata.decimal(char, None)
        self[code] = ord(_SIGNS.get(char, char)) if digit is None else ord("0") + digit
        return self[code]


_PLAIN = _Plain()


def plain_digits(text: str) -> str:
    """The text with decimal digits of every script, and signs next to them, as ASCII; the length is unchanged."""
    return text if text.isascii() else _WIDE_COMMA.sub(",", text).translate(_PLAIN)
