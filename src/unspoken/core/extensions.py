"""Functions of rooms above, called from below by name; the package's face says where each of them is.

So core can offer a rule, or a precision, whose code it does not import and could be without.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

_PLACES: dict[str, str] = {}


def extend(places: Mapping[str, str]) -> None:
    """Say where functions are: {name: "module:function"}. A later place for a name takes that of an earlier one."""
    _PLACES.update(places)


def extension(name: str) -> Callable[..., Any]:
    """The function of a name; its module is loaded now.

    Raises:
        KeyError: nobody has said where it is.
    """
    module, _, function = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), function)
