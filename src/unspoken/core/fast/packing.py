"""Passes without padding: linear layers get only the real columns, packed one row after the other.

Rows of different length share a pass, and padding would cost time in every matrix product. Here the model gets one packed
sequence, and only attention puts its columns back into rows, together with the keys and values of earlier passes. The cache
still has one row per row of the batch, so padded and packed passes may alternate.

Attention itself is transformers' own. `takes_packing` finds out by comparing numbers whether a family can be run like this;
others are padded.

Shapes: B rows, W columns of the pass, S columns so far, N real columns of the pass, H heads, E width of a head, D width.
"""

from __future__ import annotations

import contextvars
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unspoken.core.embeddings import input_table
from unspoken.core.fast.attention import attending, pairs_mask, takes_pairs
from unspoken.core.fast.switch import is_on
from unspoken.core.fast.unhooked import without_hooks
from unspoken.core.fast.unpadded import PassCache, Unpadded

_NAME = "unspoken_packed"
_CURRENT: contextvars.ContextVar[Packed] = contextvars.ContextVar("packed pass under way")

WORTH = 0.04
"""Share of padding above which a pass is packed; putting columns back into rows costs about as much as 2% padding."""


class Packed(Cache):
    """One pass: which columns are real, what they attend to, and the cache that they are added to.

    Args:
        real_BW: which columns of the pass are real.
        mask: bool [B, 1, W, S] or [B, S]; see `Backbone.step`.
        cache: keys and values of earlier passes; extended in place.
    """

    def __init__(self, real_BW: np.ndarray, mask: Tensor, cache: Cache | None) -> None:
        super().__init__(layers=[])
        self.B, self.W = real_BW.shape
        self.cache = cache
        self.at_N = torch.from_numpy(np.flatnonzero(real_BW)).to(mask.device, non_blocking=True)
        if mask.ndim == 2:
            S = mask.shape[1]
            causal_WS = torch.ones(self.W, S, dtype=torch.bool, device=mask.device).tril(S - self.W)
            mask = mask.bool()[:, None, None, :] & causal_WS
        self.mask = mask

    def pack(self, rows_BWx: Tensor) -> Tensor:
        """[B, W, ...] -> [1, N, ...]"""
        return rows_BWx.flatten(0, 1).index_select(0, self.at_N)[None]

    def unpack(self, packed_1Nx: Tensor) -> Tensor:
        """[1, N, ...] -> [B, W, ...], 0 in padding."""
        rest = packed_1Nx.shape[2:]
        return (
            packed_1Nx.new_zeros(self.B * self.W, *rest).index_copy(0, self.at_N, packed_1Nx[0]).view(self.B, self.W, *rest)
        )

    def heads(self, packed_1HNE: Tensor) -> Tensor:
        """[1, H, N, E] -> [B, H, W, E]"""
        return self.unpack(packed_1HNE.transpose(1, 2)).transpose(1, 2)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer with its new, packed keys and values; returns all so far, in rows."""
        keys, values = self.heads(key_states), self.heads(value_states)
        return (keys, values) if self.cache is None else self.cache.update(keys, values, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and the mask are given explicitly."""
        return 0


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _: Tensor | None, **more: object
) -> tuple[Tensor, None]:
    """Called by transformers in place of its own attention: queries are packed, keys and values in rows."""
    now, more = _CURRENT.get(), more | {"is_causal": False}
    out_BWHE, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, now.heads(query), key, value, now.mask, **more)
    return now.pack(out_BWHE), None


AttentionInterface.register(_NAME, _attend)


