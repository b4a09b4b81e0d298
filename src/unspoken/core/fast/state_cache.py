"""States of a frozen model on disk, computed once and read through a memory map.

    FOLDER/<hashes of the model>/<random name>.safetensors     states of many rows one behind the other, and where each lies

A file is written under a temporary name, renamed, and never changed; several processes may write at the same time. A key is
a hash of everything that the states depend on besides the model. The folder is named by hashes of the model's weights and
config, so states of other weights are never found.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from unspoken.core.fast.weights import seal, version
from unspoken.core.files import expanded, sweep, write_file
from unspoken.errors import TrainingError

_PART = 64 << 20
"""Bytes of states collected in memory before a file is written."""

_VOLATILE = ("_name_or_path", "transformers_version", "use_cache", "architectures", "torch_dtype")
"""Config fields that do not affect states."""


def weights_hash(lm: nn.Module) -> str:
    """32 hex digits of a hash of a model's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(lm.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


class Watch:
    """Tells whether a model's weights have changed.

    Args:
        lm: the model. Writes that PyTorch does not count (`core/fast/weights.py`) are noticed after the next `look_again`.
    """

    def __init__(self, lm: nn.Module) -> None:
        self._lm = lm
        self._version: Any = None
        self._seal: list[int] | None = None
        self._sure = False

    def look_again(self) -> None:
        """Compare the weights themselves next time: anything may have been done to the model meanwhile."""
        self._sure = False

    def changed(self) -> bool:
        """Whether the weights have changed since the last call; True at first."""
        tensors = list(self._lm.state_dict(keep_vars=True).values())
        now = version(tensors)
        if now == self._version and self._sure:
            return False
        sealed, before = seal(tensors), self._seal
        self._version, self._seal, self._sure = now, sealed, True
        return sealed != before


def config_hash(lm: PreTrainedModel) -> str:
    """16 hex digits of a hash of everything in a model's config that may change its states."""
    config = {key: value for key, value in lm.config.to_dict().items() if key not in _VOLATILE}
    return hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


class StateCache:
    """States [K, D] by key.

    Args:
        folder: where the files of all models are; "~" is the user's home.
        model: name of this model's folder: `weights_hash` and `config_hash`. How the model is run belongs into the keys.

    Unwritten states are written when the object is deleted, at the latest when the interpreter ends.
    """

    def __init__(self, folder: str | Path, model: str) -> None:
        self.folder = expanded(folder) / model
        self._places: dict[str, tuple[Any, int, int]] = {}  # key -> (open file, first row, rows)
        self._read: set[str] = set()
        self._waiting: dict[str, Tensor] = {}
        self._look()
        weakref.finalize(self, _write, self.folder, self._waiting)

    def __len__(self) -> int:
        return len(self._places) + len(self._waiting)

    def _look(self) -> None:
        """Open new files; damaged ones are ignored."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            try:
                file: Any = safe_open(str(path), framework="pt")
                index = json.loads((file.metadata() or {})["index"])
                rows = file.get_slice("states").get_shape()[0]
                places = {key: (file, int(first), int(count)) for key, (first, count) in index.items()}
            except (OSError, SafetensorError, KeyError, ValueError, TypeError):
                continue
            self._places |= {key: place for key, place in places.items() if place[1] + place[2] <= rows}

    def find(self, keys: list[str]) -> list[Tensor | None]:
        """The states of each key, on the CPU; None for keys without. New files of other processes are opened first."""
        if any(key not in self._waiting and key not in self._places for key in keys):
            self._look()
        return [self._find(key) for key in keys]

    def _find(self, key: str) -> Tensor | None:
        if key in self._waiting:
            return self._waiting[key]
        if key not in self._places:
            return None
        file, first, count = self._places[key]
        return file.get_slice("states")[first : first + count]

    def put(self, states: Mapping[str, Tensor]) -> None:
        """Add states by key.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written.
        """
        self._waiting |= {key: tensor.detach().cpu().contiguous() for key, tensor in states.items()}
        if sum(tensor.nbytes for tensor in self._waiting.values()) >= _PART:
            self.flush()

    def flush(self) -> None:
        """Write all unwritten states.

        Raises:
            TrainingError: see `put`.
        """
        _write(self.folder, self._waiting)
        self._look()


def _write(folder: Path, waiting: dict[str, Tensor]) -> None:
    """Write states as one file, and forget them."""
    if not waiting:
        return
    index: dict[str, tuple[int, int]] = {}
    first = 0
    for key, tensor in waiting.items():
        index[key] = (first, len(tensor))
        first += len(tensor)
    whole = {"states": torch.cat(list(waiting.values()))}
    how = {"index": json.dumps(index)}
    then = "or name another folder in fast.states, or set it to null to compute the states at every step"
    sweep(folder)
    path = folder / f"{uuid.uuid4().hex}.safetensors"
    write_file(path, lambda new: save_file(whole, str(new), metadata=how), error=TrainingError, then=then)
    waiting.clear()
