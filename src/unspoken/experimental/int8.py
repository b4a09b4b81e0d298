"""Inference in 8 bits on a CPU, with quantized operations that PyTorch is moving to another package.

Weights are rounded per output channel and inputs per call, so answers are similar to those of float32, not equal. With
gradients, under autocast and on other devices, layers work as before (core/fast/cpu_linear.py).

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unspoken.core.fast.cpu_linear import copy_of, swap_linears, usual
from unspoken.errors import ConfigError


def round_linears(lm: nn.Module) -> int:
    """Make a model's linear layers compute in 8 bits. Returns how many it has changed.

    Raises:
        ConfigError: not supported by this build of PyTorch, or for the model's device or type.
    """
    if "x86" not in torch.backends.quantized.supported_engines or not hasattr(torch, "quantize_per_channel"):
        raise ConfigError("dtype int8 needs PyTorch's x86 kernels, which this build does not have; use float32 or bfloat16")
    found = swap_linears(lm, {nn.Linear: _Linear8, Conv1D: _Conv1D8}, (torch.float32,))
    if not found:
        raise ConfigError(
            "dtype int8 needs linear layers in float32 on the CPU, and this model has none; use bfloat16 there"
        )
    return found


def _rounded(weight_OI: Tensor, bias_O: Tensor | None) -> Any:
    weight_OI = weight_OI.detach().contiguous()
    # fbgemm adds pairs of products in 16 bits where the CPU has no VNNI; 7 bits of weight cannot overflow them.
    scale_O = weight_OI.abs().amax(dim=1).clamp(min=1e-8) / 63
    zero_O = torch.zeros_like(scale_O, dtype=torch.int64)
    with warnings.catch_warnings():  # PyTorch moves these; `round_linears` asks whether they are still there
        warnings.simplefilter("ignore", UserWarning)
        rounded = torch.quantize_per_channel(weight_OI, scale_O.double(), zero_O, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(rounded, None if bias_O is None else bias_O.detach())


def _eight(layer: nn.Linear | Conv1D, x: Tensor, weight_OI: Tensor) -> Tensor:
    weights = copy_of(layer, "int8", lambda: _rounded(weight_OI, layer.bias))
    return torch.ops.quantized.linear_dynamic(x.contiguous(), weights, False)


class _Linear8(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return super().forward(input) if usual(self.weight, input) else _eight(self, input, self.weight)


class _Conv1D8(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        """See `Conv1D`."""
        return super().forward(x) if usual(self.weight, x) else _eight(self, x, self.weight.t())
