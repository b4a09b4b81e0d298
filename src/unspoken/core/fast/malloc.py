"""Memory: what to say where it does not suffice; and why freed memory is kept for the next step, on a CPU.

glibc would hand it back, and every step would fetch it anew.

A step allocates and frees gigabytes in blocks of megabytes. By default glibc maps large blocks one by one and unmaps them
when they are freed, and each first touch of a page is a fault that the kernel answers with a page of zeros.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

import torch

from unspoken.core.fast.switch import is_on
from unspoken.errors import TrainingError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of mallopt(3), malloc.h
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**28}
_GROWN = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**17}
"""What glibc's own thresholds grow to in a process that frees large blocks; setting any of them ends the growing."""


@contextlib.contextmanager
def keeping_freed(device_type: str) -> Iterator[bool]:
    """Inside, this process keeps the memory that it frees; on leaving, it is given back.

    Args:
        device_type: where the training runs; nothing is done but for "cpu", nor on the plain path (`core/fast/switch.py`).

    Yields:
        Whether it does: glibc on Linux only.
    """
    libc = _glibc() if device_type == "cpu" and is_on() else None
    if libc is None:
        yield False
        return
    for option, value in _KEEPING.items():
        libc.mallopt(option, value)
    try:
        yield True
    finally:
        for option, value in _GROWN.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def give_back() -> None:
    """Hand memory that is free now back to the system, where the C library can."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None


@contextlib.contextmanager
def explained_memory(step: int, part: Any) -> Iterator[None]:
    """Say what to do where a forward or backward pass does not fit.

    Raises:
        TrainingError: out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        rows, T = part.ids_BT.shape
        raise TrainingError(
            f"out of memory at step {step + 1}, in a pass of {rows} rows of up to {T} positions; set train.micro_batch_size "
            f"below {rows}: gradients add up to the same step; or train.max_positions below {T}, to leave long examples out"
        ) from error
