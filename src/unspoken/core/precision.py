"""The types in which a model is kept, and in which it computes while it trains.

Trained parameters are kept in fp32, whatever the base model's type: near 1.0, bf16 has steps of 2^-8, so that updates of
1e-5 would be rounded away. Parameters that do not train may stay in bf16, which halves their memory. See
docs/decisions/018-precision.md.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel


def is_low(dtype: torch.dtype) -> bool:
    """Whether a floating-point type is coarser than fp32."""
    return dtype.is_floating_point and dtype.itemsize < 4


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that peft has added to a model, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    own: set[int] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            parts = (getattr(module, name, None) for name in module.adapter_layer_names)
            own |= {id(p) for part in parts if isinstance(part, nn.Module) for p in part.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in own}


def train_in_float32(method: nn.Module) -> None:
    """Convert trained parameters to fp32 in place; a language model as a whole unless only its adapters train."""
    for lm in method.modules():
        if isinstance(lm, PreTrainedModel) and any(is_low(p.dtype) for p in lm.parameters()):
            adapters = {id(p) for p in adapter_parameters(lm).values()}
            if any(p.requires_grad and id(p) not in adapters for p in lm.parameters()):
                lm.float()
    for p in method.parameters():
        if p.requires_grad and is_low(p.dtype):
            p.data = p.data.float()


def kept_dtype(folder: str | Path) -> Literal["float32", "bfloat16"]:
    """The type of a folder's weights: bfloat16 if all of them are; float32 otherwise, or if there are none."""
    kinds: set[str] = set()
    for file in Path(folder).glob("model*.safetensors"):
        with contextlib.suppress(OSError, SafetensorError), safe_open(str(file), framework="pt") as opened:
            tensors: Any = opened
            kinds |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return "bfloat16" if kinds == {"BF16"} else "float32"


@contextlib.contextmanager
def computing(device: str, low: bool) -> Iterator[None]:
    """Context manager: if `low`, matrices of any type are multiplied in bf16 (autocast)."""
    with torch.autocast(device, dtype=torch.bfloat16) if low else contextlib.nullcontext():
        yield


def slow_in_bf16(device: str) -> bool:
    """Whether a device has no instructions for products of bf16 numbers, which then take several times as long as fp32."""
    if device != "cpu":
        return False
    try:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a torch without oneDNN says nothing about it
        return False


def warn_if_slow(device: str, low: bool, instead: str) -> None:
    """Warn of bf16 where it takes several times as long as fp32.

    Args:
        device: its type.
        low: whether products are in bf16.
        instead: what to set.
    """
    if low and slow_in_bf16(device):
        warnings.warn(
            f"this CPU has no instructions for bf16, which takes it several times as long as fp32; set {instead}",
            stacklevel=3,
        )


def circumstances(lm: nn.Module, device: str) -> str:
    """Everything besides weights, config and input that currently affects a model's states."""
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    attention = getattr(getattr(lm, "config", None), "_attn_implementation", None)
    return f"{device} autocast={autocast} attention={attention} products={torch.get_float32_matmul_precision()}"
