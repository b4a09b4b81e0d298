"""Faster linear layers for inference on a CPU: weights in the layout of its matrix kernels.

PyTorch's layers read weights in a layout that takes up to twice the time for few rows, which is the case while thinking and
speaking (figures: docs/speed/answering.md). `speed_up_linears` swaps the class of a model's linear layers. A layer then
keeps a second copy of its weights in oneDNN's layout, and for single rows a third (`core/fast/one_row.py`), each made at its
first use without gradients and remade when the weights change. PyTorch does not count every write
(`core/fast/weights.py`), so every call compares a few weights, and every batch of answers compares all of them once
(`look_again`). With gradients, under autocast, for two or three rows of float32 (faster without), and on other devices, the
layer works as before. In 8 bits: experimental/int8.py.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unspoken.core.extensions import extension
from unspoken.core.fast.activations import fuse_activations
from unspoken.core.fast.one_row import has_one_row, in_panels, one_row
from unspoken.core.fast.switch import is_on
from unspoken.core.fast.weights import seal, version
from unspoken.core.precision import slow_in_bf16, warn_if_slow
from unspoken.core.rows.protocol import CausalLM
from unspoken.core.weightless import is_weightless
from unspoken.errors import ConfigError

T = TypeVar("T")

_FEW_ROWS = {torch.float32: 4, torch.bfloat16: 1}  # fewer, but for a single one, are faster without a copy
_SMALL = 2**14  # weights; below, a call costs more than its arithmetic
_COPIES: WeakKeyDictionary[nn.Module, _Copies] = WeakKeyDictionary()
_LOOKS = count(1)
_look = 0  # number of the current batch of answers


class _Answers(Protocol):
    """What is asked of a trained method."""

    @property
    def backbone(self) -> CausalLM: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def to(self, dtype: torch.dtype, /) -> object: ...


@dataclass
class _Copies:
    """Copies of a layer's weights in other layouts.

    Attributes:
        made: `version` of the weights they were made from.
        spots: a view of a few of the layer's weights.
        were: the values of `spots` when they were made.
        seal: checksum of the weights they were made from.
        look: number of the batch of answers in which the seal was last checked.
        kinds: the copies by name.
    """

    made: object
    spots: Tensor
    were: Tensor
    seal: list[int]
    look: int
    kinds: dict[str, Any]

    def holds(self, made: object, tensors: list[Tensor]) -> bool:
        """Whether the layer's weights are still the same."""
        if self.made != made or not torch.equal(self.spots, self.were):
            return False
        if self.look != _look and self.seal == seal(tensors):
            self.look = _look
        return self.look == _look


def look_again() -> None:
    """Call when a batch of answers begins: each copy is checked against its weights before its next use."""
    global _look
    _look = next(_LOOKS)


def speed_up_linears(lm: nn.Module) -> int:
    """Make a model's linear layers on the CPU fast without gradients, unless on the plain path (`core/fast/switch.py`).
    Returns how many it has changed.
    """
    return swap_linears(lm, _KINDS, _FEW_ROWS) if is_on() and torch.backends.mkldnn.is_available() else 0


def swap_linears(lm: nn.Module, kinds: Mapping[type, type], dtypes: Collection[torch.dtype]) -> int:
    """Give a model's large linear layers on the CPU another class. Returns how many it has changed.

    Args:
        lm: the model.
        kinds: old class -> new class.
        dtypes: only layers whose weights have one of these are changed.
    """
    found = 0
    for module in lm.modules():
        kind, weight = kinds.get(type(module)), getattr(module, "weight", None)
        if kind is None or weight is None or weight.numel() < _SMALL:
            continue
        if weight.device.type == "cpu" and weight.dtype in dtypes:
            module.__class__ = kind
            found += 1
    return found


