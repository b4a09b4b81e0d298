"""All latents at once: passes over every slot in place of a pass per latent.

Two kinds of sources ask for it (`core/loop/sources.py:Iterated`). In either case slots start with the embedding of their own
token, the last pass also feeds the text after the latents, and the earlier passes are made here and leave nothing in the
cache.

`Jacobi` (PCCoT, arXiv 2506.18582): thinking is the recurrence z[0] = f(h[-1]), z[k+1] = f(h[k]), where h[k] is the state at
slot k given all slots up to it. Computed in order, it takes one pass per latent. By Jacobi iteration, every pass feeds the
current values of all latents and recomputes all of them. Slot k is exact after k passes, so T >= K passes give the
sequential latents, and fewer give an approximation that a model can be trained with.

`Looped` (LOTUS, arXiv 2606.31779): z[k] = f(h[k]), from the same slot in the pass before. Rows with fewer slots make fewer
passes, and wait in the others.

Shapes: b rows still running, K slots of the row with most, W columns of a pass, N latents in all, M of them made in a pass,
D width.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unspoken.core.fast.unpadded import PassCache, Unpadded
from unspoken.core.loop.layers import LayerWatch, watching
from unspoken.core.loop.sources import Iterated
from unspoken.core.loop.speech import Speech
from unspoken.core.loop.trace import Cost
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.protocol import CausalLM


class Underway(Protocol):
    """What the passes read of a `Loop` between two of its passes, and add to."""

    backbone: CausalLM
    batch: Batch
    cache: Any
    speech: Speech
    cost: Cost
    keep_hidden: bool
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
    rounds: list[Tensor]

    def to_device(self, array: np.ndarray) -> Tensor: ...


class Slots:
    """The slots of the rows that have reached their first one, and what they hold.

    Args:
        loop: the batch being forwarded; its cache is read and left unchanged.
        source: makes the latents and says in how many passes.
        thinks_b: which rows.

    Attributes:
        latents_bKD: what the slots hold now.
        rows_N, number_N: per latent, its row (as a number among the running rows) and its number in the row.
    """

    def __init__(self, loop: Underway, source: Iterated, thinks_b: np.ndarray) -> None:
        assert loop.last_bD is not None
        self.loop, self.source = loop, source
        self.count_b = np.where(thinks_b, loop.end_b - loop.start_b, 0)
        K = int(self.count_b.max())
        self.slot_bK = np.arange(K)[None, :] < self.count_b[:, None]
        self.place_bK = np.where(self.slot_bK, loop.start_b[:, None] + np.arange(K)[None, :], 0)
        self.rows_N, self.number_N = np.nonzero(self.slot_bK)
        self.before_b1D = loop.last_bD[:, None]
        index_bK = loop.to_device(self.place_bK)[:, :, None]
        self.latents_bKD = self.tokens_bKD = loop.embeds_bTD.gather(1, index_bK.expand(-1, -1, loop.last_bD.shape[1]))

    def fill(self, embeds_bWD: Tensor) -> Tensor:
        """Make every pass but the last; put the latents into the first columns of the last one."""
        before_bKD = self._in_loops() if self.source.own_slot else self._shifted()
        self.loop.latents.append(self._at_slots(self.latents_bKD))
        self.loop.places.append((self.loop.index_b[self.rows_N], self.number_N))
        if before_bKD is not None:
            self.loop.states.append(self._at_slots(before_bKD))
        b, W, D = embeds_bWD.shape
        index = self.loop.to_device(self.rows_N * W + self.number_N)
        latent_ND = self.loop.latents[-1].to(embeds_bWD.dtype)
        return embeds_bWD.reshape(b * W, D).index_copy(0, index, latent_ND).view(b, W, D)

    def passed(self, hidden_bWD: Tensor) -> None:
        """Take the states of the last pass: where latents come from their own slots, no pass before has the states that
        the text after them was written with."""
        if self.source.own_slot:
            K = self.slot_bK.shape[1]
            self.loop.states.append(self._at_slots(torch.cat([self.before_b1D, hidden_bWD[:, : K - 1]], dim=1)))

    def _shifted(self) -> Tensor:
        """A latent from the state before its slot; returns these states."""
        K, passes_b = self.slot_bK.shape[1], self._passes()
        states_bKD = torch.cat([self.before_b1D, self.before_b1D.new_zeros(len(self.count_b), K - 1, self.D)], dim=1)
        # The first latent is exact from the start.
        self.latents_bKD = self._make(states_bKD, np.flatnonzero(self.number_N == 0), self.tokens_bKD)
        tokens_b = np.array([self.source.tokens_apart(int(count)) for count in self.count_b])
        fed_bKD = torch.where(self.loop.to_device(tokens_b)[:, None, None], self.tokens_bKD, self.latents_bKD)
        for number in range(1, int(passes_b.max())):
            going_b = passes_b > number
            # The last slot's state makes no latent.
            hidden_bJD = self._pass(fed_bKD[:, :-1], self.slot_bK[:, 1:] & going_b[:, None], self.place_bK[:, :-1])
            made_bKD = torch.cat([self.before_b1D, hidden_bJD], dim=1)
            states_bKD = torch.where(self.loop.to_device(going_b)[:, None, None], made_bKD, states_bKD)
            # Nothing that is fed in the passes to come is made from the last latents; only the last pass feeds all.
            wanted_N = self.number_N < (self.count_b - (passes_b - 1 - number))[self.rows_N]
            which_M = np.flatnonzero((self.number_N > 0) & going_b[self.rows_N] & wanted_N)
            fed_bKD = self.latents_bKD = self._make(states_bKD, which_M, self.latents_bKD)
        return states_bKD

    def _in_loops(self) -> None:
        """A latent from the state at its own slot."""
        passes_b = self._passes()
        for number in range(1, int(passes_b.max())):
            going_b = passes_b > number
            hidden_bKD = self._pass(self.latents_bKD, self.slot_bK & going_b[:, None], self.place_bK)
            if self.loop.keep_hidden:
                self.loop.rounds.append(torch.cat([self.before_b1D, hidden_bKD[:, :-1]], dim=1))
            self.latents_bKD = self._make(hidden_bKD, np.flatnonzero(going_b[self.rows_N]), self.latents_bKD)

    def _passes(self) -> np.ndarray:
        """Passes over each row's slots, the last one included."""
        return np.array([self.source.passes_for(int(count)) if count else 0 for count in self.count_b])

    @property
    def D(self) -> int:
        """Width."""
        return self.tokens_bKD.shape[2]

    def _at_slots(self, vectors_bKD: Tensor) -> Tensor:
        """Vectors [N, D] of the latents that there are."""
        index = self.loop.to_device(self.rows_N * self.slot_bK.shape[1] + self.number_N)
        return vectors_bKD.reshape(-1, self.D).index_select(0, index)

    def _make(self, states_bKD: Tensor, which_M: np.ndarray, into_bKD: Tensor) -> Tensor:
        """Put the latents made from some of the states where they belong; entry k of the states makes latent k."""
        rows_M, number_M = self.rows_N[which_M], self.number_N[which_M]
        index = self.loop.to_device(rows_M * self.slot_bK.shape[1] + number_M)
        state_MD = states_bKD.reshape(-1, self.D).index_select(0, index)
        latent_MD = self.source.next(state_MD, self.loop.index_b[rows_M], number_M)
        return into_bKD.reshape(-1, self.D).index_copy(0, index, latent_MD.to(into_bKD.dtype)).view(into_bKD.shape)

    def _pass(self, embeds_bJD: Tensor, real_bJ: np.ndarray, place_bJ: np.ndarray) -> Tensor:
        """States at the slots, given their current values."""
        loop = self.loop
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
