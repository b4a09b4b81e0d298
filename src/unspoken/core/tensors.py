"""Tensors in safetensors files. Shared tensors are written once, and equal tensors give identical files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unspoken.core.files import parse_json
from unspoken.errors import RunError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors. Of entries that share memory one is written, and the others' names go into the metadata."""
    owner: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and key in owner:
            aliases[name] = owner[key]
        else:
            owner[key] = name
            unique[name] = tensor.detach().contiguous().cpu()
    # One entry: safetensors writes several in an order that changes from process to process.
    save_file(unique, str(path), metadata={"aliases": json.dumps(aliases)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        RunError: the file is missing or truncated.
    """
    try:
        tensors = load_file(str(path))
        with safe_open(str(path), framework="pt") as file:
            aliases = parse_json((file.metadata() or {}).get("aliases", "{}"))
        return {**tensors, **{name: tensors[owner] for name, owner in aliases.items()}}
    except PermissionError as error:
        raise RunError(f"{path} cannot be read: permission denied; ask its owner for it") from error
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"{path} is missing or truncated ({error}); take another checkpoint, or train again") from error
