"""What runs, seen at the level of torch's operators: logits that exist, and places where the host waits for the device.

Both are counted on any device, so that a test on a CPU holds what matters on a GPU.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero", "equal")
"""Operators whose result the host must have before it can go on: `.item()`, `bool()` of a tensor, indexing by a mask."""


class OperatorCounter(TorchDispatchMode):
    """Use as a context.

    Args:
        words: the vocabulary; tensors whose last dimension is this long, and none of whose others is the model's width, are
            taken for logits.
        width: the model's.

    Attributes:
        most: entries of the largest tensor of logits.
        head_rows: rows of logits that came out of a matrix product: how often the head ran on a position, gradients aside.
        waits: operators that make the host wait, and how often each ran.
    """

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.words, self.width = words, width
        self.most = self.head_rows = 0
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and look at what came out."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.waits[name] += 1
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor) or not tensor.ndim or tensor.shape[-1] != self.words:
                continue
            if self.width in tensor.shape[:-1]:
                continue  # a head's matrix, or its gradient
            self.most = max(self.most, tensor.numel())
            if name in ("mm", "addmm", "bmm", "linear", "_linear_pointwise"):
                self.head_rows += tensor.numel() // self.words
        return out
