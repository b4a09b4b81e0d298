"""Latents of a question one by one: what they are near to, and what the answer becomes when one of them is changed.

    {"question": ..., "touch": {"latent": 2, "how": "zero"}}

A changed latent is fed in place of the one that was made; those after it are made from what follows, as they always are.
One that is taken away (`drop`) leaves the others as they were: the question is thought about with one slot fewer.

Shapes: K latents, N rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unspoken.core.config import config_class
from unspoken.core.loop.edits import Edit
from unspoken.core.rows.row import LatentKey
from unspoken.inspector.words import nearest
from unspoken.serving.engine import Outcome
from unspoken.serving.errors import ApiError
from unspoken.serving.models import ServedModel
from unspoken.serving.protocol import Count, Text, Tokens

WORDS = 5
"""Nearest words told of each latent."""

NOISE_SEED = 0


@config_class
class Touch:
    """What is done to a latent.

    Attributes:
        latent: which, from 0.
        how: nothing is left of it; a random vector as long as it; another question's in its place; taken away.
        other: the other question, for a swap.
    """

    latent: Count
    how: Literal["zero", "noise", "swap", "drop"]
    other: Text | None = None

    def __post_init__(self) -> None:
        if (self.how == "swap") != (self.other is not None):
            raise ApiError(400, "a swap needs the other question, and nothing else does", "touch")


@config_class
class TouchRequest:
    """`POST /v1/thoughts`."""

    question: Text
    model: Text | None = None
    latents: Count | None = None
    max_tokens: Tokens | None = None
    touch: Touch | None = None


Ask = Callable[..., Any]
"""(question, latents=None, edit=None) -> an awaitable `Outcome` that has kept its latents."""


async def touched(ask: Ask, asked: TouchRequest) -> Outcome:
    """The answer to a question, with one of its latents changed if that is asked for.

    Raises:
        ApiError: 400, there is no such latent.
    """
    own = await ask(asked.question, latents=asked.latents)
    if asked.touch is None:
        return own
    touch, latents_KD = asked.touch, _latents(own)
    if touch.latent >= len(latents_KD):
        raise ApiError(400, f"there is no latent {touch.latent} among {len(latents_KD)}, counted from 0", "touch")
    if touch.how == "drop":
        rest = {i: latents_KD[i + 1] for i in range(touch.latent, len(latents_KD) - 1)}
        return await ask(asked.question, latents=len(latents_KD) - 1, edit=_replacing(rest))
    if touch.how == "swap":
        other_KD = _latents(await ask(touch.other, latents=len(latents_KD)))
        return await ask(asked.question, latents=asked.latents, edit=_replacing({touch.latent: other_KD[touch.latent]}))
    old_D = latents_KD[touch.latent]
    new_D = torch.zeros_like(old_D) if touch.how == "zero" else _noise(old_D)
    return await ask(asked.question, latents=asked.latents, edit=_replacing({touch.latent: new_D}))


def told(served: ServedModel, outcome: Outcome) -> dict[str, Any]:
    """An answer and its latents, as JSON; runs the model's head, so where the models may be used."""
    latents_KD = _latents(outcome)
    backbone = served.model.method.backbone
    unit_KD = torch.nn.functional.normalize(latents_KD.float(), dim=-1)
    words = nearest(backbone, latents_KD.to(backbone.device), WORDS) if len(latents_KD) else []
    return {
        "model": served.name,
        "text": outcome.text,
        "finish_reason": outcome.finish_reason,
        "thoughts": None if outcome.thoughts is None else list(outcome.thoughts),
        "latents": [
            {
                "words": [{"text": word.text, "probability": word.probability} for word in row],
                "length": float(latent_D.float().norm()),
                "similarity": [round(value, 4) for value in near_K.tolist()],
            }
            for row, latent_D, near_K in zip(words, latents_KD, unit_KD @ unit_KD.T, strict=True)
        ],
        "tokens": len(outcome.tokens),
        "forward_passes": outcome.passes,
    }


def _latents(outcome: Outcome) -> Tensor:
    assert outcome.latents_KD is not None, "they were not kept"
    return outcome.latents_KD


def _noise(old_D: Tensor) -> Tensor:
    """A random vector as long as another one; the same each time."""
    made_D = torch.randn(old_D.shape, generator=torch.Generator().manual_seed(NOISE_SEED)).to(old_D)
    return made_D * (old_D.norm() / made_D.norm())


def _replacing(new: Mapping[int, Tensor]) -> Edit:
    """An edit that puts these vectors in the place of the latents with these numbers."""

    def edit(latents_ND: Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> Tensor:
        rows = [new[i].to(latents_ND) if i in new else latents_ND[n] for n, i in enumerate(index_N.tolist())]
        return torch.stack(rows)

    return edit
