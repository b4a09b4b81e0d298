"""Detect changed weights, for what is derived from them: copies in another layout, caches of states.

PyTorch counts writes into a tensor (`Tensor._version`), and a replaced tensor has another address. Fused optimizers write
without counting; once this module is imported, their steps are counted too. Writes through `.data` are never counted, and
freed memory is reused. So where an error would be serious, a checksum (`seal`) is compared as well from time to time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import register_optimizer_step_post_hook


def version(tensors: Iterable[Tensor]) -> Any:
    """A cheap value that changes when a tensor is replaced or written to, with the exceptions that the module's docstring
    names.

    Writes into tensors made in inference mode are never counted.
    """
    return tuple((t.data_ptr(), t.dtype, None if t.is_inference() else t._version) for t in tensors)


@torch.no_grad()
def seal(tensors: Iterable[Tensor]) -> list[int]:
    """A checksum: two numbers per tensor, from its bits and their order. Reads everything twice, on its device."""
    sums: dict[torch.device, list[Tensor]] = {}
    for t in tensors:
        sums.setdefault(t.device, []).extend(_sums(t.detach()))
    return [number for part in sums.values() for number in torch.stack(part).tolist()]


def _sums(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sums over rows and over columns, modulo 2^64."""
    bits = tensor.contiguous().view(-1).view(torch.uint8)
    kind = next(k for k in (torch.int64, torch.int32, torch.int16, torch.uint8) if bits.numel() % k.itemsize == 0)
    words = bits.view(kind)
    rows = tensor.shape[0] if tensor.ndim > 1 and tensor.shape[0] and words.numel() % tensor.shape[0] == 0 else 1
    table = words.view(rows, -1)
    return _weighted(table.sum(dim=1, dtype=torch.int64)), _weighted(table.sum(dim=0, dtype=torch.int64))


def _weighted(sums_n: Tensor) -> Tensor:
    # Odd factors far apart: rows that change places, or go up and down by the same, do not cancel.
    factors_n = torch.arange(len(sums_n), device=sums_n.device) * 0x1E3779B97F4A7C15 + 1
    return (sums_n * (factors_n | 1)).sum()


def _count(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Count the step of a fused optimizer as a write."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            increment_version([p for p in group["params"] if p.grad is not None])


register_optimizer_step_post_hook(_count)
