"""Compute the gradient of each weight matrix once for all passes, instead of once per pass.

A latent takes a pass of one column per row. The gradient of a matrix is as large as the matrix however few columns there
are, and writing and adding it in every pass costs more than its multiplications. So a pass only records its input and the
gradient of its output; their product is computed once all passes have been differentiated. The sum is the same up to its
order.

On a CPU the passes also share a copy of each matrix in oneDNN's layout for each direction (`core/fast/cpu_linear.py`), if
they have enough columns to pay for it.

How: every pass takes, besides its input, a scalar "anchor" that stands for the matrix. Autograd runs the anchor's backward
    last, after the backward of every pass that received it; by then every (input, gradient) pair has been recorded.

Shapes: N columns of a pass (all rows), I and O width in and out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from unspoken.core.fast.cpu_linear import has_layout, laid_out, product
from unspoken.core.fast.switch import is_on

LEAST = 2**16
"""Matrices with fewer entries are left alone."""

ALONE = 1024
"""A pass with at least this many columns adds its product at once: keeping its columns would cost more."""

ON_GPU = False
"""Whether passes on a GPU share too. There a small pass waits for its kernels to be launched, and the Python of a shared
layer takes longer than the two kernels that it saves: an update of 64 rows at 135M parameters on an H200 took 1.16 s
shared and 0.88 s not (`docs/speed/gpu.md`)."""

ON_CPU = True
"""The same on a CPU; False where a CPU stands for a GPU (`training/memory.py`)."""

MANY = 512
"""A layout of its own pays off from this many columns in all passes."""


class _PendingGradient:
    """What the passes of one layer have recorded; cleared when a new backward pass begins."""

    def __init__(self, layer: nn.Linear | Conv1D, columns: int) -> None:
        self.layer, self.columns = layer, columns
        self.turned = isinstance(layer, Conv1D)  # its matrix is [I, O]
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.weight: Tensor | None = None  # gradients so far
        self.bias: Tensor | None = None
        self.task = -1
        self.copies: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}
        self.layouts: dict[bool, Tensor] = {}  # copies of the matrix for forward (True) and backward

    def matrix(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in autocast's type, converted once for all passes."""
        if dtype not in self.copies:
            weight, bias = self.layer.weight, self.layer.bias
            self.copies[dtype] = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
        return self.copies[dtype]

    def product(self, input_Nx: Tensor, weight: Tensor, bias: Tensor | None, forwards: bool) -> Tensor:
        """Forward: input x matrix + bias. Backward: gradient x matrix transposed."""
        straight = forwards != self.turned  # the matrix is [out, in] of this direction
        if self.columns >= MANY and has_layout(weight):
            if forwards not in self.layouts:
                self.layouts[forwards] = laid_out(weight if straight else weight.T, min(self.columns, MANY))
            return product(input_Nx.contiguous(), self.layouts[forwards], bias)
        if bias is not None and not straight:
            return torch.addmm(bias, input_Nx, weight)
        return F.linear(input_Nx, weight if straight else weight.T, bias)

    def begin(self, task: int) -> None:
        """Begin a backward pass: drop what an earlier one has left."""
        self.task, self.parts, self.weight, self.bias = task, [], None, None

    def note(self, input_NI: Tensor, grad_NO: Tensor) -> None:
        """Record a differentiated pass. One with many columns is multiplied at once, which costs no more."""
        if (task := torch._C._current_graph_task_id()) != self.task:
            self.begin(task)
        if len(input_NI) >= ALONE:
            self.multiply(input_NI, grad_NO)
        else:
            self.parts.append((input_NI, grad_NO))

    def multiply(self, input_NI: Tensor, grad_NO: Tensor) -> None:
        """Add a product to the gradients."""
        left, right = (input_NI.T, grad_NO) if self.turned else (grad_NO.T, input_NI)
        self.weight = left @ right if self.weight is None else self.weight.addmm_(left, right)
        if self.layer.bias is not None:
            more = grad_NO.sum(0, dtype=torch.promote_types(grad_NO.dtype, torch.float32))
            self.bias = more if self.bias is None else self.bias + more


class _AnchorContext(FunctionCtx):
    notes: _PendingGradient
    kinds: tuple[torch.dtype, torch.dtype | None]
    needs_input_grad: tuple[bool, ...]


