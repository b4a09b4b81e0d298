"""States of a training in shards: every process writes and reads its own rows, by PyTorch's distributed checkpoints.

    state/step-0000120/state.safetensors     random states
    state/step-0000120/state.json            as of any state (`core/seal.py`), with "shards": true
    state/step-0000120/shards/*.safetensors  a file per process: rows of trained weights and of their optimizer state

The files say which rows they hold, so another number of processes can go on, in shards or whole; and processes in shards can
go on from a state that was saved whole. Nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from unspoken.core.files import reason
from unspoken.core.seal import hashes
from unspoken.errors import RunError, TrainingError
from unspoken.runs.directory import RunDir
from unspoken.training.ranks import Ranks
from unspoken.training.sharding.shards import Shards
from unspoken.training.sharding.whole import Placed
from unspoken.training.state import name_of, restore, state_tensors

FOLDER = "shards"
"""Folder of the processes' files in a state."""


def save_state(
    run: RunDir,
    ranks: Ranks,
    placed: Placed,
    optimizer: torch.optim.Optimizer,
    step: int,
    random: Mapping[str, Tensor],
    info: Mapping[str, object],
) -> None:
    """Write a state; all processes call it together.

    Args:
        random: the random states of all processes.
        info: more entries of state.json.

    Raises:
        TrainingError: it cannot be written, by this process or by another.
    """
    tensors = state_tensors(placed.trained, optimizer)
    if not isinstance(placed, Shards):
        ranks.alone(lambda: run.save_state(step, {**tensors, **random}, info))
        return
    parts = {key: placed.as_shard(name_of(key), tensor) for key, tensor in tensors.items()}
    told: list[Path | None] = []

    def tell(folder: Path | None) -> Path | None:
        """Where all write, from the main process; None = nowhere, it has failed."""
        box: list[Any] = [None if folder is None else str(folder)]
        dist.broadcast_object_list(box, src=0)
        told.append(folder)
        return None if box[0] is None else Path(box[0])

    def together(folder: Path) -> dict[str, str]:
        _write(parts, folder / FOLDER)
        mine = ranks.gather(lambda: hashes(folder, ranks.share(sorted((folder / FOLDER).iterdir()))))
        return {file: hash for part in mine for file, hash in part.items()}

    def main() -> None:
        try:
            run.save_state(step, random, {**info, FOLDER: True}, more=lambda new: together(_told(tell(new))))
        finally:
            if not told:
                tell(None)

    def other() -> None:
        if (folder := tell(None)) is not None:
            together(folder)

    ranks.gather(main if ranks.main else other)


def _told(folder: Path | None) -> Path:
    assert folder is not None
    return folder


def _write(parts: dict[str, Tensor], folder: Path) -> None:
    """Write this process's part; a failure of one process is one of all."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about itself
            save(parts, storage_writer=writer)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        why, hint = reason(first)
        raise TrainingError(f"cannot write {folder}: {why}; {hint}; training goes on from the last saved state") from error


def load_state(
    run: RunDir,
    placed: Placed,
    optimizer: torch.optim.Optimizer,
    fused: bool,
    tensors: Mapping[str, Tensor],
    info: Mapping[str, Any],
) -> None:
    """Restore weights and optimizer from a state, whichever way it was saved. Needs no other process.

    Args:
        fused: see `restore`.
        tensors, info: what `RunDir.latest_state` gave.

    Raises:
        RunError: the state is for other parameters.
    """
    if info.get(FOLDER):
        folder = run.path / "state" / f"step-{info['step']:08d}" / FOLDER
        tensors = _read(folder, placed)
    elif isinstance(placed, Shards):
        tensors = {
            key: placed.rows_of(name, t) if (name := name_of(key)) in placed.trained else t for key, t in tensors.items()
        }
    restore(tensors, placed.trained, optimizer, fused, run.path)


def _read(folder: Path, placed: Placed) -> dict[str, Tensor]:
    """What this process needs of the files."""
    reader = HuggingFaceStorageReader(str(folder))
    try:
        about = reader.read_metadata().state_dict_metadata
        wanted: dict[str, Tensor] = {}
        for key, one in about.items():
            kept: Any = one
            whole = torch.empty(kept.size, dtype=kept.properties.dtype, device="meta")
            name = name_of(key)
            rows = placed.rows_of(name, whole) if isinstance(placed, Shards) and name in placed.trained else whole
            wanted[key] = torch.empty_like(rows, device="cpu")
        targets = {
            key: placed.as_shard(name_of(key), t) if isinstance(placed, Shards) and name_of(key) in placed.trained else t
            for key, t in wanted.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(targets, storage_reader=reader, no_dist=True)
    except (OSError, ValueError, KeyError, RuntimeError, CheckpointException) as error:
        why = str(error).splitlines()[0]
        raise RunError(f"{folder} cannot be read ({why:.120}); delete the state to go on from another") from error
    return wanted
