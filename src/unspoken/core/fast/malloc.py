"""Keep freed memory for the next step on a CPU, use large pages, and explain errors of too little memory.

glibc would hand freed memory back, and every step would fetch it anew.

A training step allocates and frees gigabytes in blocks of megabytes. By default glibc maps each large block and unmaps it
when it is freed, and the first touch of every page is a fault that the kernel answers with a page of zeros.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from unspoken.core.fast.switch import is_on
from unspoken.core.rows.batch import Batch
from unspoken.core.weightless import is_weightless
from unspoken.errors import TrainingError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of mallopt(3), malloc.h
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**28}
_GROWN = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**17}
"""The values that glibc's own thresholds grow to in a process that frees large blocks; setting one of them stops the
growth."""


@contextlib.contextmanager
def keeping_freed(device_type: str) -> Iterator[bool]:
    """Context manager: the process keeps the memory that it frees, and gives it back at the end.

    Args:
        device_type: where training runs; nothing is done unless it is "cpu", or on the plain path (`core/fast/switch.py`).

    Yields:
        Whether memory is kept: with glibc on Linux only.
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
    """Return free memory to the system, if the C library can."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None


_LARGE_PAGE = 2**21
_MADV_HUGEPAGE = 14  # of madvise(2), sys/mman.h


def in_large_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor on the CPU in pages of 2 MB, as far as Linux has them to give: what is read from one end to
    the other is then read up to a fifth faster.
    """
    size = math.prod(shape) * dtype.itemsize
    pages = (size + _LARGE_PAGE // 2) // _LARGE_PAGE  # a last page of which less than half is used stays a small one
    libc = _glibc()
    if not pages or libc is None or is_weightless():
        return torch.empty(shape, dtype=dtype)
    memory = torch.empty(size + 2 * _LARGE_PAGE, dtype=torch.uint8)
    first = -memory.data_ptr() % _LARGE_PAGE
    start = ctypes.c_void_p(memory.data_ptr() + first)
    libc.madvise(start, ctypes.c_size_t(pages * _LARGE_PAGE), _MADV_HUGEPAGE)  # only advice: nothing to do if it fails
    return memory[first : first + size].view(dtype).view(*shape)


@contextlib.contextmanager
def explained_memory(step: int, part: Batch, tokens: int | None) -> Iterator[None]:
    """Context manager that turns an out-of-memory error of a pass into one that says what to do.

    Args:
        step: of the run, counted from 0.
        part: the micro-batch.
        tokens: `train.micro_batch_tokens`.

    Raises:
        TrainingError: out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        rows, T = part.ids_BT.shape
        smaller = f"train.micro_batch_size below {rows}" if tokens is None else f"train.micro_batch_tokens below {rows * T}"
        raise TrainingError(
            f"out of memory at step {step + 1}, in a pass of {rows} rows of up to {T} positions; set {smaller}: gradients "
            f"add up to the same step; or train.max_positions below {T}, to leave long examples out"
        ) from error
