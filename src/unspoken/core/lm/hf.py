"""What we need to know of a transformers model: its layers, token parameters, rotary switch, attention implementation.

Shapes: B rows, T positions of this pass, S positions forwarded so far, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from unspoken.core.embeddings import input_table, output_head, text_config
from unspoken.errors import BackboneError, ConfigError

T = TypeVar("T")


def layer_list(lm: PreTrainedModel) -> nn.ModuleList:
    """The layers of a model, in order.

    Raises:
        BackboneError: the layers are not in one list.
    """
    depth = text_config(lm).num_hidden_layers
    lists = (m for m in lm.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    if (found := next(lists, None)) is None:
        raise BackboneError(f"{type(lm).__name__} has no list of {depth} layers, so that none can be run by itself")
    return found


@torch.no_grad()
def part_from_copies(lm: PreTrainedModel, tokens: Iterable[int]) -> None:
    """Set the head rows of tokens that are copies of another token's row to the mean of all rows (untied heads only).

    If the head does not train, a copy would keep sharing the other token's probability. The logit of the mean row is the
    mean logit, so by Jensen's inequality its probability is at most 1 / V, whatever the state.
    """
    head, tokens = output_head(lm), list(tokens)
    weight, bias = head.weight, getattr(head, "bias", None)
    if weight is input_table(lm).weight:
        return  # tied: its rows train with the embedding's
    alike = ((weight[:, 0] == weight[t, 0]).nonzero()[:, 0] for t in tokens)
    copies = [t for t, rows in zip(tokens, alike, strict=True) if (weight[rows] == weight[t]).all(dim=1).sum() > 1]
    for table in (weight, bias) if copies else ():
        if table is not None:
            kind = torch.promote_types(table.dtype, torch.float32)
            others = table.sum(dim=0, dtype=kind) - table[copies].sum(dim=0, dtype=kind)
            table[copies] = (others / (len(table) - len(copies))).to(table.dtype)


def token_parameters(model: nn.Module) -> set[int]:
    """`id`s of parameters with a vector per token or position: embedding tables, and what peft trains of them.

    Most tokens are not in a given batch, so weight decay must not change their vectors.
    """
    found = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        for name in ("trainable_tokens_delta", "lora_embedding_A"):  # some rows; LoRA of a table, a column per token
            if isinstance(kept := getattr(module, name, None), nn.ParameterDict):
                found |= {id(p) for p in kept.values()}
    return found


def rope_switch(lm: PreTrainedModel) -> int | None:
    """The length from which a model uses other rotary angles, also for earlier positions; None = never."""
    config = text_config(lm)
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [found, *(kind for kind in found.values() if isinstance(kind, dict))]  # some have one per kind of layer
    original = getattr(config, "original_max_position_embeddings", None)
    switches = [
        kind.get("original_max_position_embeddings") or original or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type", kind.get("type")) in ("longrope", "dynamic")
    ]
    return min(switches, default=None)


def with_attention(make: Callable[..., T], kind: str) -> T:
    """Build a model with an attention implementation; "eager", with one warning, if its family lacks the default, "sdpa".

    Args:
        make: builds it, given `attn_implementation`.

    Raises:
        ConfigError: the family, or this machine, lacks the requested implementation.
    """
    try:
        return make(attn_implementation=kind)
    except (ValueError, ImportError) as error:
        said = str(error).lower()
        if "attention" not in said and "attn" not in said:
            raise
        if kind != "sdpa":
            raise ConfigError(
                f"backbone.attention={kind} is not to be had here: {str(error).strip().splitlines()[0]:.120}; "
                "set backbone.attention=sdpa or eager"
            ) from error
        made = make(attn_implementation="eager")
        family = type(made[0] if isinstance(made, tuple) else made).__name__
        warnings.warn(f"{family} has no sdpa attention; eager is used, which is slower", stacklevel=4)
        return made
