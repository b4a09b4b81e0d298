"""Linear layers that answer faster on a CPU: weights laid out for its matrix kernels, or rounded to 8 bits.

PyTorch's plain layers read their weights in a layout that costs up to twice the time when few rows are fed, which is what
thinking and speaking do (docs/speed/answering.md has the figures). `speed_up_linears` swaps the class of a model's linear
layers; a layer then keeps a second copy of its weights in the layout of oneDNN, made when it is first used without
gradients, and made again when the weights have changed. Not every write is counted (`core/fast/weights.py`), so in
every call a few weights are looked at, and all of them once per batch of answers (`look_again`). With gradients, under
autocast, for one to three rows of float32 (which are faster as they are), and on other devices, the layer is what it
was. `int8` rounds the copy, per output channel, and rounds what is fed to it, per call: answers are then near those of
float32, not equal.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unspoken.core.fast.switch import is_on
from unspoken.core.fast.weights import seal, version
from unspoken.errors import ConfigError

_FEW_ROWS = {torch.float32: 4, torch.bfloat16: 1}  # fewer are faster without a copy
_SMALL = 2**14  # weights; below, a call costs more than its arithmetic
_COPIES: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()
_LOOKS = count(1)
_look = 0  # number of the batch of answers under way


@dataclass
class _Copy:
    """A layer's weights in the layout it uses.

    Attributes:
        made: what they were made of, see `version`.
        spots: a few of the layer's weights, as they are now.
        were: the same, as they were.
        seal: of the weights they were made of.
        look: in which batch of answers the seal was last held against the weights.
    """

    made: Any
    spots: Tensor
    were: Tensor
    seal: list[int]
    look: int
    weights: Any

    def holds(self, made: Any, tensors: list[Tensor]) -> bool:
        """Whether the layer's weights are still the same."""
        if self.made != made or not torch.equal(self.spots, self.were):
            return False
        if self.look != _look and self.seal == seal(tensors):
            self.look = _look
        return self.look == _look


def look_again() -> None:
    """Answers begin: before a copy is used again, its weights are looked at."""
    global _look
    _look = next(_LOOKS)


def speed_up_linears(lm: nn.Module, *, int8: bool = False) -> int:
    """Make a model's linear layers fast without gradients; how many it has found. Layers on other devices are left alone,
    and on the plain path (`core/fast/switch.py`) all that are not to be of 8 bits.

    Raises:
        ConfigError: 8 bits were asked for, and this build of PyTorch, or the model's place or type, does not have them.
    """
    if int8 and ("x86" not in torch.backends.quantized.supported_engines or not hasattr(torch, "quantize_per_channel")):
        raise ConfigError("dtype int8 needs PyTorch's x86 kernels, which this build does not have; use float32 or bfloat16")
    if not int8 and not (is_on() and torch.backends.mkldnn.is_available()):
        return 0
    found = 0
    for module in lm.modules():
        kind = _KINDS.get((type(module), int8))
        weight = getattr(module, "weight", None)
        if kind is None or weight is None or weight.numel() < _SMALL:
            continue
        if weight.device.type == "cpu" and weight.dtype in ((torch.float32,) if int8 else _FEW_ROWS):
            module.__class__ = kind
            found += 1
    if int8 and not found:
        raise ConfigError(
            "dtype int8 needs linear layers in float32 on the CPU, and this model has none; use bfloat16 there"
        )
    return found


def use_dtype(method: Any, dtype: str | None) -> None:
    """Make a trained method answer in a precision, as fast as its device allows; None = the precision it has.

    Raises:
        ConfigError: no such precision, or not here.
    """
    if dtype not in (None, "float32", "bfloat16", "int8"):
        raise ConfigError(f"unknown dtype {dtype!r}; known: float32, bfloat16, int8")
    if dtype is not None:
        for module in list(method.modules()):  # rounded by itself, an adapter would be another model's
            if callable(fold := getattr(module, "fold", None)):
                fold()
        method.to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    speed_up_linears(method.backbone.lm, int8=dtype == "int8")


