"""Attention for passes that are not plain causal prefixes: masks of column pairs, packed rows, slots, local windows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from unspoken.core.embeddings import input_table, text_config
from unspoken.errors import ConfigError

T = TypeVar("T")

_WINDOW = re.compile(r"(\w+_)?(?<!max_)window(_size)?|(attention|local)_chunk_size|local_attention(_size)?")
_LOCAL = re.compile(r"slid|local|chunk|window|hybrid|recurrent")


def pairs_mask(lm: PreTrainedModel, mask: Tensor | None, embeds_BTD: Tensor) -> Tensor | None:
    """A mask in the form that a model's attention takes, made without reading its values.

    transformers checks whether a mask of columns is all ones, which synchronises with a GPU in every pass. So it is given
    the mask of pairs that it would have made from it, if its layers take one.

    Args:
        lm: the model.
        mask: see `Backbone.step`.
        embeds_BTD: the input of the pass.

    Raises:
        ConfigError: a mask of pairs for an attention implementation that cannot take it.
    """
    kind = lm.config._attn_implementation
    if mask is not None and mask.ndim == 2 and getattr(lm, "_takes_pairs", False):
        T, S = embeds_BTD.shape[1], mask.shape[1]
        causal_TS = torch.ones(T, S, dtype=torch.bool, device=mask.device).tril(S - T)
        mask = mask.bool()[:, None, None, :] & causal_TS
    if mask is None or mask.ndim == 2 or kind == "sdpa":
        return mask
    if kind != "eager":
        raise ConfigError(
            f"a row with a branch needs backbone.attention=sdpa or eager, got {kind!r}, whose mask is causal only"
        )
    floor = torch.finfo(embeds_BTD.dtype).min  # eager attention adds its mask
    return torch.zeros_like(mask, dtype=embeds_BTD.dtype).masked_fill(~mask, floor)


@torch.no_grad()
def takes_pairs(lm: PreTrainedModel) -> bool:
    """Whether a model's layers take a mask of pairs; tried once on two tokens and cached on the model."""
    if (known := getattr(lm, "_takes_pairs", None)) is None:
        known = lm.config._attn_implementation == "sdpa" and attention_window(lm) is None
        if known:
            table = input_table(lm).weight
            embeds, sees = table[:2][None], torch.ones(1, 1, 2, 2, dtype=torch.bool, device=table.device).tril()
            training = lm.training
            lm.eval()
            try:
                masks = (None, sees)
                plain, pairs = (lm.base_model(inputs_embeds=embeds, attention_mask=m).last_hidden_state for m in masks)
                known = torch.allclose(plain.float(), pairs.float(), rtol=1e-2, atol=1e-3)
            except Exception:  # families raise any kind of error here, e.g. ALiBi, which needs a mask of columns
                known = False
            lm.train(training)
        vars(lm)["_takes_pairs"] = known
    return known


@contextlib.contextmanager
def attending(config: PreTrainedConfig, name: str, current: ContextVar[T], by: T) -> Iterator[None]:
    """Context manager: transformers calls the attention registered as `name`, which finds its caller in `current`."""
    was, token = config._attn_implementation, current.set(by)
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = was
        current.reset(token)


def attention_window(lm: PreTrainedModel) -> int | None:
    """The smallest attention window of a model's layers, None if none has one; configs have many names for it."""
    config = text_config(lm)
    kinds = [*(getattr(config, "layer_types", None) or ()), *(getattr(config, "attention_layers", None) or ())]
    slides = getattr(config, "use_sliding_window", True)
    windows = [
        value
        for name, value in vars(config).items()
        if _WINDOW.fullmatch(name) and type(value) is int and value > 0 and (slides or name != "sliding_window")
    ]
    local = not kinds or any(_LOCAL.search(kind) for kind in kinds)
    return min(windows, default=None) if local else None
