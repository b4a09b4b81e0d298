"""The processes that train a run together. A failure on one ends all, with its message; none waits forever.

What processes tell each other here goes over gloo, on the host, whatever the gradients go over. In the store that they
found each other by, each leaves signs: before it waits, the number of its call; every few seconds, from a thread, that it
lives and how many exchanges it has begun, those inside of passes too; and what it failed with. So whoever has waited too
long, or is cut off, can say which process has not come, or why.
"""

from __future__ import annotations

import contextlib
import itertools
import json
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

    _made = itertools.count()

    def __init__(self, accelerator: Accelerator, minutes: float, name: str | None = None) -> None:
        self.accelerator, self.minutes = accelerator, minutes
        self.training = f"unspoken/{next(self._made)}" if name is None else ""  # all processes make equally many
        self.name = name or "training"
        self.index, self.count = accelerator.process_index, accelerator.num_processes
        self.doing, self._calls = "starting", 0
        self._group: Any = None
        if self.count > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(minutes=minutes))

    def beside(self, name: str) -> Ranks:
        """The same processes, for the calls of a thread. All processes must ask for it."""
        found = Ranks(self.accelerator, self.minutes, name)
        found.training = self.training
        return found

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
                raise _ElsewhereError(f"process {number} has stopped: {words}")
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
            self._store().set(self._key(self.name, self.index), str(self._calls))

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
            raise _ElsewhereError(self._late(error)) from error

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Context manager around a training: leaves signs of life, and in the end what it failed with."""
        if self.count == 1:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        except _ElsewhereError:
            raise
        except Exception as error:
            with contextlib.suppress(RuntimeError, ValueError):  # the process that has the store may be gone
                self._first(f"process {self.index} has stopped: {_words(error)}")
            raise
        finally:
            ended.set()
            thread.join(timeout=_LOOK)

    def _beat(self, ended: threading.Event) -> None:
        """Leave a sign of life every few seconds."""
        for number in itertools.count():
            try:
                self._store().set(self._key("alive", self.index), json.dumps([number, _begun()]))
            except (RuntimeError, ValueError):  # nobody is left to tell
                return
            if ended.wait(self._pause):
                return

    @property
    def _pause(self) -> float:
        """Seconds between signs of life."""
        return min(2.0, self.minutes * 60 / 10)

    def _first(self, words: str) -> str:
        """What the first process said that noticed a failure; this one's words, if it is the first."""
        return self._store().compare_set(f"{self.training}/failure", "", words).decode()

    def _late(self, error: RuntimeError) -> str:
        """Which processes have not come to the call that this one waits at, or what ended them."""
        found: list[str] = []

        def look() -> None:
            with contextlib.suppress(RuntimeError, ValueError):
                found.append(self._first(self._blame(error)))

        looks = threading.Thread(target=look, daemon=True)  # the process that has the store may be the one that hangs
        looks.start()
        looks.join(timeout=_LOOK)
        if found:
            return found[0]
        here = f"while {self.doing}"
        return f"process 0, or what it was started by, gives no answer {here}; it has ended, or hangs: see what it said"

    def _blame(self, error: RuntimeError) -> str:
        """The same from the signs of all processes."""
        store, others = self._store(), [index for index in range(self.count) if index != self.index]

        def read(kind: str) -> dict[int, Any]:
            keys = {index: self._key(kind, index) for index in others}
            return {index: json.loads(store.get(key)) for index, key in keys.items() if store.check([key])}

        before = read("alive")
        threading.Event().wait(3 * self._pause)
        after, mine, calls = read("alive"), _begun(), read(self.name)
        silent = [index for index in before if before[index] == after[index]]
        late = [
            index
            for index in others
            if calls.get(index, 0) < self._calls
            or (index in after and any(after[index][1].get(group, 0) < number for group, number in mine.items()))
        ]
        if not (who := silent or late):
            line = " ".join(str(error).split())
            return f"processes have lost each other while {self.doing} ({line:.200}); see what the others said"
        what = "gives no sign of life: it has ended, or was stopped" if silent else "did not come: it hangs"
        named = f"process{'es' if len(who) > 1 else ''} {', '.join(map(str, who))}"
        return (
            f"{named} {what} (while {self.doing}; nobody waits longer than train.rank_timeout={self.minutes:g} minutes); "
            "see what it said, and run the same command again"
        )

    def _store(self) -> Any:
        return dist.distributed_c10d._get_default_store()

    def _key(self, kind: str, index: int) -> str:
        return f"{self.training}/{kind}/{index}"


_LOOK = 15.0
"""Seconds to look for signs of other processes."""


class _ElsewhereError(TrainingError):
    """What failed is another process."""


def _begun() -> dict[str, int]:
    """How many exchanges this process has begun, by group of processes."""
    world, found = dist.distributed_c10d._world, {}
    groups: list[Any] = list(world.pg_map)
    for group in groups:
        with contextlib.suppress(RuntimeError):  # a backend that does not count
            found[world.pg_names[group]] = group._get_sequence_number_for_group()
    return found


def _words(error: Exception) -> str:
    """An error in one line."""
    line = " ".join(str(error).split())
    return line if isinstance(error, UnspokenError) else f"{type(error).__name__}: {line}"
