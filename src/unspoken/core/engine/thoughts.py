"""The thoughts of requests as a trace, whatever made them.

Shapes: B requests, K latents of the one with most, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unspoken.core.engine.requests import ActiveRequest
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sources import Source
from unspoken.core.loop.trace import Cost, Trace


def trace_of(backbone: Backbone, source: Source | None, requests: Sequence[ActiveRequest], cost: Cost) -> Trace:
    """The thoughts of requests that kept their latents.

    Args:
        source: what made the latents; None if they were precomputed, or are tokens.
        cost: the cost recorded in the trace.
    """
    thoughts = [latents_of(backbone, source, active) for active in requests]
    states = [torch.stack(active.states) if active.states else None for active in requests]
    K = max(len(made) for made in thoughts)
    latents_BKD = torch.stack([_padded(made, K) for made in thoughts])
    states_BKD = None
    if source is not None:
        empty_KD = latents_BKD.new_zeros(K, latents_BKD.shape[2])
        states_BKD = torch.stack([empty_KD if made is None else _padded(made, K) for made in states])
    return Trace(
        latents_BKD=latents_BKD,
        states_BKD=states_BKD,
        counts_B=np.array([len(made) for made in thoughts]),
        starts_B=np.array([active.row.start for active in requests]),
        cost=cost,
    )


def latents_of(backbone: Backbone, source: Source | None, active: ActiveRequest) -> Tensor:
    """The latents of a request so far, [K, D]; the embeddings of its slots' tokens if those are its thoughts."""
    if active.vectors_KD is not None:
        return active.vectors_KD
    row = active.row
    if source is None:
        ids = row.ids[row.start : row.start + row.latents]  # of none, torch would make floats
        return backbone.embed(torch.tensor(ids, dtype=torch.long, device=backbone.device))
    return (
        torch.stack(active.latents)
        if active.latents
        else backbone.embed(torch.tensor([], dtype=torch.long, device=backbone.device))
    )


def _padded(made_kD: Tensor, K: int) -> Tensor:
    """Pad [k, D] with zeros to [K, D]."""
    return torch.cat([made_kD, made_kD.new_zeros(K - len(made_kD), made_kD.shape[1])])
