"""Read the weights of a released checkpoint in the forms in which they are published.

    one file        model.safetensors; pytorch_model.bin, *.pt, *.pth; torch.save without an ending (checkpoint_25)
    several files   model-00001-of-00004.safetensors (or .bin), with an index or without
    a folder        with one of these in it

Other files are never opened, especially config.json (released ones are empty or belong to another model). Torch files are
read with `weights_only=True`, and refused if that is not enough. Tensors stay on disk until they are used, if the format
allows it.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unspoken.core.files import parse_json, sha256
from unspoken.errors import CheckpointError
from unspoken.importers.rules import listed

_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<total>\d+)\.(?P<kind>safetensors|bin)")
_INDEX = (".safetensors.index.json", ".bin.index.json")
_TORCH = (".bin", ".pt", ".pth", ".ckpt")
_BESIDE_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Torch files of trainers that are not weights."""

_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of a checkpoint.

    Attributes:
        path: the given path.
        tensors: by their key in the file.
        files: the files that were read.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]

    def sources(self) -> list[dict[str, Any]]:
        """Name, size and SHA-256 of every file, for the record."""
        found = []
        for path in self.files:
            found.append({"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)})
        return found


def read_weights(path: str | Path) -> Weights:
    """Read all tensors of a checkpoint, given as a file, one shard, an index, or a folder.

    Raises:
        CheckpointError: no weights or several sets, a missing or truncated file, or one that is not safe to read.
    """
    path = Path(path)
    files, promised = files_of(path)
    tensors: dict[str, Tensor] = {}
    owner: dict[str, Path] = {}
    for file in files:
        for key, tensor in _read(file).items():
            if key in tensors:
                raise CheckpointError(
                    f"{key} stands in {owner[key].name} and in {file.name}; they are not shards of one set: give one file"
                )
            tensors[key], owner[key] = tensor, file
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; give the file with the weights")
    if lost := sorted(key for key, name in promised.items() if key not in tensors or owner[key].name != name):
        raise CheckpointError(
            f"{path}: the index names {len(lost)} tensors that are not in their files: {listed(lost)}; take another copy"
        )
    return Weights(path=path, tensors=tensors, files=tuple(files))


def files_of(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a path, and their index (tensor -> file name)."""
    if path.is_dir():
        return _files_in(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a checkpoint's file or folder (this command downloads nothing)")
    if path.name.endswith(_INDEX):
        if (index := _index(path)) is None:
            raise CheckpointError(f"{path} is empty or broken; take another copy, or give the folder")
        return _indexed(path, index)
    if found := _SHARD.fullmatch(path.name):
        return _shards(path.parent, [path.name], found), {}
    return [path], {}


def _files_in(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The set of weights in a folder; safetensors are preferred to torch files, and an index to bare shards."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    weights = [name for name in names if not name.startswith(_BESIDE_WEIGHTS)]
    kinds = (
        (".safetensors.index.json", [name for name in weights if name.endswith(".safetensors")]),
        (".bin.index.json", [name for name in weights if name.endswith(_TORCH)]),
        (None, [name for name in weights if "." not in name and _looks_like_torch(folder / name)]),
    )
    for ending, kind in kinds:
        indices = [name for name in names if ending is not None and name.endswith(ending)]
        if len(indices) == 1 and (index := _index(folder / indices[0])) is not None:
            return _indexed(folder / indices[0], index)
        shards = [found for name in kind if (found := _SHARD.fullmatch(name))]
        if shards and len(shards) == len(kind) and len({(found["name"], found["total"]) for found in shards}) == 1:
            return _shards(folder, kind, shards[0]), {}
        if len(kind) == 1:
            return [folder / kind[0]], {}
        if kind:
            raise CheckpointError(f"{folder} holds {len(kind)} checkpoints: {listed(kind)}; give one of these files")
    raise CheckpointError(
        f"{folder} holds no weights (.safetensors, {', '.join(_TORCH)}, or a file of torch.save); "
        f"it has: {listed(names) or 'nothing'}"
    )


def _index(path: Path) -> dict[str, str] | None:
    """An index's table (tensor -> file), or None if the file is empty or broken."""
    try:
        table = parse_json(path.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return table if isinstance(table, dict) and table else None


def _indexed(path: Path, table: dict[str, str]) -> tuple[list[Path], dict[str, str]]:
    names = sorted(set(map(str, table.values())))
    if odd := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{path} names files outside its folder: {listed(odd)}; take another copy")
    if lost := [name for name in names if not (path.parent / name).is_file()]:
        raise CheckpointError(
            f"{path.parent} lacks {len(lost)} of {len(names)} weight files that {path.name} names: {listed(lost)}; "
            "download them too"
        )
    return [path.parent / name for name in names], table


def _shards(folder: Path, names: Sequence[str], one: re.Match[str]) -> list[Path]:
    """All files of the set that one of them belongs to."""
    total, digits = int(one["total"]), len(one["number"])
    needed = [f"{one['name']}-{k:0{digits}d}-of-{one['total']}.{one['kind']}" for k in range(1, total + 1)]
    if lost := [name for name in needed if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} lacks {len(lost)} of {total} weight files: {listed(lost)}; download them too")
    if odd := sorted(set(names) - set(needed)):
        raise CheckpointError(f"{folder} holds files of another set beside {needed[0]}: {listed(odd)}; give one set")
    return [folder / name for name in needed]


def _looks_like_torch(path: Path) -> bool:
    """A file without an ending: of torch.save (a zip archive, or a pickle of before 2020), or a git-lfs pointer to one."""
    head = _head(path)
    return head.startswith((b"PK\x03\x04", b"\x80\x02", _POINTER))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of one file."""
    head = _head(path)
    if head == _POINTER:
        raise CheckpointError(
            f"{path} is a git-lfs pointer ({path.stat().st_size} bytes of text), not the weights; run `git lfs pull` where "
            "it was cloned, or download the file itself"
        )
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes); download it again")
    return _read_safetensors(path) if path.name.endswith(".safetensors") else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error}); download it again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    """A state dict saved by torch; only tensors are allowed."""
    archive = zipfile.is_zipfile(path)
    if not archive and not _head(path).startswith(b"\x80"):  # neither form of torch.save
        raise CheckpointError(f"{path} is truncated or no file of torch.save; download it again")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))  # the rest is advice to switch the check off
        what = f" ({named[1]})" if named else ""
        raise CheckpointError(
            f"{path} is no plain dictionary of tensors: reading it would run code that it brings along{what}, so it is "
            "refused; ask its author for safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is truncated or no file of torch.save ({first:.120}); download it again") from error
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected a state dict (name -> tensor)")
    if odd := [str(key) for key, value in data.items() if not (isinstance(key, str) and _is_plain(value))]:
        raise CheckpointError(
            f"{path} is no plain state dict: {len(odd)} entries are no tensors: {listed(odd)}; save the dictionary of "
            "tensors inside it as a file of its own"
        )
    return dict(data)


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor with numbers of its own, not one that is sparse, quantized, or has none (meta)."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not (value.is_quantized or value.is_meta)
