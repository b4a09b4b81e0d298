"""How the rows of a model can share a pass. Found out by comparing numbers when it is built, so that no family is silently
wrong.

A row in a batch must give the same states as the row alone. Most families do if rows are padded inside a pass; some must
not be fed padding (`core/fast/unpadded.py`), and some depend on the length read. The families in `PLAIN` are known to take
padding, which a test checks. Any other model is tried: two rows of different length in passes of several columns, against
each row alone in one pass, forward and backward. A model that is never right is refused.

Shapes: B rows, W columns of a pass, T positions of a row, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from unspoken.core.embeddings import input_table, text_config
from unspoken.core.fast import packing
from unspoken.core.fast.activation_checkpointing import pass_cache
from unspoken.core.fast.attention import attention_window
from unspoken.core.fast.unhooked import without_hooks
from unspoken.core.fast.unpadded import Alone, Grouped, PassCache, Replayed, Stepwise, Unpadded
from unspoken.core.lm.hf import rope_switch
from unspoken.errors import BackboneError

PLAIN = frozenset(
    """
    codegen cohere cohere2 exaone4 gemma gemma2 gemma3_text gpt2 gpt_neo gpt_neox gpt_oss gptj granite llama mistral
    nanochat olmo olmo2 olmo3 opt phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe smollm3 stablelm starcoder2
    """.split()  # noqa: SIM905
)
"""Families (`model_type`) whose rows may be padded inside a pass; `tests/core/lm/test_ways.py` tries each."""

UNPADDED = {"grouped": Grouped, "stepwise": Stepwise, "alone": Alone, "replayed": Replayed}
"""The other ways, fastest first."""

PASSES = ((4, 2), (1, 1), (2, 1), (1, 3))
"""How many columns each of the two rows feeds, pass by pass, when a model is tried."""


@dataclass(frozen=True)
class Ways:
    """How a model is fed: "padded", or a key of `UNPADDED`.

    Attributes:
        answering, training: the way without and with gradients.
        limit: the number of columns up to which that is right; None = any.
        beyond: the way for more columns.
    """

    answering: str = "padded"
    training: str = "padded"
    limit: int | None = None
    beyond: str = "alone"


def ways_of(lm: PreTrainedModel) -> Ways:
    """How a model is fed; found out once per device type and attention implementation, and cached on the model.

    Raises:
        BackboneError: in no way does a row in a batch give what it gives alone.
    """
    known: dict[str, Ways] = lm.__dict__.setdefault("_ways", {})
    kind = f"{input_table(lm).weight.device.type} {lm.config._attn_implementation}"
    if kind not in known:
        with without_hooks(lm):
            known[kind] = _find(lm)
    return known[kind]


def new_cache(lm: PreTrainedModel, columns: int = 0, branched: bool = False, *, checkpointing: bool = False) -> PassCache:
    """An empty cache for a batch.

    Args:
        columns: the most columns of all its passes together.
        branched: some of its rows have a branch.
        checkpointing: store passes separately, so that layers can be recomputed; ignored for a model that is not padded.
    """
    ways, grad = ways_of(lm), torch.is_grad_enabled()
    way = ways.training if grad else ways.answering
    if ways.limit is not None and columns > ways.limit:
        way = ways.beyond
    if way == "padded" and branched and getattr(lm, "_branches_apart", False):  # noted in `core/loop/self_check.py`
        way = "grouped"
    if way != "padded":
        return UNPADDED[way](lm)
    return pass_cache(lm) if checkpointing and grad else DynamicCache(config=lm.config)


def columns_limit(lm: PreTrainedModel) -> int | None:
    """The number of columns up to which a pass may be padded; None = any number."""
    limits = [limit for limit in (attention_window(lm), rope_switch(lm)) if limit is not None]
    return min(limits, default=None)


def _find(lm: PreTrainedModel) -> Ways:
    limit, switch = columns_limit(lm), rope_switch(lm)
    if text_config(lm).model_type in PLAIN:
        return Ways(limit=limit, beyond="alone" if switch is None else "replayed")
    training = lm.training
    lm.eval()
    try:
        device = input_table(lm).weight.device.type
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            found = _tried(lm, limit, switch)
    finally:
        lm.train(training)
    return found


def _tried(lm: PreTrainedModel, limit: int | None, switch: int | None) -> Ways:
    """Try ways, the fastest first; one that is right only in the forward pass can still be used for answering."""
    try:
        want = alone(lm)
    except Exception as error:  # families raise whatever their code comes across
        raise BackboneError(
            f"{type(lm).__name__}: it cannot be fed vectors that are no token's and trained ({_first_line(error)}), as "
            "latents are; take a model of another family, docs/families.md lists those that work"
        ) from error
    answering, gaps = "", []
    for way in ("padded", *UNPADDED):
        states, gradients = gap(lm, way, want)
        gaps.append(f"{way}: {states or gradients}")
        answering = answering or ("" if states else way)
        # With gradients, feeding column by column costs more than reading everything again.
        if not states and not gradients and way != "stepwise":
            break
    else:
        raise BackboneError(
            f"{type(lm).__name__}: a row in a batch does not give what it gives alone ({gaps[0]}; {gaps[-1]}), so it would "
            "train and answer wrongly; take a model of another family, docs/families.md lists those that work"
        )
    beyond = "replayed" if switch is not None else "alone"
    if limit is not None and beyond == "alone" and any(gap(lm, "alone", want)):
        beyond = "replayed"
    return Ways(answering=answering, training=way, limit=limit, beyond=beyond)


def alone(lm: PreTrainedModel) -> list[tuple[Tensor, Tensor]]:
    """States and gradients of each trial row, alone and in one pass."""
    found = []
    for embeds_TD in _rows(lm):
        positions = torch.arange(len(embeds_TD), device=embeds_TD.device)[None]
        out = lm.base_model(inputs_embeds=embeds_TD[None], position_ids=positions, use_cache=False)
        found.append((out.last_hidden_state[0].detach(), _gradient([out.last_hidden_state[0]], [embeds_TD])[0]))
    return found


def gap(lm: PreTrainedModel, way: str, want: list[tuple[Tensor, Tensor]]) -> tuple[str, str]:
    """What differs ("states" or "gradients") when trial rows share passes fed one way; "" if nothing does."""
    embeds = _rows(lm)
    exact = embeds[0].dtype in (torch.float32, torch.float64)
    try:
        states = _passes(lm, way, embeds)
    except Exception as error:  # families raise whatever their code comes across
        return _first_line(error), ""
    worst = max(_apart(mine.detach(), whole, exact) for mine, (whole, _) in zip(states, want, strict=True))
    if worst > (1e-3 if exact else 0.1):
        return f"states differ by {worst:.1g}", ""
    try:
        gradients = _gradient(states, embeds)
    except Exception as error:  # a state that was overwritten, or a kernel without a backward
        return "", _first_line(error)
    worst = max(_apart(mine, whole, exact) for mine, (_, whole) in zip(gradients, want, strict=True))
    return "", f"gradients differ by {worst:.1g}" if worst > (2e-3 if exact else 0.2) else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _apart(mine_TD: Tensor, whole_TD: Tensor, exact: bool) -> float:
    """Relative distance of the worst column; of the median column in half precision, where some round differently."""
    far_T = (mine_TD - whole_TD).float().norm(dim=-1) / whole_TD.float().norm(dim=-1).clamp_min(1e-12)
    far_T = torch.where(far_T.isnan(), torch.inf, far_T)
    return float(far_T.amax() if exact else far_T.median())


def _rows(lm: PreTrainedModel) -> list[Tensor]:
    """Vectors [T, D] of two rows, none equal to a token's embedding: some families look up their inputs."""
    table, ends = input_table(lm), np.cumsum([sum(widths) for widths in zip(*PASSES, strict=True)])
    with torch.no_grad():
        ids = torch.arange(1, int(ends[-1]) + 1, device=table.weight.device) % table.weight.shape[0]
        parts = (1.25 * table(ids)).split([int(ends[0]), int(ends[1] - ends[0])])
    return [part.clone().requires_grad_() for part in parts]


