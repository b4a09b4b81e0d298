"""Idle passes: processes that gather a model's layers pass by pass (`train.sharding=zero3`) must make equally many.

A process whose rows have fewer latents makes the passes that it lacks with a single column, whose result counts 0 times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unspoken.core.rows.protocol import CausalLM


def idle(backbone: CausalLM, passes: int, embed_1D: Tensor, hidden_BWD: Tensor) -> Tensor:
    """Make as many passes as the process that makes most, if processes have to agree (`CausalLM.agree`).

    Args:
        backbone: the model.
        passes: how many this process has made.
        embed_1D: what idle passes are fed: the embedding of any token.
        hidden_BWD: the states of the last pass.

    Returns:
        The same states, with idle passes in their graph.
    """
    if backbone.agree is None or not torch.is_grad_enabled():
        return hidden_BWD
    place = torch.zeros(1, 1, dtype=torch.long, device=embed_1D.device)
    for _ in range(backbone.agree(passes) - passes):
        state_11D = backbone.step(embed_1D[:, None], positions_BT=place, mask=None, cache=None)
        hidden_BWD = hidden_BWD + 0.0 * state_11D.sum()
    return hidden_BWD
