"""A model without its user's hooks, while we try it: what a hook counts or changes are passes that somebody asked for."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_KINDS = ("_forward_hooks", "_forward_pre_hooks")
_LIBRARIES = ("torch", "transformers", "accelerate", "peft")
"""Whose hooks are part of how a model computes: transformers, for one, collects the states of layers by hooks."""


def has_hooks(model: nn.Module) -> bool:
    """Whether somebody watches or changes the passes of a model by forward hooks of their own."""
    return any(_is_own(hook) for module in model.modules() for kind in _KINDS for hook in getattr(module, kind).values())


@contextlib.contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """Inside, forward hooks that a user has put on a model or on a part of it are not called; those of libraries are."""
    hidden: list[tuple[OrderedDict[int, Any], OrderedDict[int, Any]]] = []
    for module in model.modules():
        for kind in _KINDS:
            hooks: OrderedDict[int, Any] = getattr(module, kind)
            if any(_is_own(hook) for hook in hooks.values()):
                hidden.append((hooks, OrderedDict(hooks)))
                for number in [number for number, hook in hooks.items() if _is_own(hook)]:
                    del hooks[number]
    try:
        yield
    finally:
        for hooks, before in hidden:  # in their order; what a library has added meanwhile stays behind them
            added = {number: hook for number, hook in hooks.items() if number not in before}
            hooks.clear()
            hooks.update({**before, **added})


def _is_own(hook: Callable[..., object]) -> bool:
    """Whether a hook is no library's."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    where = getattr(hook, "__module__", None) or type(hook).__module__
    return where.partition(".")[0] not in _LIBRARIES
