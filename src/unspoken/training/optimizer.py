"""AdamW as every run has it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unspoken.core.lm.hf import token_parameters
from unspoken.methods.base import Method
from unspoken.runs.config import TrainConfig


def new_optimizer(method: Method, trained: Mapping[str, Tensor], settings: TrainConfig, fused: bool) -> torch.optim.AdamW:
    """A fresh optimizer.

    Only matrices decay. Embedding rows do not either: rows that a batch does not contain would shrink for nothing.

    Args:
        method: whose token tables are known.
        trained: the parameters that learn, by name.
        settings: rate, decay and betas.
        fused: one kernel for all parameters.
    """
    tables = token_parameters(method)
    decays = [p for p in trained.values() if p.ndim > 1 and id(p) not in tables]
    rest = [p for p in trained.values() if p.ndim <= 1 or id(p) in tables]
    groups = [
        {"params": decays, "decays": True, "weight_decay": settings.weight_decay},
        {"params": rest, "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=fused)