def forward(
    lm: PreTrainedModel,
    embeds_BWD: Tensor,
    *,
    positions_BT: Tensor,
    mask: Tensor | None = None,
    cache: PassCache | None = None,
    real: np.ndarray | None = None,
    **more: bool,
) -> Any:
    """One pass of a model's body, packed if that is worthwhile.

    Args:
        lm: the causal LM.
        mask: see `Backbone.step`.
        real: host array [B, W], which columns of the pass are real; None = unknown, or all.
        more: further arguments for transformers.

    Returns:
        transformers' output. States of padding are 0 in a packed pass, and unspecified in a padded one.
    """
    if isinstance(cache, Unpadded):
        return cache.forward(embeds_BWD, positions_BT, mask, real, **more)
    named = {"use_cache": cache is not None, **more}
    if mask is None or real is None or not packs(lm, real):
        mask = pairs_mask(lm, mask, embeds_BWD)
        return lm.base_model(
            inputs_embeds=embeds_BWD, attention_mask=mask, position_ids=positions_BT, past_key_values=cache, **named
        )
    now = Packed(real, mask, cache)
    with attending(lm.config, _NAME, _CURRENT, now):
        out = lm.base_model(
            inputs_embeds=now.pack(embeds_BWD), position_ids=now.pack(positions_BT), past_key_values=now, **named
        )
    out.last_hidden_state = now.unpack(out.last_hidden_state)
    if out.hidden_states is not None:
        out.hidden_states = tuple(now.unpack(states) for states in out.hidden_states)
    return out


def packs(lm: PreTrainedModel, real_BW: np.ndarray | None) -> bool:
    """Whether to pack a pass: it has enough padding, and the model can be packed."""
    if real_BW is None or real_BW.mean() > 1 - WORTH or not is_on():
        return False
    return lm.config._attn_implementation == "sdpa" and takes_packing(lm)


@torch.no_grad()
def takes_packing(lm: PreTrainedModel) -> bool:
    """Whether a model gives the same numbers packed as padded; tried once on two rows in two passes and cached on the
    model."""
    if (known := getattr(lm, "_takes_packing", None)) is not None:
        return known
    if not is_on():  # nothing would be packed, and so nothing compared
        return False
    vars(lm)["_takes_packing"] = False
    if not takes_pairs(lm) or any(type(layer) is not DynamicLayer for layer in DynamicCache(config=lm.config).layers):
        return False
    table = input_table(lm)
    training, device = lm.training, table.weight.device
    lm.eval()
    try:
        embeds_BTD = table((torch.arange(10, device=device) % table.weight.shape[0]).view(2, 5))
        with without_hooks(lm):
            padded, found = (_two_passes(lm, embeds_BTD, packing=packing) for packing in (False, True))
        rough = 1e-3 if padded.dtype == torch.float32 else 5e-2
        vars(lm)["_takes_packing"] = bool((found - padded).abs().amax() <= rough * padded.abs().amax())
    except Exception:  # families raise any kind of error here; padding works for all
        vars(lm)["_takes_packing"] = False
    finally:
        lm.train(training)
    return vars(lm)["_takes_packing"]


def _two_passes(lm: PreTrainedModel, embeds_BTD: Tensor, *, packing: bool) -> Tensor:
    """States of the real columns of two rows, of 3 + 1 and 1 + 2 columns."""
    vars(lm)["_takes_packing"] = packing
    cache, states, sees = DynamicCache(config=lm.config), [], []
    for first, lengths_B in ((0, (3, 1)), (3, (1, 2))):
        width = max(lengths_B)
        real_BW = np.arange(width) < np.array(lengths_B)[:, None]
        positions_BW = np.array([[0], [0]] if first == 0 else [[3], [1]]) + np.arange(width)
        sees.append(real_BW)
        mask = torch.from_numpy(np.concatenate(sees, axis=1)).to(embeds_BTD.device).long()
        out = forward(
            lm,
            embeds_BTD[:, first : first + width],
            positions_BT=torch.from_numpy(positions_BW).to(embeds_BTD.device),
            mask=mask,
            cache=cache,
            real=real_BW,
        )
        states.append(out.last_hidden_state[torch.from_numpy(real_BW).to(embeds_BTD.device)])
    return torch.cat(states)
