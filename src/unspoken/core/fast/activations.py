"""Activations and norms as one operator each; in transformers they are seven, each of which reads and keeps a tensor of its
own, and each of which a GPU waits for to be launched."""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import NewGELUActivation

from unspoken.core.fast.switch import is_on

NORM_DEVICES = {"cuda"}
"""Where one operator normalises with a kernel of its own; a CPU's PyTorch makes several of it again."""


NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
"""Names of transformers' classes that all compute the same: the weight times what was divided by its root mean square."""

_PLAIN = "_unfused_class"


class _FusedGELU(NewGELUActivation):
    def forward(self, input: Tensor) -> Tensor:
        """See `NewGELUActivation`."""
        return F.gelu(input, approximate="tanh") if is_on() else super().forward(input)


class _Norm(Protocol):
    weight: Tensor
    variance_epsilon: float


@functools.cache
def _fused_norm(plain: type[nn.Module]) -> type[nn.Module]:
    """A norm's class with one operator in float32; in other types transformers rounds on the way, and that stays."""

    def forward(self: _Norm, hidden_states: Tensor) -> Tensor:
        here = hidden_states.device.type in NORM_DEVICES and hidden_states.dtype == self.weight.dtype == torch.float32
        if not here or not is_on():
            return plain.forward(self, hidden_states)
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    return type(f"Fused{plain.__name__}", (plain,), {"forward": forward, _PLAIN: plain})


def _fused(kind: type[nn.Module]) -> type[nn.Module]:
    if kind is NewGELUActivation:
        return _FusedGELU
    known = kind.__name__ in NORMS and kind.__module__.startswith("transformers.models.")
    return _fused_norm(kind) if known else kind


def _plain(kind: type[nn.Module]) -> type[nn.Module]:
    return NewGELUActivation if kind is _FusedGELU else getattr(kind, _PLAIN, kind)


def fuse_activations(module: nn.Module, fused: bool = True) -> None:
    """Make the activations and norms in a module one operator each, unless on the plain path (`core/fast/switch.py`).

    Args:
        fused: False restores the original.
    """
    for child in module.modules():
        kind = (_fused if fused else _plain)(type(child))
        if kind is not type(child):
            child.__class__ = kind
