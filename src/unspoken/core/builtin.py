"""Names and folders of the models in the package. Reads no weights, so that commands need not load torch."""

from __future__ import annotations

from pathlib import Path

from unspoken.errors import ConfigError

BUILTIN = "builtin:"
"""Prefix of the models that ship inside the package, e.g. "builtin:tiny"."""


def builtin(path: str) -> Path:
    """The folder of a model that ships inside the package: a run directory.

    Raises:
        ConfigError: there is no such model.
    """
    folder = Path(__file__).parents[1] / "assets" / path.removeprefix(BUILTIN)
    if not folder.is_dir():
        known = sorted(BUILTIN + p.name for p in folder.parent.glob("*") if p.is_dir())
        raise ConfigError(f"no built-in model {path!r}; known: {', '.join(known) or 'none'}")
    return folder
