"""The attention that generated tokens pay to each latent.

The row with its answer is forwarded once more in one pass, with its latents as inputs. Attention is causal, so the states
are those of the loop, and here the weights are available. A latent's share is the weight on its position, averaged over
layers, heads and the positions at which a token was chosen (the one before the first generated token, and every generated
token but the last).

Shapes: B rows, T positions, K latents of a row, D width, L layers, H heads, Q positions at which a token was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unspoken.core.embeddings import text_config
from unspoken.core.lm.backbone import Backbone
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row

_BYTES = 256 * 2**20
"""Bytes of attention weights kept at a time."""


@dataclass(frozen=True)
class AttentionShares:
    """Where the attention of a row's generated tokens goes.

    Attributes:
        latents: share on each fed latent.
        layers: the same per layer, first layer first.
        before: total share on everything before the first latent.
        positions: number of positions before the first latent.
    """

    latents: tuple[float, ...]
    layers: tuple[tuple[float, ...], ...]
    before: float
    positions: int

    @property
    def rest(self) -> float:
        """Share on everything after the latents: markers and generated tokens."""
        return max(1.0 - self.before - sum(self.latents), 0.0)


def spoken_row(row: Row, tokens: Sequence[int]) -> Row:
    """A prompt with its answer, without the last token, which was never fed."""
    said = tuple(tokens[:-1])
    return replace(row, ids=(*row.ids, *said), labels=(*row.labels, *((IGNORE,) * len(said))), extra={})


@torch.inference_mode()
def attention_shares(
    backbone: Backbone, rows: Sequence[Row], latents: Sequence[Tensor], spoken: Sequence[Sequence[int]]
) -> list[AttentionShares | None]:
    """Compute the attention shares of some answers.

    Args:
        backbone: the base model.
        rows: prompts, with slots for latents.
        latents: per row, the vectors [K, D] that were fed.
        spoken: per row, the generated token ids, at least one.

    Returns:
        One per row; None if the family returns no attention weights.
    """
    config = text_config(backbone.lm)
    longest = max(len(row.ids) + len(tokens) for row, tokens in zip(rows, spoken, strict=True))
    one = 4 * config.num_hidden_layers * config.num_attention_heads * longest**2
    # A window counts columns, so padding would push real positions out of it.
    size = 1 if backbone.window is not None else max(_BYTES // one, 1)
    found: list[AttentionShares | None] = []
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        found.extend(_batch(backbone, rows[part], latents[part], spoken[part]))
    return found


def _batch(
    backbone: Backbone, rows: Sequence[Row], latents: Sequence[Tensor], spoken: Sequence[Sequence[int]]
) -> list[AttentionShares | None]:
    whole = [spoken_row(row, tokens) for row, tokens in zip(rows, spoken, strict=True)]
    batch = collate(whole).to(backbone.device)
    B, T = batch.ids_BT.shape
    embeds_BTD = backbone.embed(batch.ids_BT)
    for b, (row, vectors_KD) in enumerate(zip(whole, latents, strict=True)):
        embeds_BTD[b, row.start : row.start + row.latents] = vectors_KD[: row.latents].to(embeds_BTD.dtype)
    places_BT = np.tile(np.arange(T), (B, 1))
    positions_BT = torch.from_numpy(batch.position_ids(places_BT, np.arange(B))).to(backbone.device)
    real_BT = places_BT < batch.lengths_B[:, None]
    mask = torch.from_numpy(real_BT).long().to(backbone.device)
    weights_LBHTT = backbone.attention(embeds_BTD, positions_BT=positions_BT, mask=mask)
    if weights_LBHTT is None:
        return [None] * B
    return [_row_shares(weights_LBHTT[:, b], row, prompt) for b, (row, prompt) in enumerate(zip(whole, rows, strict=True))]


def _row_shares(weights_LHTT: Tensor, row: Row, prompt: Row) -> AttentionShares:
    """One row's shares."""
    queries_LHQT = weights_LHTT[:, :, len(prompt.ids) - 1 : len(row.ids)]
    shares_LT = queries_LHQT.float().mean(dim=(1, 2))
    start, end = row.start, row.start + row.latents
    layers = shares_LT[:, start:end].tolist()
    mean_T = shares_LT.mean(dim=0)
    return AttentionShares(
        latents=tuple(mean_T[start:end].tolist()),
        layers=tuple(map(tuple, layers)),
        before=float(mean_T[:start].sum()),
        positions=start,
    )
