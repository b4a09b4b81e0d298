"""AdamW as every run has it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from unspoken.runs.config import TrainConfig


def new_optimizer(
    tables: Collection[str], trained: Mapping[str, Tensor], settings: TrainConfig, fused: bool
) -> torch.optim.AdamW:
    """A fresh optimizer.

    Only matrices decay. Embedding rows do not either: rows that a batch does not contain would shrink for nothing.

    Args:
        tables: names of embedding tables.
        trained: the parameters that learn, by name.
        settings: rate, decay and betas.
        fused: one kernel for all parameters.
    """
    decays = [p for name, p in trained.items() if p.ndim > 1 and name not in tables]
    rest = [p for name, p in trained.items() if p.ndim <= 1 or name in tables]
    groups = [
        {"params": decays, "decays": True, "weight_decay": settings.weight_decay},
        {"params": rest, "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=fused)
