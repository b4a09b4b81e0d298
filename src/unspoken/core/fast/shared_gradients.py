"""Gradients of a model's matrices over many passes, made once: one product over all passes instead of one per pass.

A latent is a pass of one column per row, and the gradient of a matrix from so few columns is as large as the matrix:
written, read and added up in every pass, it costs more than the multiplications in it. So a pass only notes what went in
and what gradient came back, and the product is taken when all passes have been differentiated. The sum is the same, its
order is not.

On a CPU the passes also share a copy of each matrix in oneDNN's layout, forwards and backwards (`core/fast/cpu_linear.py`),
where they have columns enough to pay for it.

How: every pass gets, beside its input, a token: a scalar that stands for the matrix. autograd differentiates what made the
token after everything that was given it, which is when all notes are there.

Shapes: N columns of a pass, all rows', I and O width in and out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from unspoken.core.fast.cpu_linear import has_layout, laid_out, product
from unspoken.core.fast.switch import is_on

LEAST = 2**16
"""Entries from which on a matrix is worth the trouble."""

ALONE = 1024
"""Columns of a pass from which on keeping and copying them costs more than adding up another product."""

MANY = 512
"""Columns of all passes from which on its layout is."""


class _PendingGradient:
    """What the passes of one layer have left behind; a new backward pass begins anew."""

    def __init__(self, layer: Any, columns: int) -> None:
        self.layer, self.columns = layer, columns
        self.turned = isinstance(layer, Conv1D)  # its matrix is [I, O]
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.weight: Any = None  # gradients so far
        self.bias: Tensor | None = None
        self.task = -1
        self.copies: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}
        self.layouts: dict[bool, Tensor] = {}  # of the matrix for the way forwards (True) and back

    def matrix(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as autocast wants them, copied once for all passes."""
        if dtype not in self.copies:
            weight, bias = self.layer.weight, self.layer.bias
            self.copies[dtype] = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
        return self.copies[dtype]

    def product(self, input_Nx: Tensor, weight: Tensor, bias: Tensor | None, forwards: bool) -> Tensor:
        """Input x matrix + bias on the way forwards, gradient x matrix transposed on the way back."""
        straight = forwards != self.turned  # the matrix stands as [out, in] of this way
        if self.columns >= MANY and has_layout(weight):
            if forwards not in self.layouts:
                self.layouts[forwards] = laid_out(weight if straight else weight.T, min(self.columns, MANY))
            return product(input_Nx.contiguous(), self.layouts[forwards], bias)
        if bias is not None and not straight:
            return torch.addmm(bias, input_Nx, weight)
        return F.linear(input_Nx, weight if straight else weight.T, bias)

    def begin(self, task: int) -> None:
        """A new backward pass: what another one left unused is none of its own."""
        self.task, self.parts, self.weight, self.bias = task, [], None, None

    def note(self, input_NI: Tensor, grad_NO: Tensor) -> None:
        """A pass has been differentiated. One of many columns is not kept: its product costs no more now."""
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


class _Anchor(torch.autograd.Function):
    """A scalar that stands for a layer's parameters."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, notes: _PendingGradient) -> Tensor:
        """Its value means nothing."""
        ctx.notes, ctx.kinds = notes, (weight.dtype, None if bias is None else bias.dtype)
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All passes have noted what there is to note."""
        notes, (weight_kind, bias_kind) = ctx.notes, ctx.kinds
        if notes.parts:
            notes.multiply(*(torch.cat(part) for part in zip(*notes.parts, strict=True)))
        weight, bias = notes.weight, notes.bias
        notes.begin(-1)
        notes.layouts.clear()
        if bias_kind is None or not ctx.needs_input_grad[1]:
            bias = None
        return weight.to(weight_kind), None if bias is None else bias.to(bias_kind), None


class _Layer(torch.autograd.Function):
    """A linear layer whose parameters are differentiated later."""

    @staticmethod
    def forward(ctx: Any, input_NI: Tensor, token: Tensor, notes: _PendingGradient, dtype: torch.dtype) -> Tensor:
        """Input @ matrix + bias, in `dtype`."""
        ctx.notes, ctx.kinds = notes, (input_NI.dtype, token.dtype)
        weight, bias = notes.matrix(dtype)
        input_NI = input_NI.to(dtype)
        ctx.save_for_backward(input_NI, weight)
        return notes.product(input_NI, weight, bias, forwards=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient of the input; the rest is noted."""
        input_NI, weight = ctx.saved_tensors
        ctx.notes.note(input_NI, grad_NO)
        grad_NI = None
        if ctx.needs_input_grad[0]:
            grad_NI = ctx.notes.product(grad_NO, weight, None, forwards=False).to(ctx.kinds[0])
        return grad_NI, grad_NO.new_zeros((), dtype=ctx.kinds[1]), None, None


class _Passes:
    """The layers of a model inside `share_gradients`, and the columns that all passes together will have."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.known: dict[int, tuple[_PendingGradient, Tensor]] = {}

    def forward(self, layer: Any, given: Tensor) -> Tensor:
        """What a layer does."""
        if not torch.is_grad_enabled():
            return type(layer).forward(layer, given)
        kind = given.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else layer.weight.dtype
        if id(layer) not in self.known:
            notes = _PendingGradient(layer, self.columns)  # it must not hold the token, whose graph holds it
            self.known[id(layer)] = notes, _Anchor.apply(layer.weight, layer.bias, notes)  # pyright: ignore[reportArgumentType]
        notes, token = self.known[id(layer)]
        out: Any = _Layer.apply(given.reshape(-1, given.shape[-1]), token, notes, dtype)
        return out.view(*given.shape[:-1], out.shape[-1])

    def end(self) -> None:
        """No pass follows: layouts of the way forwards are not needed any more."""
        for notes, _ in self.known.values():
            notes.layouts.clear()


@contextlib.contextmanager
def share_gradients(model: nn.Module | None, columns: int = 0) -> Iterator[None]:
    """Inside, the passes of a model share the gradient of each matrix that trains; None = as usual.

    Small layers, and those of other classes than `nn.Linear` and `Conv1D`, do as they always do.

    Args:
        columns: about how many columns all passes will have.
    """
    if model is None or not torch.is_grad_enabled() or not is_on():
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
            del layer.forward  # the class's own is there again
