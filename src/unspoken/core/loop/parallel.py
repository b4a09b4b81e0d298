"""All latents at once: T parallel passes over every slot in place of K passes, one per latent (PCCoT, arXiv 2506.18582).

Thinking is the recurrence z[0] = f(h[-1]), z[k+1] = f(h[k]), where h[k] is the state at slot k given all slots up to it.
Computed in order, it takes one pass per latent. By Jacobi iteration, every pass feeds the current values of all latents and
recomputes all of them. Slots start with the embedding of their own token. Slot k is exact after k passes, so T >= K passes
give the sequential latents, and fewer give an approximation that a model can be trained with. The last of the T passes also
feeds the text after the latents; the earlier ones are made here and leave nothing in the cache.

Shapes: b rows still running, K slots of the row with most, J = K - 1, N latents made, D width.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unspoken.core.fast.unpadded import PassCache, Unpadded
from unspoken.core.loop.layers import LayerWatch, watching
from unspoken.core.loop.sources import Jacobi
from unspoken.core.loop.speech import Speech
from unspoken.core.loop.trace import Cost
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.protocol import CausalLM


class Underway(Protocol):
    """What the parallel passes read of a `Loop` between two of its passes, and add to."""

    backbone: CausalLM
    batch: Batch
    cache: Any
    speech: Speech
    cost: Cost
    start_b: np.ndarray
    end_b: np.ndarray
    index_b: np.ndarray
    mask_bS: np.ndarray
    embeds_bTD: Tensor
    last_bD: Tensor | None
    watch: LayerWatch | None
    latents: list[Tensor]
    states: list[Tensor]
    places: list[tuple[np.ndarray, np.ndarray]]

    def to_device(self, array: np.ndarray) -> Tensor: ...


def fill(loop: Underway, source: Jacobi, thinks_b: np.ndarray, embeds_bWD: Tensor) -> Tensor:
    """Put the latents made by the earlier passes into the first columns of the last pass."""
    latent_ND, rows_N, number_N = refine(loop, source, thinks_b)
    b, W, D = embeds_bWD.shape
    flat = embeds_bWD.reshape(b * W, D).index_copy(0, loop.to_device(rows_N * W + number_N), latent_ND.to(embeds_bWD.dtype))
    return flat.view(b, W, D)


def refine(loop: Underway, source: Jacobi, thinks_b: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The latents of rows that have reached their first slot, after all passes but the last.

    Args:
        loop: the batch being forwarded; its cache is read and left unchanged.
        source: makes the latents and holds the number of passes.
        thinks_b: which rows.

    Returns:
        latent_ND; per latent, its row (as a number among the running rows) and its number in the row.
    """
    count_b = np.where(thinks_b, loop.end_b - loop.start_b, 0)
    K = int(count_b.max())
    slot_bK = np.arange(K)[None, :] < count_b[:, None]
    place_bK = np.where(slot_bK, loop.start_b[:, None] + np.arange(K)[None, :], 0)
    rows_N, number_N = np.nonzero(slot_bK)
    first_N, later_N = np.flatnonzero(number_N == 0), np.flatnonzero(number_N > 0)
    flat_N = rows_N * K + number_N
    assert loop.last_bD is not None
    D = loop.last_bD.shape[1]

    def make(states_bKD: Tensor, which: np.ndarray, into_bKD: Tensor) -> Tensor:
        """Put the latents made from some of the states where they belong; entry k of the states makes latent k."""
        index = loop.to_device(flat_N[which])
        state_MD = states_bKD.reshape(-1, D).index_select(0, index)
        latent_MD = source.next(state_MD, loop.index_b[rows_N[which]], number_N[which])
        return into_bKD.reshape(-1, D).index_copy(0, index, latent_MD.to(into_bKD.dtype)).view(into_bKD.shape)

    before_b1D = loop.last_bD[:, None]
    states_bKD = torch.cat([before_b1D, before_b1D.new_zeros(len(count_b), K - 1, D)], dim=1)
    slots_bKD = loop.embeds_bTD.gather(1, loop.to_device(place_bK)[:, :, None].expand(-1, -1, D))
    slots_bKD = latents_bKD = make(states_bKD, first_N, slots_bKD)  # the first latent is exact from the start
    for _ in range(min(source.passes, K) - 1):
        # The last slot's state makes no latent.
        hidden_bJD = _pass(loop, latents_bKD[:, :-1], slot_bK[:, 1:], place_bK[:, :-1])
        states_bKD = torch.cat([before_b1D, hidden_bJD], dim=1)
        latents_bKD = make(states_bKD, later_N, slots_bKD)
    index = loop.to_device(flat_N)
    latent_ND = latents_bKD.reshape(-1, D).index_select(0, index)
    loop.latents.append(latent_ND)
    loop.states.append(states_bKD.reshape(-1, D).index_select(0, index))
    loop.places.append((loop.index_b[rows_N], number_N))
    return latent_ND, rows_N, number_N


def _pass(loop: Underway, embeds_bJD: Tensor, real_bJ: np.ndarray, place_bJ: np.ndarray) -> Tensor:
    """States at the slots, given their current values."""
    mask_bS = np.concatenate([loop.mask_bS, real_bJ], axis=1)
    whole = mask_bS.all() and not loop.batch.gap_B.any()
    with watching(loop.watch, loop.index_b, np.where(real_bJ, place_bJ, -1)):
        hidden_bJD = loop.backbone.step(
            embeds_bJD,
            positions_BT=loop.to_device(loop.batch.position_ids(np.where(real_bJ, place_bJ, 0), loop.index_b)),
            mask=None if whole else loop.to_device(mask_bS).long(),
            cache=fork(loop.cache),
            real=real_bJ if isinstance(loop.cache, Unpadded) else None,
        )
    took_b = real_bJ.sum(axis=1)
    loop.cost.passes += 1
    loop.cost.positions += int(took_b.sum())
    loop.cost.slots += real_bJ.size
    loop.speech.passes_B[loop.index_b] += took_b > 0
    loop.speech.positions_B[loop.index_b] += took_b
    return hidden_bJD


def fork(cache: PassCache) -> Any:
    """An independent copy of a cache. It shares the tensors, which no layer writes into: a cache grows by concatenation."""
    if isinstance(cache, Unpadded):
        return cache.fork()
    mine = copy.copy(cache)
    mine.layers = [copy.copy(layer) for layer in cache.layers]
    return mine