def _passes(lm: PreTrainedModel, way: str, embeds: list[Tensor]) -> list[Tensor]:
    """States [T, D] of two rows that share passes."""
    cache: PassCache = DynamicCache(config=lm.config) if way == "padded" else UNPADDED[way](lm)
    fed, sees, states = [0, 0], np.zeros((2, 0), dtype=bool), ([], [])
    for number, widths in enumerate(PASSES):
        W = max(widths)
        real = np.arange(W)[None, :] < np.array(widths)[:, None]
        sees = np.concatenate([sees, real], axis=1)
        part = [pad(e[at : at + w], (0, 0, 0, W - w)) for e, at, w in zip(embeds, fed, widths, strict=True)]
        positions = np.where(real, np.array(fed)[:, None] + np.arange(W), 0)
        if isinstance(cache, Unpadded):
            cache.final = number == len(PASSES) - 1
        out = packing.forward(
            lm,
            torch.stack(part),
            positions_BT=torch.from_numpy(positions).to(embeds[0].device),
            mask=torch.from_numpy(sees).to(embeds[0].device).long(),
            cache=cache,
            real=None if way == "padded" else real,
        )
        for b, width in enumerate(widths):
            states[b].append(out.last_hidden_state[b, :width])
            fed[b] += width
    return [torch.cat(parts) for parts in states]


def _gradient(states: list[Tensor], embeds: list[Tensor]) -> list[Tensor]:
    """The gradient of a weighted sum of states with respect to the embeddings; parameters get none."""
    total = states[0].new_zeros(())
    for states_TD in states:
        weights_TD = torch.linspace(0, 40, states_TD.numel(), device=states_TD.device).cos().view_as(states_TD)
        total = total + (states_TD * weights_TD.to(states_TD.dtype)).sum()
    return list(torch.autograd.grad(total, embeds))
