"""Compare alternatives in one process: alternating rounds, medians, counts, memory.

Ratios are computed within each round, so that a slower machine slows both sides; the median of the ratios is reported.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unspoken.core.loop.trace import Cost
from unspoken.core.provenance import provenance


@dataclass(kw_only=True)
class Taken:
    """The cost of one call.

    Attributes:
        seconds: wall-clock time.
        cpu_seconds: processor time of all threads of this process.
        memory: peak bytes beyond those held before, from samples; None if not available.
    """

    seconds: float
    cpu_seconds: float
    memory: int | None


class _Peak:
    """Context manager that measures peak memory beyond that held before: exact on a GPU, sampled on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, None

    def __enter__(self) -> _Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        self._before = self._most = _resident()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()
        return self

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            self._most = max(self._most, _resident())

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        self._over.set()
        self._watch.join()
        self.bytes = max(self._most, _resident()) - self._before if self._before else None


def _resident() -> int:
    """Resident bytes of this process; 0 if not available."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def measure(call: Callable[[], object], device: torch.device) -> Taken:
    """One call."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    with _Peak(device) as peak:
        cpu, began = time.process_time(), time.perf_counter()
        call()
        wait()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Taken(seconds=seconds, cpu_seconds=cpu, memory=peak.bytes)


def paired(
    sides: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warm: bool = True,
    around: Callable[[str], AbstractContextManager[object]] | None = None,
) -> dict[str, list[Taken]]:
    """Measure every side once per round, after one warm-up, in an order that rotates from round to round.

    Args:
        around: context manager per side; then an untimed step precedes each timed one, so that memory is as in a separate
            run.
    """
    for call in sides.values() if warm else ():
        call()
    taken: dict[str, list[Taken]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in names:
            with contextlib.nullcontext() if around is None else around(name):
                if around is not None:
                    sides[name]()
                taken[name].append(measure(sides[name], device))
    return taken


def summary(taken: Sequence[Taken]) -> dict[str, Any]:
    """Medians, and every round."""
    memory = [one.memory for one in taken if one.memory is not None]
    return {
        "seconds": statistics.median(one.seconds for one in taken),
        "cpu_seconds": statistics.median(one.cpu_seconds for one in taken),
        "peak_memory": max(memory) if memory else None,
        "rounds": [asdict(one) for one in taken],
    }


def ratio(slow: Sequence[Taken], fast: Sequence[Taken], scale: float = 1.0) -> dict[str, Any]:
    """How many times faster: the median over rounds, and the range, of wall-clock and processor time.

    Args:
        scale: work of `fast` relative to `slow`.
    """
    found: dict[str, Any] = {}
    for name in ("seconds", "cpu_seconds"):
        each = [scale * getattr(s, name) / getattr(f, name) for s, f in zip(slow, fast, strict=True)]
        found[name] = {"median": statistics.median(each), "low": min(each), "high": max(each)}
    return found


def counts(cost: Cost) -> dict[str, Any]:
    """Passes, positions and the share of padding."""
    return {
        "passes": cost.passes,
        "positions": cost.positions,
        "padding_share": 1 - cost.positions / cost.slots if cost.slots else 0.0,
    }


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product on this machine, the reference for utilisation."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)  # a GPU multiplies equal numbers faster than others
    measure(lambda: a @ a, device)
    best = min(measure(lambda: [a @ a for _ in range(5)], device).seconds for _ in range(3)) / 5
    return 2 * size**3 / best


def machine(threads: int) -> dict[str, Any]:
    """The origin of figures."""
    return {"threads": threads, "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None, **provenance()}
