"""GPT-2's activation as one operator; in transformers it is seven, each of which reads and keeps a tensor of its own."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import NewGELUActivation

from unspoken.core.fast.switch import is_on


class _FusedGELU(NewGELUActivation):
    def forward(self, input: Tensor) -> Tensor:
        """See `NewGELUActivation`."""
        return F.gelu(input, approximate="tanh") if is_on() else super().forward(input)


def fuse_activations(module: nn.Module, fused: bool = True) -> None:
    """Make the activations in a module one operator each, unless on the plain path (`core/fast/switch.py`).

    Args:
        fused: False restores the original.
    """
    kinds: list[type[nn.Module]] = [NewGELUActivation, _FusedGELU]
    old, new = kinds if fused else kinds[::-1]
    for child in module.modules():
        if type(child) is old:
            child.__class__ = new
