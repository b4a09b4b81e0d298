"""Import released checkpoints as run directories. Every tensor is accounted for, or the import fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unspoken.importers.released import Imported, import_checkpoint

__all__ = ["Imported", "import_checkpoint"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unspoken.importers' has no attribute {name!r}")
    from unspoken.importers import released

    return getattr(released, name)