def has_layout(weight: Tensor) -> bool:
    """Whether oneDNN's products can be had for a matrix, outside autocast."""
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return plain and not torch.is_autocast_enabled("cpu")


def laid_out(weight_OI: Tensor, rows: int) -> Tensor:
    """A copy of a matrix in oneDNN's layout, for `product` with about so many rows at a time."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), rows)


def product(input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Input x matrix transposed + bias by oneDNN, without gradients; the matrix laid out or not (see `has_layout`)."""
    return torch.ops.mkldnn._linear_pointwise(input_NI, weight_OI, bias_O, "none", [], "")


def _usual(layer: Any, x: Tensor, few: int = 1) -> bool:
    """Whether a call goes the usual way."""
    return (
        torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.dtype != layer.weight.dtype
        or x.numel() < few * x.shape[-1]
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
    )


def _copy(layer: Any, int8: bool, weight_OI: Tensor) -> Any:
    """The layer's weights in the layout it uses, made anew when they have changed."""
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    made, known = (int8, version(tensors)), _COPIES.get(layer)
    if known is None or not known.holds(made, tensors):
        with torch.inference_mode(False), torch.no_grad():
            weights = _rounded(weight_OI, layer.bias) if int8 else laid_out(weight_OI, 32)
            spots = layer.weight.detach()[:: max(len(layer.weight) // 4, 1), :: max(layer.weight.shape[1] // 4, 1)]
            known = _COPIES[layer] = _Copy(made, spots, spots.clone(), seal(tensors), _look, weights)
    return known.weights


def _rounded(weight_OI: Tensor, bias_O: Tensor | None) -> Any:
    weight_OI = weight_OI.detach().contiguous()
    # fbgemm adds pairs of products in 16 bits where the CPU has no VNNI; 7 bits of weight cannot overflow them.
    scale_O = weight_OI.abs().amax(dim=1).clamp(min=1e-8) / 63
    zero_O = torch.zeros_like(scale_O, dtype=torch.int64)
    with (
        warnings.catch_warnings()
    ):  # PyTorch moves these to another package; `speed_up_linears` asks whether they are still there
        warnings.simplefilter("ignore", UserWarning)
        rounded = torch.quantize_per_channel(weight_OI, scale_O.double(), zero_O, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(rounded, None if bias_O is None else bias_O.detach())


def _pointwise(layer: Any, x: Tensor, weight_OI: Tensor) -> Tensor:
    flat_NI = x.reshape(-1, x.shape[-1])
    out_NO = product(flat_NI, _copy(layer, False, weight_OI), layer.bias)
    return out_NO.view(*x.shape[:-1], -1)


def _eight(layer: Any, x: Tensor, weight_OI: Tensor) -> Tensor:
    return torch.ops.quantized.linear_dynamic(x.contiguous(), _copy(layer, True, weight_OI), False)


class _FastLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        if not is_on() or _usual(self, input, _FEW_ROWS.get(input.dtype, 1)):
            return super().forward(input)
        return _pointwise(self, input, self.weight)


class _FastConv1D(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        """See `Conv1D`."""
        if not is_on() or _usual(self, x, _FEW_ROWS.get(x.dtype, 1)):
            return super().forward(x)
        return _pointwise(self, x, self.weight.t())


class _Linear8(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return super().forward(input) if _usual(self, input) else _eight(self, input, self.weight)


class _Conv1D8(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        """See `Conv1D`."""
        return super().forward(x) if _usual(self, x) else _eight(self, x, self.weight.t())


_KINDS: dict[tuple[type, bool], type] = {
    (nn.Linear, False): _FastLinear,
    (Conv1D, False): _FastConv1D,
    (nn.Linear, True): _Linear8,
    (Conv1D, True): _Conv1D8,
}
