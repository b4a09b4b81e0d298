"""LoRA as peft stores it: three tensors per adapted layer, W, A and B, merged into W + (alpha / r) B A, in fp32."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from unspoken.errors import CheckpointError, ConfigError
from unspoken.importers.rules import KeyRule, Mapped, any_number, listed

_W, _A, _B = "#W", "#A", "#B"
"""Suffixes of a layer's three tensors until they are merged."""

PUBLISHED = (128, 32.0)
"""r and alpha of every released CODI and SIM-CoT-on-CODI model (their scripts: lora_r 128, lora_alpha 32)."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What was merged."""

    layers: int
    r: int
    alpha: float

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.r


def is_lora(target: str) -> bool:
    """Whether a target is an A or a B."""
    return target.endswith((_A, _B))


def whole_name(target: str) -> str:
    """The name of a layer's weight, given that of its W or the weight itself."""
    return target.removesuffix(_W)


def lora_rules(prefix: str, target: str) -> tuple[KeyRule, ...]:
    """Rules for the layers that have LoRA, under a prefix."""
    return (
        KeyRule(pattern=f"{prefix}*.lora_A.default.weight", target=f"{target}*.weight{_A}"),
        KeyRule(pattern=f"{prefix}*.lora_B.default.weight", target=f"{target}*.weight{_B}"),
        KeyRule(pattern=f"{prefix}*.base_layer.weight", target=f"{target}*.weight{_W}"),
        KeyRule(pattern=f"{prefix}*.base_layer.bias", target=f"{target}*.bias"),
    )


def merge(mapped: Mapped, conv1d: Set[str], alpha: float | None, dtype: torch.dtype = torch.float32) -> Merged | None:
    """Replace each layer's three tensors by one. Layers without all three are left alone; see `with_parts`.

    Args:
        mapped: changed in place.
        conv1d: targets stored as [in, out].
        alpha: scale times r; None = the published one, for the published r.
        dtype: of the result, which is computed in fp32.

    Returns:
        What was merged, or None without LoRA.

    Raises:
        CheckpointError: the shapes of a layer do not fit, or its rank differs from the others'.
        ConfigError: alpha is needed, or given without LoRA.
    """
    layers = sorted({target[:-2] for target in mapped.tensors if target.endswith((_W, _A, _B))})
    if not layers:
        if alpha is not None:
            raise ConfigError(f"alpha is {alpha:g}, but the checkpoint has no LoRA; leave it out")
        return None
    whole = [layer for layer in layers if all(layer + part in mapped.tensors for part in (_W, _A, _B))]
    ranks = {int(mapped.tensors[layer + _A].shape[0]) for layer in whole}
    if len(ranks) > 1:
        raise CheckpointError(
            f"the layers have LoRA of different ranks ({listed(map(str, sorted(ranks)))}), so that alpha / r is unknown; "
            "take another copy of the file"
        )
    r = next(iter(ranks), PUBLISHED[0])
    if alpha is None and r != PUBLISHED[0]:
        raise ConfigError(
            f"the checkpoint has LoRA of rank {r}; its alpha is not in the file, and the published alpha "
            f"{PUBLISHED[1]:g} belongs to rank {PUBLISHED[0]}; give --alpha as it was in training"
        )
    merged = Merged(layers=len(whole), r=r, alpha=PUBLISHED[1] if alpha is None else alpha)
    for layer in whole:
        _merge_layer(mapped, layer, layer in conv1d, merged.scale, dtype)
    return merged


def with_parts(wanted: Mapping[str, tuple[int, ...]], mapped: Mapped) -> dict[str, tuple[int, ...]]:
    """What to require after `merge`: where a layer lacks one of its three tensors, or all of them while layers like it have
    LoRA, the three."""
    result = dict(wanted)
    begun = {target[:-2] for target in mapped.tensors if target.endswith((_W, _A, _B))}
    alike = {any_number(layer) for layer, keys in mapped.keys.items() if len(keys) == 3} | set(map(any_number, begun))
    for layer, shape in wanted.items():
        if layer in begun or (layer not in mapped.tensors and any_number(layer) in alike):
            del result[layer]
            for part in (_W, _A, _B):
                there = mapped.tensors.get(layer + part)
                result[layer + part] = shape if there is None else tuple(there.shape)
    return result


def _merge_layer(mapped: Mapped, layer: str, conv1d: bool, scale: float, dtype: torch.dtype) -> None:
    keys = tuple(mapped.keys.pop(layer + part)[0] for part in (_W, _A, _B))
    weight, a, b = (mapped.tensors.pop(layer + part) for part in (_W, _A, _B))
    shape = tuple(reversed(weight.shape)) if conv1d else tuple(weight.shape)
    if a.ndim != 2 or b.ndim != 2 or (b.shape[0], a.shape[1]) != shape or a.shape[0] != b.shape[1]:
        shapes = ", ".join(f"{key} {list(t.shape)}" for key, t in zip(keys, (weight, a, b), strict=True))
        raise CheckpointError(f"LoRA does not fit its layer: {shapes}; take another copy of the file")
    mapped.tensors[layer] = _merged(weight, a, b, conv1d, scale).to(dtype)
    mapped.keys[layer] = keys


def _merged(weight: Tensor, a: Tensor, b: Tensor, conv1d: bool, scale: float) -> Tensor:
    delta = (b.to(torch.float32) @ a.to(torch.float32)) * scale
    return weight.to(torch.float32) + (delta.T if conv1d else delta)
