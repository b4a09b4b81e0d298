"""What is asked of a transformers model besides running it: its layers, its masks, its window, its activation.

Shapes: B rows, T positions of this pass, S positions forwarded so far, D width.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from unspoken.errors import BackboneError, ConfigError

_WINDOW = re.compile(r"(\w+_)?(?<!max_)window(_size)?|(attention|local)_chunk_size|local_attention(_size)?")
_LOCAL = re.compile(r"slid|local|chunk|window|hybrid|recurrent")


def pairs_mask(lm: Any, mask: Tensor | None, embeds_BTD: Tensor) -> Tensor | None:
    """A mask as a model's attention takes it, made without looking at its values.

    transformers asks a mask of columns whether all of them are real, and on a GPU every pass would wait for the answer. So
    it gets the mask of pairs that it would make of it, where its layers take one.

    Args:
        lm: the model.
        mask: see `Backbone.step`.
        embeds_BTD: what the pass feeds.

    Raises:
        ConfigError: a mask of pairs, and an attention implementation that cannot take it.
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
def takes_pairs(lm: Any) -> bool:
    """Whether a model's layers take one mask of pairs: tried once on two tokens, and noted on the model."""
    if (known := getattr(lm, "_takes_pairs", None)) is None:
        known = lm.config._attn_implementation == "sdpa" and attention_window(lm) is None
        if known:
            table = lm.get_input_embeddings().weight
            embeds, sees = table[:2][None], torch.ones(1, 1, 2, 2, dtype=torch.bool, device=table.device).tril()
            training = lm.training
            lm.eval()
            try:
                masks = (None, sees)
                plain, pairs = (lm.base_model(inputs_embeds=embeds, attention_mask=m).last_hidden_state for m in masks)
                known = torch.allclose(plain.float(), pairs.float(), rtol=1e-2, atol=1e-3)
            except Exception:  # families raise whatever their code comes across: ALiBi wants columns to count
                known = False
            lm.train(training)
        lm._takes_pairs = known
    return known


@contextlib.contextmanager
def attending(config: Any, name: str, current: ContextVar[Any], by: Any) -> Iterator[None]:
    """Inside, transformers calls the attention registered as `name`, which finds in `current` whom it works for."""
    was, token = config._attn_implementation, current.set(by)
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = was
        current.reset(token)


def layer_list(lm: Any) -> nn.ModuleList:
    """The layers of a model, in order.

    Raises:
        BackboneError: they are not one list.
    """
    depth = lm.config.get_text_config().num_hidden_layers
    lists = (m for m in lm.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    if (found := next(lists, None)) is None:
        raise BackboneError(f"{type(lm).__name__} has no list of {depth} layers, so that none can be run by itself")
    return found


def fuse_activations(lm: nn.Module, fused: bool = True) -> None:
    """Run GPT-2's activation as one operator; transformers spells it out in seven, each of which keeps what it made.

    Args:
        fused: False puts the spelt-out one back.
    """
    mine, other = (nn.GELU, NewGELUActivation) if fused else (NewGELUActivation, nn.GELU)
    for module in lm.modules():
        for name, child in module.named_children():
            if type(child) is other and getattr(child, "approximate", "tanh") == "tanh":
                setattr(module, name, mine(approximate="tanh") if fused else mine())


@torch.no_grad()
def part_from_copies(lm: Any, tokens: Iterable[int]) -> None:
    """Let tokens whose row in a head of its own is a copy of another token's start from the mean of all rows instead.

    Where the head does not train, the copies would share the other token's probability for good. The logit of a mean row is
    the mean logit, so by Jensen's inequality its probability is at most 1 / V, whatever the state.
    """
    head, tokens = lm.get_output_embeddings(), list(tokens)
    weight, bias = head.weight, getattr(head, "bias", None)
    if weight is lm.get_input_embeddings().weight:
        return  # tied: its rows train with the embedding's
    alike = ((weight[:, 0] == weight[t, 0]).nonzero()[:, 0] for t in tokens)
    copies = [t for t, rows in zip(tokens, alike, strict=True) if (weight[rows] == weight[t]).all(dim=1).sum() > 1]
    for table in (weight, bias) if copies else ():
        if table is not None:
            kind = torch.promote_types(table.dtype, torch.float32)
            others = table.sum(dim=0, dtype=kind) - table[copies].sum(dim=0, dtype=kind)
            table[copies] = (others / (len(table) - len(copies))).to(table.dtype)


def token_parameters(model: nn.Module) -> set[int]:
    """`id`s of the parameters that hold a vector per token (or position): tables, and what peft trains of one.

    A batch does not contain most tokens, so their vectors must not be changed by what befalls all, as weight decay does.
    """
    found = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        for name in ("trainable_tokens_delta", "lora_embedding_A"):  # some rows; LoRA of a table, a column per token
            if isinstance(kept := getattr(module, name, None), nn.ParameterDict):
                found |= {id(p) for p in kept.values()}
    return found


def attention_window(lm: Any) -> int | None:
    """The least number of columns that a layer attends to, if that is not all; configs have many names for it."""
    config = lm.config.get_text_config()
    kinds = [*(getattr(config, "layer_types", None) or ()), *(getattr(config, "attention_layers", None) or ())]
    slides = getattr(config, "use_sliding_window", True)
    windows = [
        value
        for name, value in vars(config).items()
        if _WINDOW.fullmatch(name) and type(value) is int and value > 0 and (slides or name != "sliding_window")
    ]
    local = not kinds or any(_LOCAL.search(kind) for kind in kinds)
    return min(windows, default=None) if local else None


def rope_switch(lm: Any) -> int | None:
    """The number of positions from which on a model turns by other angles, however few it has read before; None = never."""
    config = lm.config.get_text_config()
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [found, *(kind for kind in found.values() if isinstance(kind, dict))]  # some have one per kind of layer
    original = getattr(config, "original_max_position_embeddings", None)
    switches = [
        kind.get("original_max_position_embeddings") or original or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type", kind.get("type")) in ("longrope", "dynamic")
    ]
    return min(switches, default=None)


def with_attention(make: Callable[..., Any], kind: str) -> Any:
    """A model by a kind of attention; by "eager" where its family has no "sdpa", which is the default and said once.

    Args:
        make: builds it, given `attn_implementation`.

    Raises:
        ConfigError: the family, or this machine, has no attention of another kind that was asked for.
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
