"""The one switch for everything in `core/fast`: on, or the plain path, which gives the same numbers up to rounding.

The setting holds for a block of code (`using`), such as a run's training or a call of a model; shortcuts look it up where
they begin. The environment variable UNSPOKEN_FAST=0 turns everything off in a process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

from unspoken.core.config import config_class
from unspoken.errors import ConfigError

VARIABLE = "UNSPOKEN_FAST"
"""The environment variable; "0" turns everything off, whatever a run or a call says."""


@config_class
class FastConfig:
    """Settings of speed. They do not change what is trained; results are the same up to rounding."""

    # packed passes, shared gradients, losses in pieces, oneDNN's layouts, kept memory, caches; answering by the scheduler
    enabled: bool = True
    states: str | None = "~/.cache/unspoken/states"  # where a frozen assistant's states are kept; None = nowhere
    # Host memory for what a frozen model has read before the slots of its prompts; 0 = read it at every step. With it a
    # resumed run goes on up to rounding only: what is kept was read in another batch.
    prefix_gb: float = 1.0

    def __post_init__(self) -> None:
        if self.states is not None and not self.states.strip():
            raise ConfigError("states is empty; give a folder, or null to keep none")
        if not self.prefix_gb >= 0:
            raise ConfigError(f"prefix_gb must be 0 or more, got {self.prefix_gb}")


PLAIN = FastConfig(enabled=False, states=None, prefix_gb=0.0)
"""No shortcut and no cache."""

_CURRENT: ContextVar[FastConfig] = ContextVar("shortcuts taken", default=FastConfig())  # noqa: B039 - it is frozen


def settings() -> FastConfig:
    """The settings in force; `PLAIN` if everything is off."""
    now = _CURRENT.get()
    return now if now.enabled and os.environ.get(VARIABLE) != "0" else PLAIN


def is_on() -> bool:
    """Whether shortcuts are on."""
    return _CURRENT.get().enabled and os.environ.get(VARIABLE) != "0"


@contextlib.contextmanager
def using(config: FastConfig | None) -> Iterator[None]:
    """Context manager: a config is in force; None = keep the current one."""
    token = _CURRENT.set(_CURRENT.get() if config is None else config)
    try:
        yield
    finally:
        _CURRENT.reset(token)
