"""Lets core call functions of higher rooms by name, without importing them; `unspoken/__init__.py` registers their places.

So core can offer rules and precisions from optional code.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

_PLACES: dict[str, str] = {}


def extend(places: Mapping[str, str]) -> None:
    """Register functions: {name: "module:function"}. A later registration of a name replaces an earlier one."""
    _PLACES.update(places)


def extension(name: str) -> Callable[..., Any]:
    """Import the function registered under a name.

    Raises:
        KeyError: no function is registered under the name.
    """
    module, _, function = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), function)
