"""Activation checkpointing for passes that share a cache: a layer's activations are recomputed in the backward pass.

A layer that writes into a cache cannot simply run twice: it would write twice. Here a layer is a function of its input and
of the keys and values of earlier passes, and returns its own keys and values with its output; the cache only concatenates
them. Kept for the backward pass are each layer's input and its own keys and values per pass. The whole cache, which grows
with every latent, is concatenated where it is needed and never kept.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from unspoken.core.fast.unpadded import PassCache


class PassLayer(DynamicLayer):
    """Keys and values of one layer, stored separately for each pass."""

    def __init__(self, passes: tuple[tuple[Tensor, Tensor], ...] = ()) -> None:
        super().__init__()
        self.passes = passes
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Add a pass; returns all keys and values so far."""
        self.passes = (*self.passes, (key_states, value_states))
        keys, values = zip(*self.passes, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def get_seq_length(self) -> int:
        """Columns so far."""
        return sum(keys.shape[-2] for keys, _ in self.passes)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some of the rows."""
        self.passes = tuple((keys[indices], values[indices]) for keys, values in self.passes)


def pass_cache(lm: PreTrainedModel) -> DynamicCache:
    """An empty cache that stores passes separately in layers with full attention; other layers are unchanged."""
    cache = DynamicCache(config=lm.config)
    cache.layers = [PassLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@contextlib.contextmanager
def recomputing(layers: nn.ModuleList | None, cache: PassCache | None) -> Iterator[None]:
    """Context manager: the layers of a model keep only their input, if the cache is a `pass_cache`."""
    if layers is None or not torch.is_grad_enabled() or not isinstance(cache, DynamicCache):
        yield
        return
    patched = [layer for layer, kept in zip(layers, cache.layers, strict=True) if isinstance(kept, PassLayer)]
    for index, layer in enumerate(layers):
        if layer in patched:
            layer.forward = partial(_run, layer.forward, index)
    try:
        yield
    finally:
        for layer in patched:
            del layer.forward  # the class's own method is back


def _run(forward: Callable[..., Any], index: int, hidden: Tensor, *args: object, **kwargs: object) -> Any:
    """Run a layer such that the backward pass recomputes it."""
    cache = next(given for given in (*args, *kwargs.values()) if isinstance(given, DynamicCache))
    kept: Any = cache.layers[index]
    before, layers = kept.passes, list(cache.layers)

    def run(hidden: Tensor) -> tuple[Any, Tensor, Tensor]:
        mine = copy.copy(cache)
        mine.layers = [*layers[:index], PassLayer(before), *layers[index + 1 :]]
        named = {name: mine if given is cache else given for name, given in kwargs.items()}
        out = forward(hidden, *(mine if given is cache else given for given in args), **named)
        keys, values = mine.layers[index].passes[-1]
        return out, keys, values

    found: Any = checkpoint(run, hidden, use_reentrant=False)
    out, keys, values = found
    kept.passes = (*before, (keys, values))
    return out


def checkpoint_activations(module: nn.Module, checkpointing: bool) -> None:
    """Switch activation checkpointing on or off in all models inside a method."""
    parts: Any = module.modules()
    for part in parts:
        if hasattr(part, "checkpointing"):
            part.checkpointing = checkpointing
