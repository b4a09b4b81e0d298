"""The one loop: rows think and speak together, batched and cached, each in its own phase.

Thinking and speaking differ only in what is fed back: a latent made from the last hidden state, or the embedding of a
chosen token. Training runs the same loop with every token given and nothing to speak.

How a batch is forwarded: in every pass each row feeds what it has ready: its prompt up to the first latent; then one
latent; then the last latent together with all given text behind it; then one chosen token. A row that has less ready
than another is padded on the right *inside the pass*, so the first latents line up by themselves, rows with 0, 6 or 13
latents share a batch, and nothing is ever forwarded twice. Masks and position ids go with every pass. A row's branch
(`Row.branch`: a teacher's sequence on the same question) rides along in the first pass and is invisible from then on.

Shapes: B rows, b rows still running, T positions of the longest row, W columns of a pass, S columns so far, D width,
K latents of the row with most, L layers + 1, N rows that think (or speak) in this pass, V words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from unspoken.core.backbone import Backbone
from unspoken.core.branch import place, visible
from unspoken.core.latents import Source
from unspoken.core.layout import Batch, Row, collate
from unspoken.core.sampling import Chooser, Speaking
from unspoken.core.trace import Answer, Cost, Trace
from unspoken.errors import DataError

OnToken = Callable[[int, int], None]
"""Called with (row, token id) as tokens are chosen: streaming."""


class Body(Protocol):
    """What the loop needs of a model. `Backbone` is one; SIM-CoT's auxiliary decoder is another."""

    @property
    def device(self) -> torch.device: ...
    @property
    def context(self) -> int | None: ...
    @property
    def window(self) -> int | None: ...
    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    def embed(self, ids: Tensor) -> Tensor: ...
    def new_cache(self) -> DynamicCache: ...
    def logits(self, hidden: Tensor) -> Tensor: ...
    def step(
        self,
        embeds_BTD: Tensor,
        *,
        positions_BT: Tensor,
        mask: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor: ...
    def states(
        self,
        embeds_BTD: Tensor,
        *,
        positions_BT: Tensor,
        mask: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> tuple[Tensor, ...]: ...


@dataclass(kw_only=True)
class Speech:
    """What the rows of a batch spoke.

    Attributes:
        tokens: per row, the chosen token ids, eos included where it was reached.
        finished_B: whether the last eos was reached.
        passes_B: passes in which the row fed something: its latency alone.
        positions_B: positions forwarded per row.
    """

    tokens: list[list[int]]
    finished_B: np.ndarray
    passes_B: np.ndarray
    positions_B: np.ndarray


class Loop:
    """One batch on its way through the backbone. `run` is the whole interface; see the module's text for the idea.

    Args:
        backbone: the base model.
        batch: rows; their ids are on the backbone's device.
        source: makes latents from hidden states. None: the slots' own token embeddings are the thoughts (pause tokens).
        speaking: how to go on after the last given position; None = do not (training).
        numbers: per row, the number that seeds its sampling; None = its place in the batch.
        embeds_BTD: what to feed at the given positions instead of the tokens' embeddings: prompted thoughts.
        keep_hidden: keep the states of all columns in the trace (training needs them, inference does not).
        on_token: called as tokens are chosen.

    Raises:
        DataError: a row and the tokens it may speak do not fit into the model's context.
    """

    def __init__(
        self,
        backbone: Body,
        batch: Batch,
        source: Source | None,
        *,
        speaking: Speaking | None = None,
        numbers: Sequence[int] | None = None,
        embeds_BTD: Tensor | None = None,
        keep_hidden: bool = False,
        on_token: OnToken | None = None,
    ) -> None:
        B, T = batch.ids_BT.shape
        _check_context(backbone, batch, speaking.max_new_tokens if speaking else 0)
        self.backbone, self.batch, self.source, self.speaking = backbone, batch, source, speaking
        self.chooser = Chooser(speaking, list(numbers) if numbers is not None else list(range(B))) if speaking else None
        self.eos = frozenset(backbone.eos_ids)
        self.keep_hidden, self.on_token = keep_hidden, on_token
        self.cache = backbone.new_cache()
        self.cost = Cost()
        self.embeds_bTD = backbone.embed(batch.ids_BT) if embeds_BTD is None else embeds_BTD
        self.given_BTD = self.embeds_bTD  # the same, of all rows, also after rows have left
        # Host-side state of the rows still running; `index_b` maps them to rows of the batch.
        self.index_b = np.arange(B)
        self.cursor_b = np.zeros(B, dtype=np.int64)  # next position to feed
        self.length_b = batch.lengths_B.copy()  # positions known so far; grows while speaking
        self.start_b = batch.starts_B.copy()
        self.end_b = batch.starts_B + (batch.latents_B if source is not None else 0)
        self.done_b = np.zeros(B, dtype=bool)
        self.mask_bS = np.zeros((B, 0), dtype=bool)
        self.columns_BT = np.full((B, T), -1, dtype=np.int64)
        self.branch_columns_BT = np.full(batch.branch.ids_BT.shape, -1, dtype=np.int64) if batch.branch else None
        # What the passes left behind.
        self.hidden: list[Tensor] = []
        self.last_bD: Tensor | None = None
        self.spoken_bD: Tensor | None = None
        self.latents: list[Tensor] = []
        self.states: list[Tensor] = []
        self.places: list[tuple[np.ndarray, np.ndarray]] = []
        self.watched: list[tuple[np.ndarray, Tensor]] = []
        self.branch_watched: list[tuple[np.ndarray, Tensor]] = []
        self.speech = Speech(
            tokens=[[] for _ in range(B)],
            finished_B=np.zeros(B, dtype=bool),
            passes_B=np.zeros(B, dtype=np.int64),
            positions_B=np.zeros(B, dtype=np.int64),
        )
        self.ends_B = batch.ends_B.copy()  # eos still to be spoken

    def run(self) -> tuple[Trace, Speech]:
        """Forward everything: read, think, read the rest, speak."""
        while not self.done_b.all():
            take_b = self._ready()
            self._pass(take_b)
            self._advance(take_b)
        return self._trace(), self.speech

    def _ready(self) -> np.ndarray:
        """Columns each row feeds in the next pass.

        A row is critical if something waits for this pass: a latent, or a token to choose. Rows that only have text left
        to read ride along, as many columns as the critical ones need; once none is critical, the rest goes in one pass.
        """
        left_b = self.length_b - self.cursor_b
        to_first_b = self.start_b - self.cursor_b
        thinks_b = self.end_b > self.start_b
        ready_b = np.where(
            thinks_b & (to_first_b > 0), to_first_b, np.where(thinks_b & (self.cursor_b < self.end_b - 1), 1, left_b)
        )
        critical_b = (ready_b < left_b) | (self.speaking is not None)
        width = ready_b[critical_b].max() if critical_b.any() else ready_b.max()
        return np.minimum(ready_b, np.maximum(width, self.batch.shared_B[self.index_b]))

    def _pass(self, take_b: np.ndarray) -> None:
        """Feed `take_b` columns of every row, in the first pass also the branches, and keep each row's last state."""
        branch = self.batch.branch if self.cost.passes == 0 else None
        shared_b = self.batch.shared_B[self.index_b]
        more_b = branch.lengths_B - shared_b if branch is not None else np.zeros_like(take_b)
        own_bW, branch_bW, positions_bW = place(take_b, more_b, self.cursor_b, shared_b)
        embeds_bWD = self._inputs(take_b, own_bW, positions_bW)

        first_column = self.mask_bS.shape[1]
        _note_columns(self.columns_BT, self.index_b, own_bW, positions_bW, first_column)
        if self.branch_columns_BT is not None and branch is not None:
            own_b, place_b = np.nonzero(own_bW & (positions_bW < shared_b[:, None]))
            self.branch_columns_BT[own_b, place_b] = place_b
            _note_columns(self.branch_columns_BT, self.index_b, branch_bW, positions_bW, first_column)
        self.mask_bS = np.concatenate([self.mask_bS, own_bW], axis=1)
        if self.backbone.window is not None and self.mask_bS.shape[1] > self.backbone.window and not self.mask_bS.all():
            # Attention counts columns, so padding would push real positions out of a row's window.
            raise DataError(
                f"{self.mask_bS.shape[1]} columns exceed the model's attention window of {self.backbone.window}, and the "
                "rows of this batch are padded, which would shorten it; use batch_size=1 for texts this long"
            )
        ids_bW = self.batch.position_ids(positions_bW, self.index_b)
        if branch is not None:
            ids_bW = np.where(branch_bW, branch.position_ids(positions_bW, self.index_b), ids_bW)
            mask = self._device(visible(own_bW, branch_bW, positions_bW, shared_b))
        elif self.mask_bS.all() and not self.batch.gap_B.any():
            mask = None
        else:  # transformers takes a jump in the position ids of unmasked rows for the border of a packed sequence
            mask = self._device(self.mask_bS).long()

        watch_b = self.batch.watch_B[self.index_b] - self.cursor_b
        watch_b = np.where((watch_b >= 0) & (watch_b < take_b), watch_b, -1)
        branch_watch_b = np.full_like(watch_b, -1)
        if branch is not None:
            behind_b = np.where(branch.watch_B < shared_b, branch.watch_B, take_b + branch.watch_B - shared_b)
            branch_watch_b = np.where(branch.watch_B >= 0, behind_b, -1)
        settings: Any = {"positions_BT": self._device(ids_bW), "mask": mask, "cache": self.cache}
        if (watch_b >= 0).any() or (branch_watch_b >= 0).any():
            states = self.backbone.states(embeds_bWD, **settings)
            hidden_bWD = states[-1]
            self._watch(states, watch_b, self.watched)
            self._watch(states, branch_watch_b, self.branch_watched)
        else:
            hidden_bWD = self.backbone.step(embeds_bWD, **settings)

        if self.keep_hidden:
            self.hidden.append(self._everyone(hidden_bWD))
        rows_b = torch.arange(len(take_b), device=hidden_bWD.device)
        self.last_bD = hidden_bWD[rows_b, self._device(np.maximum(take_b - 1, 0))]
        self._trail(hidden_bWD, take_b)
        self.cost.passes += 1
        self.cost.positions += int((take_b + more_b).sum())
        self.cost.slots += own_bW.size
        self.speech.passes_B[self.index_b] += take_b > 0
        self.speech.positions_B[self.index_b] += take_b + more_b

    def _inputs(self, take_b: np.ndarray, own_bW: np.ndarray, positions_bW: np.ndarray) -> Tensor:
        """What is fed: the given tokens, and in front of a row's columns its latent or the token it has just chosen."""
        table_bTD, place_bW = self.embeds_bTD, np.minimum(positions_bW, self.embeds_bTD.shape[1] - 1)
        if self.batch.branch is not None and self.cost.passes == 0:
            branch_bTD = self.backbone.embed(self.batch.branch.ids_BT)
            place_bW = np.where(own_bW, place_bW, table_bTD.shape[1] + positions_bW)
            table_bTD = torch.cat([table_bTD, branch_bTD.to(table_bTD.dtype)], dim=1)
        embeds_bWD = table_bTD.gather(1, self._device(place_bW)[:, :, None].expand(-1, -1, table_bTD.shape[2]))
        thinks_b = (self.cursor_b >= self.start_b) & (self.cursor_b < self.end_b) & (take_b > 0)
        speaks_b = (self.cursor_b >= self.batch.lengths_B[self.index_b]) & (take_b > 0)
        first_bD = embeds_bWD[:, 0]
        if thinks_b.any():
            assert self.last_bD is not None
            now_N = np.flatnonzero(thinks_b)
            latent_ND = self._latents(self.last_bD[self._device(now_N)], now_N, (self.cursor_b - self.start_b)[now_N])
            first_bD = first_bD.index_copy(0, self._device(now_N), latent_ND.to(first_bD.dtype))
        if speaks_b.any():
            assert self.spoken_bD is not None
            first_bD = torch.where(self._device(speaks_b)[:, None], self.spoken_bD, first_bD)
        if thinks_b.any() or speaks_b.any():
            embeds_bWD = torch.cat([first_bD[:, None], embeds_bWD[:, 1:]], dim=1)
        return embeds_bWD

    def _latents(self, state_ND: Tensor, now_N: np.ndarray, number_N: np.ndarray) -> Tensor:
        """Ask the source for the latents of some rows, and keep them for the trace."""
        assert self.source is not None
        latent_ND = self.source.next(state_ND, self.index_b[now_N], number_N)
        self.latents.append(latent_ND)
        self.states.append(state_ND)
        self.places.append((self.index_b[now_N], number_N))
        return latent_ND

    def _trail(self, hidden_bWD: Tensor, take_b: np.ndarray) -> None:
        """Make the latent after the last one, which is never fed, where a row asks for it."""
        fed_last_b = (self.cursor_b == self.end_b - 1) & (self.end_b > self.start_b) & (take_b > 0)
        now_N = np.flatnonzero(fed_last_b & self.batch.trailing_B[self.index_b])
        if len(now_N):
            self._latents(hidden_bWD[:, 0][self._device(now_N)], now_N, (self.end_b - self.start_b)[now_N])

    def _watch(self, states: Sequence[Tensor], column_b: np.ndarray, kept: list[tuple[np.ndarray, Tensor]]) -> None:
        """Keep the states of every layer at one column per row, where it is not -1."""
        now_N = np.flatnonzero(column_b >= 0)
        if len(now_N):
            rows_N, columns_N = self._device(now_N), self._device(column_b[now_N])
            kept.append((self.index_b[now_N], torch.stack([hidden_bWD[rows_N, columns_N] for hidden_bWD in states])))

    def _advance(self, take_b: np.ndarray) -> None:
        """Rows that have read all they were given choose a token, or are done."""
        self.cursor_b = self.cursor_b + take_b
        at_end_b = (self.cursor_b >= self.length_b) & ~self.done_b
        if self.speaking is None or not at_end_b.any():
            self.done_b |= at_end_b
            return
        assert self.chooser is not None
        assert self.last_bD is not None
        now_N = np.flatnonzero(at_end_b)
        logits_NV = self.backbone.logits(self.last_bD[self._device(now_N)])
        chosen_N = self.chooser.choose(logits_NV, self.index_b[now_N])
        for b, token in zip(now_N.tolist(), chosen_N.tolist(), strict=True):
            row = int(self.index_b[b])
            self.speech.tokens[row].append(token)
            self.ends_B[row] -= token in self.eos
            self.speech.finished_B[row] = self.ends_B[row] == 0
            if self.on_token is not None:
                self.on_token(row, token)
            if self.speech.finished_B[row] or len(self.speech.tokens[row]) >= self.speaking.max_new_tokens:
                self.done_b[b] = True
            else:
                self.length_b[b] += 1
        spoken_bD = torch.zeros_like(self.last_bD)
        self.spoken_bD = spoken_bD.index_copy(0, self._device(now_N), self.backbone.embed(chosen_N).to(spoken_bD.dtype))
        # Finished rows leave the batch, but not one by one: leaving copies the cache.
        if not self.done_b.all() and self.done_b.sum() * 4 >= len(self.done_b):
            self._keep(np.flatnonzero(~self.done_b))

    def _keep(self, stay_n: np.ndarray) -> None:
        """Go on with some of the rows only."""
        index = self._device(stay_n)
        self.cache.batch_select_indices(index)
        self.embeds_bTD = self.embeds_bTD[index]
        for name in ("last_bD", "spoken_bD"):
            if (tensor := getattr(self, name)) is not None:
                setattr(self, name, tensor[index])
        for name in ("index_b", "cursor_b", "length_b", "start_b", "end_b", "done_b", "mask_bS"):
            setattr(self, name, getattr(self, name)[stay_n])

    def _everyone(self, hidden_bWD: Tensor) -> Tensor:
        """States of a pass for all rows of the batch, 0 for those that have left."""
        if len(hidden_bWD) == len(self.batch):
            return hidden_bWD
        hidden_BWD = hidden_bWD.new_zeros(len(self.batch), *hidden_bWD.shape[1:])
        return hidden_BWD.index_copy(0, self._device(self.index_b), hidden_bWD)

    def _trace(self) -> Trace:
        """Gather what the passes left behind."""
        batch = self.batch
        B, D = len(batch), self.given_BTD.shape[2]
        made_B = batch.latents_B + (batch.trailing_B if self.source is not None else 0)
        K = int(made_B.max())
        slot_BK = np.arange(K)[None, :] < made_B[:, None]
        states_BKD = None
        if self.source is None:
            place_BK = np.minimum(batch.starts_B[:, None] + np.arange(K)[None, :], self.given_BTD.shape[1] - 1)
            latents_BKD = self.given_BTD.gather(1, self._device(place_BK)[:, :, None].expand(-1, -1, D))
            latents_BKD = latents_BKD * self._device(slot_BK)[:, :, None]
        elif K == 0:
            latents_BKD = states_BKD = self.given_BTD.new_zeros(B, 0, D)
        else:
            # One gather puts the latents of all passes in place; a zero row at the end fills the slots without one.
            place_BK = np.full((B, K), sum(len(rows) for rows, _ in self.places), dtype=np.int64)
            first = 0
            for rows_N, number_N in self.places:
                place_BK[rows_N, number_N] = first + np.arange(len(rows_N))
                first += len(rows_N)
            index = self._device(place_BK.reshape(-1))

            def arrange(parts: list[Tensor]) -> Tensor:
                return torch.cat([*parts, parts[0].new_zeros(1, D)]).index_select(0, index).view(B, K, D)

            latents_BKD, states_BKD = arrange(self.latents), arrange(self.states)
        hidden_BSD = torch.cat(self.hidden, dim=1) if self.keep_hidden else None
        trace = Trace(
            latents_BKD=latents_BKD,
            states_BKD=states_BKD,
            counts_B=made_B,
            starts_B=batch.starts_B,
            hidden_BSD=hidden_BSD,
            column_BT=self.columns_BT,
            cost=self.cost,
            watched_LBD=self._all_watched(self.watched),
        )
        if batch.branch is not None and self.branch_columns_BT is not None:
            trace.branch = Trace(
                latents_BKD=latents_BKD[:, :0],
                states_BKD=None,
                counts_B=batch.branch.latents_B,
                starts_B=batch.branch.starts_B,
                hidden_BSD=hidden_BSD,
                column_BT=self.branch_columns_BT,
                cost=self.cost,
                watched_LBD=self._all_watched(self.branch_watched),
            )
        return trace

    def _all_watched(self, kept: list[tuple[np.ndarray, Tensor]]) -> Tensor | None:
        """The watched states of all rows, zero where a row watched nothing."""
        if not kept:
            return None
        rows = np.concatenate([rows_N for rows_N, _ in kept])
        states_LND = torch.cat([states for _, states in kept], dim=1)
        zeros_LBD = states_LND.new_zeros(len(states_LND), len(self.batch), states_LND.shape[2])
        return zeros_LBD.index_copy(1, self._device(rows), states_LND)

    def _device(self, array: np.ndarray) -> Tensor:
        """A host array on the backbone's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.given_BTD.device, non_blocking=True)


def _note_columns(
    columns_BT: np.ndarray, index_b: np.ndarray, real_bW: np.ndarray, positions_bW: np.ndarray, first: int
) -> None:
    """Remember at which column each given position stands; spoken ones lie beyond the table."""
    row_N, offset_N = np.nonzero(real_bW)
    place_N = positions_bW[row_N, offset_N]
    given_N = place_N < columns_BT.shape[1]
    columns_BT[index_b[row_N[given_N]], place_N[given_N]] = first + offset_N[given_N]


def _check_context(backbone: Body, batch: Batch, spoken: int) -> None:
    """Refuse rows that do not fit, by name, before anything runs."""
    if backbone.context is None:
        return
    lengths_B = batch.lengths_B + batch.gap_B
    if batch.branch is not None:
        lengths_B = np.maximum(lengths_B, batch.branch.lengths_B + batch.branch.gap_B)
    longest = int(lengths_B.argmax())
    length = int(lengths_B[longest])
    # The last spoken token is never fed.
    if length + max(spoken - 1, 0) > backbone.context:
        name = (batch.names[longest] if batch.names else "") or f"row {longest}"
        more = f" + {spoken} answer tokens" if spoken else ""
        raise DataError(
            f"{name} is too long: {length} positions{more}, the model's context is {backbone.context}; "
            "shorten the question, speak fewer tokens (max_new_tokens), or use a model with a longer context"
        )


def unroll(backbone: Body, batch: Batch, source: Source | None, embeds_BTD: Tensor | None = None) -> Trace:
    """Forward rows in which every token is given, with gradients; the trace keeps all hidden states (see `Loop`)."""
    return Loop(backbone, batch, source, embeds_BTD=embeds_BTD, keep_hidden=True).run()[0]


@torch.inference_mode()
def think(backbone: Backbone, rows: Sequence[Row], source: Source | None) -> Trace:
    """Read the prompts and think, without speaking. Latents only; no gradients."""
    return Loop(backbone, collate(rows).to(backbone.device), source).run()[0]


@torch.inference_mode()
def generate(
    backbone: Backbone,
    rows: Sequence[Row],
    source: Source | None,
    speaking: Speaking,
    *,
    batch_size: int = 32,
    explain: Callable[[Trace], list[tuple[str, ...]]] | None = None,
    on_token: OnToken | None = None,
) -> list[Answer]:
    """Think and speak for any number of prompts, longest first in batches of like length.

    Args:
        rows: prompts, as a method's `prompt` makes them.
        source: where latents come from.
        speaking: how to speak. A row's sampling is seeded by its place in `rows`, whatever the batch.
        batch_size: rows per batch.
        explain: decodes a trace into steps per row; its words go into `Answer.thoughts`.
        on_token: called with (place in `rows`, token id).

    Returns:
        One answer per row, in the order of `rows`.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].latents, len(rows[i].ids)), reverse=True)
    answers: dict[int, Answer] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        began = time.perf_counter()
        hook = None if on_token is None else (lambda b, t, c=chosen: on_token(c[b], t))
        batch = collate([rows[i] for i in chosen]).to(backbone.device)
        trace, speech = Loop(backbone, batch, source, speaking=speaking, numbers=chosen, on_token=hook).run()
        seconds = (time.perf_counter() - began) / len(chosen)
        thoughts = explain(trace) if explain is not None else [None] * len(chosen)
        for b, i in enumerate(chosen):
            tokens = tuple(speech.tokens[b])
            spoken = tokens[:-1] if speech.finished_B[b] else tokens
            passed = [token for token in spoken if token in backbone.eos_ids]
            answers[i] = Answer(
                text=backbone.decode(spoken),
                tokens=tokens,
                finished=bool(speech.finished_B[b]),
                latents=int(batch.latents_B[b]),
                passes=int(speech.passes_B[b]),
                positions=int(speech.positions_B[b]),
                seconds=seconds,
                thoughts=thoughts[b],
                passed=len(passed),
            )
    return [answers[i] for i in range(len(rows))]
