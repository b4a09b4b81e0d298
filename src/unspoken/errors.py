"""All errors that unspoken raises on purpose. A message says what is wrong, what was expected, what was given, and what to
try.

The command line prints the message on one line and exits with `exit_code`; Python users catch `UnspokenError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnspokenError(Exception):
    """Base class. The message is written for the person who made the call."""

    exit_code = 2


class ConfigError(UnspokenError):
    """A recipe, override or configuration value that cannot be used. Names the field."""


class DataError(UnspokenError):
    """Input data that cannot be used. Names the file and line, or the example."""


class BackboneError(UnspokenError):
    """A base model or tokenizer that unspoken cannot use."""


class RunError(UnspokenError):
    """A run directory that is missing, truncated, or from another model."""


class CheckpointError(UnspokenError):
    """A released checkpoint that cannot be imported. Names the file, or the tensors."""


class TrainingError(UnspokenError):
    """Training that had to stop (non-finite loss, disk full). The last good checkpoint is kept."""


class OverloadError(UnspokenError):
    """Too many requests are waiting; try again a moment later."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A closing phrase for an unknown name: the nearest options if any are near, then all of them, be they not too many."""
    known = sorted(options)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    if len(known) > _MOST_NAMED:
        return f"{hint}{len(known)} are known, see `unspoken list`"
    return f"{hint}known: {', '.join(known)}"


_MOST_NAMED = 40
"""Names that a message lists; more are a paragraph that nobody reads."""
