"""The processes that train a run together. A failure on one ends all, with its message; none waits forever.

What processes tell each other here goes over gloo, on the host, whatever the gradients go over. Before it waits, each leaves
a sign in the store that the processes found each other by: the number of its call. So whoever has waited too long, or is cut
off, can say which process has not come.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env

from unspoken.errors import ConfigError, TrainingError, UnspokenError
from unspoken.evaluation.processes import started

T = TypeVar("T")

_OTHERS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""accelerate's ways to shard a model, by the environment variable that its launcher sets."""


def new_accelerator(precision: str, minutes: float) -> Accelerator:
    """The `Accelerator` of a run. Precision from accelerate's own config or launcher is ignored, with a warning.

    Args:
        precision: `train.precision`.
        minutes: `train.rank_timeout`.

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
    waiting = InitProcessGroupKwargs(timeout=timedelta(minutes=minutes))
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
        minutes: how long a process waits for the others before it ends (`train.rank_timeout`).
        name: of these calls; a thread has its own, so that its calls do not meet those of another.
    """

    def __init__(self, accelerator: Accelerator, minutes: float, name: str = "training") -> None:
        self.accelerator, self.minutes, self.name = accelerator, minutes, name
        self.index, self.count = accelerator.process_index, accelerator.num_processes
        self.doing, self._calls = "starting", 0
        self._group: Any = None
        if self.count > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(minutes=minutes))

    def beside(self, name: str) -> Ranks:
        """The same processes, for the calls of a thread. All processes must ask for it."""
        return Ranks(self.accelerator, self.minutes, name)

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
            TrainingError: another process has failed, and says why; or has not come in time. The failing process raises its
                own error.
        """
        if self.count == 1:
            return [work()]
        made: Any = None
        failed: Exception | None = None
        try:
            made = work()
        except Exception as error:  # whatever it is, the others must know
            failed = error
        everyone: Any = [None] * self.count
        self.sign()
        # Its own failure counts more than that of telling it.
        with self.told() if failed is None else contextlib.suppress(RuntimeError):
            dist.all_gather_object(everyone, (made, None if failed is None else _words(failed)), group=self._group)
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

    def sign(self) -> None:
        """Leave the sign that this process has come so far. All processes leave equally many."""
        if self.count > 1:
            self._calls += 1
            self._store().set(self._key(self.index), str(self._calls))

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Context manager around what communicates.

        Raises:
            TrainingError: another process has ended, or hangs; says which.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not (isinstance(error, dist.DistBackendError) or "gloo" in str(error)):
                raise
            raise TrainingError(self._late(error)) from error

    def _late(self, error: RuntimeError) -> str:
        """Which processes have not come to the call that this one waits at."""
        calls: dict[int, int] = {}

        def look() -> None:
            store = self._store()
            for index in range(self.count):
                calls[index] = int(store.get(self._key(index))) if store.check([self._key(index)]) else 0

        looks = threading.Thread(target=look, daemon=True)  # the process that has the store may be the one that hangs
        looks.start()
        looks.join(timeout=_LOOK)
        here = f"while {self.doing}"
        if len(calls) < self.count:
            return f"process 0, or what it was started by, gives no answer {here}; it has ended, or hangs: see what it said"
        late = [index for index, count in calls.items() if count < self._calls]
        if not late:
            line = " ".join(str(error).split())
            return f"processes have lost each other {here} ({line:.200}); see what the others said"
        who = f"process{'es' if len(late) > 1 else ''} {', '.join(map(str, late))}"
        rule = f"nobody waits longer than train.rank_timeout={self.minutes:g} minutes"
        return (
            f"{who} did not come {here}: it has ended, or hangs ({rule}); see what it said, and run the same command again"
        )

    def _store(self) -> Any:
        return dist.distributed_c10d._get_default_store()

    def _key(self, index: int) -> str:
        return f"unspoken/{self.name}/{index}"


_LOOK = 10.0
"""Seconds to look for signs of other processes."""


def _words(error: Exception) -> str:
    """An error in one line."""
    line = " ".join(str(error).split())
    return line if isinstance(error, UnspokenError) else f"{type(error).__name__}: {line}"
