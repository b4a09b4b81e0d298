"""Check values from users and files before they are used: numbers, texts, JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, SupportsIndex
from urllib.parse import urlsplit

from unspoken.errors import ConfigError, DataError

DEEPEST = 64
"""Limit on nesting of JSON: real settings and requests have fewer levels, and recursive readers survive this many."""

MOST_LATENTS = 1 << 20
"""The most latents for a model that does not state a maximum number of positions."""

MOST_SEED = (1 << 63) - 1
"""The largest seed of torch's generators; numpy's own take any."""

MOST_THREADS = 1024
"""Where a library starts as many threads as it is told, tens of thousands end the process."""

_DIGITS = 400
"""Limit on the digits of a whole number; the largest float has 309."""


def whole(value: object, name: str, *, least: int = 0, most: int | None = None) -> int:
    """Check that a value is a whole number in a range; booleans are refused.

    Raises:
        ConfigError: something else.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ConfigError(f"{name} must be a whole number, got {shown(value)}")
    number = value.__index__()
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"in {least}..{most}"
        raise ConfigError(f"{name} must be {wanted}, got {shown(number)}")
    return number


def latents_asked(value: object, context: int | None) -> int | None:
    """Check a number of latents before a row of that size is built; None stays None.

    Args:
        value: the requested number.
        context: the model's maximum number of positions; None = unknown.

    Raises:
        ConfigError: not a whole number, negative, or more than the model has positions.
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        raise ConfigError(f"the number of latents must be 0 or more, got {shown(value)}")
    most = MOST_LATENTS if context is None else context
    if isinstance(value, int) and value > most:
        raise ConfigError(f"{shown(value)} latents do not fit into the model, which takes {most} positions; ask for fewer")
    return whole(value, "the number of latents")


def samples_differ(samples: int, temperature: float, then: str = "set temperature, e.g. to 1.0") -> None:
    """Refuse several samples where nothing is drawn.

    Args:
        then: what to do instead, in words.

    Raises:
        ConfigError: more than one sample at temperature 0.
    """
    if samples > 1 and temperature == 0:
        raise ConfigError(f"{samples} samples at temperature 0 would all be the same; {then}")


def spoken(value: object, name: str) -> str:
    """Check that a value is a non-empty, encodable text; returns it without surrounding white space.

    Raises:
        DataError: something else.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name} must be a text that is not empty, got {shown(value)}")
    return readable(value, name).strip()


def readable(text: str, name: str) -> str:
    """Check that a text can be encoded in UTF-8; tokenizers fail on half of a surrogate pair.

    Raises:
        DataError: it cannot.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} is no valid text: it holds half of a surrogate pair, {text[error.start]!a}, as character "
            f"{error.start + 1}; write the whole character, or remove it"
        ) from None
    return text


def shown(value: object, most: int = 60) -> str:
    """A value for use in a message: short and on one line."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_DIGITS:
        return "a number of more than 400 digits"
    try:
        text = ascii(value) if isinstance(value, str) and not _utf8(value) else repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def api_url(text: str, name: str) -> str:
    """The base URL of an API, without a slash at its end.

    Raises:
        ConfigError: it is none; calls it `name`.
    """
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query + parts.fragment
        right = right and text.isascii() and text.isprintable() and " " not in text
    except ValueError:  # a port that is none
        right = False
    if not right:
        raise ConfigError(f"{name} must be the base URL of an API, e.g. http://localhost:8000/v1; got {shown(text)}")
    return text.rstrip("/")


def _utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def number_of(text: str) -> int | None:
    """The number in a text of one to nine ASCII digits; None for any other text.

    `str.isdigit` also accepts superscripts and digits of other scripts, some of which `int` refuses.
    """
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else None


def parse_json(text: str) -> Any:
    """Parse untrusted JSON.

    Raises:
        ValueError: invalid JSON, a non-finite or overlong number, or nested too deeply; says which.
    """
    try:
        value = json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_constant)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    level, depth = list[object]([value]), 0
    while level := [part for one in level for part in _parts(one)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
    return value


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > _DIGITS or not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.20} is beyond every number that a computer holds")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")