def use_dtype(method: _Answers, dtype: str | None) -> None:
    """Make a trained method answer in a precision, as fast as its device allows; None = keep its precision.

    Raises:
        ConfigError: no such precision, or not on this machine.
    """
    if dtype not in (None, "float32", "bfloat16", "int8"):
        raise ConfigError(f"unknown dtype {dtype!r}; known: float32, bfloat16, int8")
    if dtype is not None:
        for module in list(method.modules()):  # an adapter rounded separately would belong to another model
            if callable(fold := getattr(module, "fold", None)):
                fold()
        method.to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    fuse_activations(method.backbone.lm)
    kept = method.backbone.lm.dtype
    warn_if_slow(method.backbone.device.type, kept == torch.bfloat16, "--dtype float32 (from Python: dtype='float32')")
    if dtype == "int8":
        extension("dtype:int8")(method.backbone.lm)
    else:
        speed_up_linears(method.backbone.lm)


def has_layout(weight: Tensor) -> bool:
    """Whether oneDNN's product is available for a matrix, outside autocast."""
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return plain and not torch.is_autocast_enabled("cpu")


def laid_out(weight_OI: Tensor, rows: int) -> Tensor:
    """A copy of a matrix in oneDNN's layout, for `product` with about this many rows."""
    if is_weightless():
        return weight_OI.detach().clone()
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), rows)


def product(input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Input x matrix transposed + bias by oneDNN, without gradients; the matrix laid out or not (see `has_layout`)."""
    if is_weightless():
        return nn.functional.linear(input_NI, weight_OI, bias_O)
    return torch.ops.mkldnn._linear_pointwise(input_NI, weight_OI, bias_O, "none", [], "")


@cache
def _has_products(dtype: torch.dtype) -> bool:
    """Whether oneDNN lays out matrices of this type here; it refuses bf16 where the CPU has no instructions for it."""
    return dtype != torch.bfloat16 or not slow_in_bf16("cpu")


def usual(weight: Tensor, x: Tensor) -> bool:
    """Whether a call should use PyTorch's own layer, which has this weight."""
    return (
        torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.dtype != weight.dtype
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
    )


def copy_of(layer: nn.Linear | Conv1D, kind: str, make: Callable[[], T]) -> T:
    """The copy of a layer's weights, remade if they have changed.

    Args:
        layer: a linear layer.
        kind: name of the kind of copy.
        make: makes the copy.
    """
    weight, bias = layer.weight, layer.bias
    tensors = [weight] if bias is None else [weight, bias]
    made, known = version(tensors), _COPIES.get(layer)
    if known is None or not known.holds(made, tensors):
        spots = weight.detach()[:: max(len(weight) // 4, 1), :: max(weight.shape[1] // 4, 1)]
        known = _COPIES[layer] = _Copies(made, spots, spots.clone(), seal(tensors), _look, {})
    if (copy := known.kinds.get(kind)) is None:
        with torch.inference_mode(False), torch.no_grad():
            copy = known.kinds[kind] = make()
    return copy


def _faster(layer: nn.Linear | Conv1D, x: Tensor, turned: bool) -> Tensor | None:
    """A layer's output by what is fastest for so many rows; None = by PyTorch's own layer.

    Args:
        turned: the weight is [I, O].
    """
    weight = layer.weight
    if not is_on() or usual(weight, x):
        return None
    *batch, inputs = x.shape
    rows = x.numel() // inputs
    if rows == 1 and has_one_row(x.dtype) and not is_weightless():
        panels = copy_of(layer, "panels", lambda: in_panels(weight.t() if turned else weight, layer.bias))
        return one_row(x.reshape(1, inputs), panels).view(*batch, panels.outputs)
    if rows < _FEW_ROWS.get(x.dtype, 1) or not _has_products(x.dtype):
        return None
    laid = copy_of(layer, "layout", lambda: laid_out(weight.t() if turned else weight, 32))
    return product(x.reshape(rows, inputs), laid, layer.bias).view(*batch, -1)


class _FastLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        out = _faster(self, input, turned=False)
        return super().forward(input) if out is None else out


class _FastConv1D(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        """See `Conv1D`."""
        out = _faster(self, x, turned=True)
        return super().forward(x) if out is None else out


_KINDS: dict[type, type] = {nn.Linear: _FastLinear, Conv1D: _FastConv1D}
