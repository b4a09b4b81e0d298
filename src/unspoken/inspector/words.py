"""The words nearest to a vector: the tokens that the model's own head ranks highest for it.

Each latent has two such vectors: the state that it was made from, which the head was trained to read, and the latent that
is fed. For Coconut they are equal. With a projection (CODI), only the first is in the head's space by training; a latent
not made from a state (SoftCoT, SemCoT) has only the second. If the head has no bias, the order of words does not depend on
the vector's length; their probabilities do.

Shapes: B rows, K latents of the row with most, D width, N vectors, V words, k words kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.trace import Trace

TOP = 8
"""Words kept per vector; the SIM-CoT paper reads the top 8."""

_ROWS = 64
"""Vectors per call of the head: 64 x 128,000 logits are 33 MB."""


@dataclass(frozen=True)
class Word:
    """A token as text, and its probability."""

    text: str
    probability: float


@torch.inference_mode()
def nearest(backbone: Backbone, vectors_ND: Tensor, k: int = TOP) -> list[tuple[Word, ...]]:
    """The k most likely words of each vector, the most likely first."""
    found: list[tuple[Word, ...]] = []
    for part in vectors_ND.split(_ROWS):
        logits_NV = backbone.logits(part.to(backbone.lm.dtype)).float()
        best = logits_NV.softmax(-1).topk(min(k, logits_NV.shape[1]), dim=-1)
        for ids, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            found.append(tuple(Word(spelled(backbone, token), share) for token, share in zip(ids, shares, strict=True)))
    return found


def spelled(backbone: Backbone, token: int) -> str:
    """A token as text; special tokens by name."""
    return backbone.tokenizer.decode([token], skip_special_tokens=False)


@dataclass(frozen=True)
class RowWords:
    """The words of a row's latents, one entry per latent.

    Attributes:
        state: words of the states that they were made from; None if there are none.
        latent: words of the latents themselves; the same object if latent and state are equal.
    """

    state: list[tuple[Word, ...]] | None
    latent: list[tuple[Word, ...]]

    @property
    def read(self) -> list[tuple[Word, ...]]:
        """The words of the states, if there are any; else of the latents."""
        return self.latent if self.state is None else self.state


def words_of(backbone: Backbone, trace: Trace, k: int = TOP) -> list[RowWords]:
    """The words of every latent of a trace, by row."""
    K = trace.latents_BKD.shape[1]
    places = [b * K + i for b, n in enumerate(trace.counts_B.tolist()) for i in range(n)]
    if not places:
        return [RowWords(None, []) for _ in trace.counts_B]

    def of(vectors_BKD: Tensor) -> list[list[tuple[Word, ...]]]:
        flat_ND = vectors_BKD.flatten(0, 1)[torch.tensor(places, device=vectors_BKD.device)]
        said = iter(nearest(backbone, flat_ND, k))
        return [[next(said) for _ in range(n)] for n in trace.counts_B.tolist()]

    latents, states = trace.latents_BKD, trace.states_BKD
    if states is None:
        return [RowWords(None, row) for row in of(latents)]
    before = of(states)
    if states is latents or torch.equal(states.float(), latents.float()):
        return [RowWords(row, row) for row in before]
    return [RowWords(row, other) for row, other in zip(before, of(latents), strict=True)]