class _Anchor(torch.autograd.Function):
    """A scalar that stands for a layer's parameters."""

    @staticmethod
    def forward(ctx: _AnchorContext, weight: Tensor, bias: Tensor | None, notes: _PendingGradient) -> Tensor:
        """The value is irrelevant."""
        ctx.notes, ctx.kinds = notes, (weight.dtype, None if bias is None else bias.dtype)
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] -- the decorator hides the parameters' names
        ctx: _AnchorContext, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        """Runs after all passes have recorded their inputs and gradients."""
        notes, (weight_kind, bias_kind) = ctx.notes, ctx.kinds
        if notes.parts:
            notes.multiply(*(torch.cat(part) for part in zip(*notes.parts, strict=True)))
        weight, bias = notes.weight, notes.bias
        assert weight is not None
        notes.begin(-1)
        notes.layouts.clear()
        if bias_kind is None or not ctx.needs_input_grad[1]:
            bias = None
        return weight.to(weight_kind), None if bias is None else bias.to(bias_kind), None


class _LayerContext(FunctionCtx):
    notes: _PendingGradient
    kinds: tuple[torch.dtype, torch.dtype]
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, Tensor]


class _Layer(torch.autograd.Function):
    """A linear layer whose parameters get their gradients later."""

    @staticmethod
    def forward(ctx: _LayerContext, input_NI: Tensor, token: Tensor, notes: _PendingGradient, dtype: torch.dtype) -> Tensor:
        """Input @ matrix + bias, in `dtype`."""
        ctx.notes, ctx.kinds = notes, (input_NI.dtype, token.dtype)
        weight, bias = notes.matrix(dtype)
        input_NI = input_NI.to(dtype)
        ctx.save_for_backward(input_NI, weight)
        return notes.product(input_NI, weight, bias, forwards=True)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] -- the decorator hides the parameters' names
        ctx: _LayerContext, grad_NO: Tensor
    ) -> tuple[Tensor | None, Tensor, None, None]:
        """The gradient of the input; what the parameters' gradients need is recorded."""
        input_NI, weight = ctx.saved_tensors
        ctx.notes.note(input_NI, grad_NO)
        grad_NI = None
        if ctx.needs_input_grad[0]:
            grad_NI = ctx.notes.product(grad_NO, weight, None, forwards=False).to(ctx.kinds[0])
        return grad_NI, grad_NO.new_zeros((), dtype=ctx.kinds[1]), None, None


class _Passes:
    """The layers of a model inside `share_gradients`, and the expected number of columns of all passes."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.known: dict[int, tuple[_PendingGradient, Tensor]] = {}

    def forward(self, layer: nn.Linear | Conv1D, given: Tensor) -> Tensor:
        """The replacement for a layer's forward."""
        if not torch.is_grad_enabled():
            kind: Any = type(layer)
            return kind.forward(layer, given)
        device = given.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
        if id(layer) not in self.known:
            notes = _PendingGradient(layer, self.columns)  # it must not hold the anchor, whose graph holds it
            self.known[id(layer)] = notes, _Anchor.apply(layer.weight, layer.bias, notes)
        notes, token = self.known[id(layer)]
        out: Any = _Layer.apply(given.reshape(-1, given.shape[-1]), token, notes, dtype)
        return out.view(*given.shape[:-1], out.shape[-1])

    def end(self) -> None:
        """Call after the last pass: the forward layouts are no longer needed."""
        for notes, _ in self.known.values():
            notes.layouts.clear()


@contextlib.contextmanager
def share_gradients(model: nn.Module | None, columns: int = 0) -> Iterator[None]:
    """Context manager: the passes of a model share the gradient of each matrix that trains. For None, nothing changes.

    Small layers, and those of classes other than `nn.Linear` and `Conv1D`, are left alone.

    Args:
        columns: the approximate number of columns of all passes.
    """
    if model is None or not torch.is_grad_enabled() or not is_on() or not (ON_CPU if _on_cpu(model) else ON_GPU):
        yield
        return
    passes = _Passes(columns)
    patched: list[Any] = []
    layers: Any = model.modules()
    for layer in layers:
        plain = type(layer) in (nn.Linear, Conv1D) and "forward" not in vars(layer)
        if plain and layer.weight.requires_grad and layer.weight.numel() >= LEAST:
            layer.forward = partial(passes.forward, layer)
            patched.append(layer)
    try:
        yield
    finally:
        passes.end()
        for layer in patched:
            del layer.forward  # the class's own method is back


def _on_cpu(model: nn.Module) -> bool:
    first = next(model.parameters(), None)
    return first is None or first.device.type == "cpu"
