"""The processes that train a run together. A failure on one ends all, with its message; none waits forever."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object, parse_flag_from_env

from unspoken.errors import ConfigError, TrainingError, UnspokenError
from unspoken.evaluation.processes import started

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)
"""How long a process waits for others, which may have longer answers to finish or a large model to write."""

_OTHERS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""accelerate's ways to shard a model, by the environment variable that its launcher sets."""


def new_accelerator(precision: str) -> Accelerator:
    """The `Accelerator` of a run. Precision from accelerate's own config or launcher is ignored, with a warning.

    Args:
        precision: `train.precision`.

    Raises:
        ConfigError: accelerate is set to shard the model, or this process already uses it with another precision.
    """
    for flag, name in _OTHERS.items():
        if parse_flag_from_env(flag):
            raise ConfigError(
                f"accelerate is set to {name}, which does not know of passes of latents: set it to MULTI_GPU, and "
                "train.sharding=zero2 to put the model in shards"
            )
    theirs = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if theirs not in ("no", {"fp32": "no"}.get(precision, precision)):
        warnings.warn(
            f"accelerate is set to mixed_precision={theirs}, which does not count here: train.precision={precision} does; "
            f"set that if you want {theirs}",
            stacklevel=3,
        )
    waiting = InitProcessGroupKwargs(timeout=_PATIENCE)
    count = started()
    # Without a GPU, accelerate takes each of several processes for the only one, unless ACCELERATE_USE_CPU is set.
    cpu = count > 1 and not torch.cuda.is_available()
    try:
        made = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[waiting])
    except ValueError as error:
        raise ConfigError(f"accelerate cannot be used: {error}") from error
    if made.num_processes != count:
        raise ConfigError(
            f"{count} processes were started (WORLD_SIZE), but accelerate sees {made.num_processes}; start them with "
            "torchrun or `accelerate launch`, or unset WORLD_SIZE"
        )
    if made.device.type == "mps":
        warnings.warn(
            "training on mps (Apple's GPU), which this project has not tried; ACCELERATE_USE_CPU=true trains on the CPU",
            stacklevel=3,
        )
    return made


def leave_group() -> None:
    """Leave the processes' group, at the end of a program: one that ends without it may be aborted by gloo's threads."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Ranks:
    """This process among all.

    Args:
        accelerator: the run's accelerator.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.index, self.count = accelerator.process_index, accelerator.num_processes

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.index == 0

    def share(self, items: list[T], index: int | None = None) -> list[T]:
        """This process's share of some items, or another's."""
        return items[(self.index if index is None else index) :: self.count]

    def gather(self, work: Callable[[], T]) -> list[T]:
        """Run work without communication on every process; all processes get all results, in order.

        Raises:
            TrainingError: another process has failed; says which and why. The failing process raises its own error.
        """
        if self.count == 1:
            return [work()]
        made: Any = None
        failed: Exception | None = None
        try:
            made = work()
        except Exception as error:  # whatever it is, the others must know
            failed = error
        everyone: list[Any] = gather_object([(made, None if failed is None else _words(failed))])
        if failed is not None:
            raise failed
        for number, (_, words) in enumerate(everyone):
            if words is not None:
                raise TrainingError(f"process {number} has stopped: {words}")
        return [made for made, _ in everyone]

    def alone(self, work: Callable[[], T]) -> T | None:
        """Run work on the main process while the others wait; those get None.

        Raises:
            TrainingError: see `gather`.
        """
        return self.gather(lambda: work() if self.main else None)[self.index]


def _words(error: Exception) -> str:
    """An error in one line."""
    line = " ".join(str(error).split())
    return line if isinstance(error, UnspokenError) else f"{type(error).__name__}: {line}"
