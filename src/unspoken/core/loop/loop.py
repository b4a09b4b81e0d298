"""The one loop: rows think and speak together, batched and cached, each in its own phase.

Thinking and speaking differ only in what is fed back: a latent made from the last hidden state, or the embedding of the
chosen token. Training runs the same loop with all tokens given and nothing to generate.

In every pass each row feeds what is available to it: first its prompt up to the first latent; then one latent per pass;
then the last latent together with the given text after it; then one chosen token per pass. (Latents made in parallel go
with the text after them: `core/loop/parallel.py`.) A row with fewer columns than another is padded on the right *within the
pass*, so rows with 0, 6 or 13 latents share a batch and nothing is forwarded twice. Masks and position ids go with every
pass. A row's branch (`Row.branch`: a teacher's sequence on the same question) is forwarded in the first pass and masked
from then on.

Precomputed thoughts stand in the prompt like text and are read in one pass. Whatever several continuations share is
forwarded once: a row is copied per set of thoughts at its first slot, and per sample at its first chosen token.

Shapes: B rows, b rows still running, T positions of the longest row, W columns of a pass, S columns so far, D width,
K latents of the row with most, L layers + 1, N rows that think (or speak) in this pass, V words.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unspoken.core.fast.packing import packs
from unspoken.core.fast.shared_gradients import share_gradients
from unspoken.core.fast.switch import settings
from unspoken.core.fast.unpadded import Unpadded
from unspoken.core.lm.prefix_cache import PrefixCache
from unspoken.core.loop.branch import column_layout, note_columns, visible
from unspoken.core.loop.idle import idle
from unspoken.core.loop.layers import LayerWatch, watching
from unspoken.core.loop.parallel import Slots
from unspoken.core.loop.sampling import Sampler, SamplingParams
from unspoken.core.loop.soft import SoftChain, SoftPlan, feed_back
from unspoken.core.loop.sources import Iterated, PrecomputedThoughts, Source, at_once
from unspoken.core.loop.speech import Speech, check_context, columns_of
from unspoken.core.loop.trace import Cost, Trace, gather_states, stack_latents
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.protocol import CausalLM

OnToken = Callable[[int, int], None]
"""Called with (row, token id) as each token is chosen, for streaming."""


class Loop:
    """One batch being forwarded. `run` is the whole interface; the module's docstring explains the scheme.

    Args:
        backbone: the base model.
        batch: rows; their ids are on the backbone's device.
        source: makes latents from hidden states, or has them precomputed. None: the embeddings of the slots' own tokens are
            the thoughts (pause tokens).
        speaking: how to generate after the last given position; None = generate nothing (training).
        numbers: per row, the number that seeds its sampling; None = its place in the batch.
        embeds_BTD: fed at the given positions instead of the tokens' embeddings.
        keep_hidden: keep the states of all columns in the trace (training needs them, inference does not).
        on_token: called with (row of `batch`, token id) as tokens are chosen, whichever copy of the row chooses.
        chains: sets of thoughts per row. Set c of row b is row c * B + b of trace and speech. Sets of recurrent latents
            differ only if the source tells them apart (`core/loop/edits.py:Edited`).
        samples: answers per row and set, generated from the same thoughts; sample s of row i is row s * rows + i.
        frozen: nothing before the first slot trains (precomputed thoughts in a frozen model), so it needs no gradient.
        prefixes: caches what comes before the first slot over training steps, if that is frozen.
        watch: sees, and may change, the states of layers (`core/loop/layers.py`).
        soft: rows think in mixtures of embeddings while they speak (`core/loop/soft.py`).

    Raises:
        DataError: a row with the tokens it may generate is longer than the model's context.
    """

    def __init__(
        self,
        backbone: CausalLM,
        batch: Batch,
        source: Source | PrecomputedThoughts | None,
        *,
        speaking: SamplingParams | None = None,
        numbers: Sequence[int] | None = None,
        embeds_BTD: Tensor | None = None,
        keep_hidden: bool = False,
        on_token: OnToken | None = None,
        chains: int = 1,
        samples: int = 1,
        frozen: bool = False,
        prefixes: PrefixCache | None = None,
        watch: LayerWatch | None = None,
        soft: SoftPlan | None = None,
    ) -> None:
        B, T = batch.ids_BT.shape
        check_context(backbone, batch, speaking.max_new_tokens if speaking else 0)
        self.prompted = source if isinstance(source, PrecomputedThoughts) else None
        self.source = None if isinstance(source, PrecomputedThoughts) else at_once(source, backbone.parallel)
        self.backbone, self.asked, self.batch, self.speaking, self.watch = backbone, batch, batch, speaking, watch
        self.chains, self.samples, self.frozen, self.prefixes = chains, samples, frozen, prefixes
        # What comes before the first slot is read by itself if that saves work.
        self.apart = (chains > 1 or (self.prompted is not None and frozen)) and bool(batch.starts_B.all())
        streams = list(itertools.product(range(samples), range(chains), numbers if numbers is not None else range(B)))
        self.chooser = Sampler(speaking, [(number, c, s) for s, c, number in streams]) if speaking else None
        most = speaking.max_new_tokens if speaking else 0
        self.soft = [] if soft is None else [SoftChain(soft, most) for _ in streams]
        self.eos = frozenset(backbone.eos_ids)
        self.keep_hidden, self.on_token = keep_hidden, on_token
        self.cache: Any = backbone.new_cache(columns_of(batch, speaking), batch.branch is not None)
        self.cost = Cost()
        self.embeds_bTD = backbone.embed(batch.ids_BT) if embeds_BTD is None else embeds_BTD
        self.given_BTD = self.embeds_bTD  # the same for all rows, even after rows have finished
        # Host-side state of the rows still running; `index_b` maps them to rows of the batch.
        self.index_b = np.arange(B)
        self.cursor_b = np.zeros(B, dtype=np.int64)  # next position to feed
        self.length_b = batch.lengths_B.copy()  # positions known so far; grows while speaking
        self.start_b = batch.starts_B.copy()
        self.end_b = batch.starts_B + (batch.latents_B if self.source is not None else 0)
        self.done_b = np.zeros(B, dtype=bool)
        self.mask_bS = np.zeros((B, 0), dtype=bool)
        self.recalled = 0  # columns taken from the prefix cache
        self.columns_BT = np.full((B, T), -1, dtype=np.int64)
        self.branch_columns_BT = np.full(batch.branch.ids_BT.shape, -1, dtype=np.int64) if batch.branch else None
        # Kept from the passes, for the trace.
        self.hidden: list[Tensor] = []
        self.last_bD: Tensor | None = None
        self.spoken_bD: Tensor | None = None
        self.latents: list[Tensor] = []
        self.states: list[Tensor] = []
        self.rounds: list[Tensor] = []
        self.slots_fed: Slots | None = None  # the slots that this pass feeds all together
        self.places: list[tuple[np.ndarray, np.ndarray]] = []
        self.captured: list[tuple[np.ndarray, Tensor]] = []
        self.branch_captured: list[tuple[np.ndarray, Tensor]] = []
        self.thoughts_BKD: Tensor | None = None  # prompted ones
        self.speech = Speech.silent(B)
        self.eos_left_B = batch.num_eos_B.copy()  # eos still to be spoken
        if not self.apart:
            self._copy(self.chains)
            self._fill()

    def run(self) -> tuple[Trace, Speech]:
        """Forward the batch: read, think, read the rest, speak."""
        self._recall()
        late = self.keep_hidden and not self.backbone.checkpointing and self.backbone.agree is None
        with share_gradients(self.backbone.lm.base_model if late else None, int(self.batch.lengths_B.sum())):
            while not self.done_b.all():
                take_b = self._ready()
                with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.apart and self.frozen)):
                    self._pass(take_b)
                self._advance(take_b)
        if self.keep_hidden:
            self.hidden[-1] = idle(self.backbone, self.cost.passes, self.given_BTD[:1, 0], self.hidden[-1])
        return self._trace(), self.speech

    def _recall(self) -> None:
        """Take the positions before the first slot from the prefix cache instead of forwarding them."""
        take_b, plain = self.start_b, self.batch.branch is None and not self.batch.gap_B.any() and self.speaking is None
        fits = self.apart and self.frozen and plain and take_b.all() and self.batch.latents_B.all()
        if self.prefixes is None or not fits or not settings().prefix_gb:
            return
        if (known := self.prefixes.read(self.backbone, self.batch.ids_BT, take_b)) is None:
            return
        self.cache, forwarded = known
        self.mask_bS, _, _ = column_layout(take_b, np.zeros_like(take_b), self.cursor_b, take_b)
        self.recalled = self.mask_bS.shape[1]
        self.cost.passes += forwarded > 0
        self.cost.positions += forwarded
        self._advance(take_b)

    def _ready(self) -> np.ndarray:
        """How many columns each row feeds in the next pass.

        Rows that must produce a latent or a token decide how wide this pass is. Rows that only have given text left feed up
        to that width; when no row must produce anything, all remaining text goes in one pass.
        """
        left_b = self.length_b - self.cursor_b
        to_first_b = self.start_b - self.cursor_b
        thinks_b = self.end_b > self.start_b
        in_turn_b = thinks_b & (self.cursor_b < self.end_b - 1) & (not isinstance(self.source, Iterated))
        ready_b = np.where(
            (thinks_b | self.apart) & (to_first_b > 0),
            to_first_b,
            np.where(in_turn_b, 1, left_b),
        )
        critical_b = (ready_b < left_b) | (self.speaking is not None)
        width = ready_b[critical_b].max() if critical_b.any() else ready_b.max()
        return np.minimum(ready_b, np.maximum(width, self.batch.shared_B[self.index_b]))

    def _pass(self, take_b: np.ndarray) -> None:
        """Feed `take_b` columns of every row, and in the first pass the branches; keep each row's last state."""
        branch = self.batch.branch if self.cost.passes == 0 else None
        shared_b = self.batch.shared_B[self.index_b]
        more_b = branch.lengths_B - shared_b if branch is not None else np.zeros_like(take_b)
        own_bW, branch_bW, positions_bW = column_layout(take_b, more_b, self.cursor_b, shared_b)
        embeds_bWD = self._inputs(take_b, own_bW, positions_bW)
        if not (real_bW := own_bW | branch_bW).all():  # NaN would show through a mask: padding repeats its row's values
            embeds_bWD = torch.where(self.to_device(real_bW)[:, :, None], embeds_bWD, embeds_bWD[:, :1])
        first_column = self.mask_bS.shape[1]
        note_columns(self.columns_BT, self.index_b, own_bW, positions_bW, first_column - self.recalled)
        if self.branch_columns_BT is not None and branch is not None:
            own_b, place_b = np.nonzero(own_bW & (positions_bW < shared_b[:, None]))
            self.branch_columns_BT[own_b, place_b] = place_b
            note_columns(self.branch_columns_BT, self.index_b, branch_bW, positions_bW, first_column)
        self.mask_bS = np.concatenate([self.mask_bS, own_bW], axis=1)
        ids_bW = self.batch.position_ids(positions_bW, self.index_b)
        if branch is not None:
            ids_bW = np.where(branch_bW, branch.position_ids(positions_bW, self.index_b), ids_bW)
        unpadded = isinstance(self.cache, Unpadded)
        if branch is not None and not unpadded:
            mask = self.to_device(visible(own_bW, branch_bW, positions_bW, shared_b))
        elif self.mask_bS.all() and not self.batch.gap_B.any():
            mask = None
        else:  # without a mask, transformers takes a jump in position ids for the start of another packed sequence
            mask = self.to_device(self.mask_bS).long()

        capture_b = self.batch.capture_at_B[self.index_b] - self.cursor_b
        capture_b = np.where((capture_b >= 0) & (capture_b < take_b), capture_b, -1)
        branch_capture_b = np.full_like(capture_b, -1)
        if branch is not None:
            behind_b = np.where(branch.capture_at_B < shared_b, branch.capture_at_B, take_b + branch.capture_at_B - shared_b)
            branch_capture_b = np.where(branch.capture_at_B >= 0, behind_b, -1)
        real = real_bW if self.keep_hidden and not self.backbone.checkpointing else None
        if unpadded:
            real, self.cache.final = own_bW, self.speaking is None and bool((take_b == self.length_b - self.cursor_b).all())
            self.cache.branches = (own_bW, branch_bW, positions_bW, shared_b) if branch is not None else None
        settings: Any = {"positions_BT": self.to_device(ids_bW), "mask": mask, "cache": self.cache, "real": real}
        if (capture_b >= 0).any() or (branch_capture_b >= 0).any():
            states = self.backbone.states(embeds_bWD, **settings)
            hidden_bWD = states[-1]
            self._capture(states, capture_b, self.captured)
            self._capture(states, branch_capture_b, self.branch_captured)
        else:
            with watching(self.watch, self.index_b, np.where(own_bW, positions_bW, -1)):
                hidden_bWD = self.backbone.step(embeds_bWD, **settings)

        if self.keep_hidden:
            self.hidden.append(self._everyone(hidden_bWD))
        self.last_bD = hidden_bWD[self.to_device(np.arange(len(take_b))), self.to_device(np.maximum(take_b - 1, 0))]
        if self.slots_fed is not None:
            self.slots_fed.passed(hidden_bWD)
            self.slots_fed = None
        self._trail(hidden_bWD, take_b)
        self.cost.passes += 1
        self.cost.positions += int((take_b + more_b).sum())
        packed = unpadded or packs(self.backbone.lm, real)
        self.cost.slots += int((take_b + more_b).sum()) if packed else own_bW.size
        self.speech.passes_B[self.index_b] += take_b > 0
        self.speech.positions_B[self.index_b] += take_b + more_b

    def _inputs(self, take_b: np.ndarray, own_bW: np.ndarray, positions_bW: np.ndarray) -> Tensor:
        """The input embeddings: given tokens, and first the row's latent or the token it has just chosen."""
        table_bTD, place_bW = self.embeds_bTD, np.minimum(positions_bW, self.embeds_bTD.shape[1] - 1)
        if self.batch.branch is not None and self.cost.passes == 0:
            branch_bTD = self.backbone.embed(self.batch.branch.ids_BT)
            place_bW = np.where(own_bW, place_bW, table_bTD.shape[1] + positions_bW)
            table_bTD = torch.cat([table_bTD, branch_bTD.to(table_bTD.dtype)], dim=1)
        embeds_bWD = table_bTD.gather(1, self.to_device(place_bW)[:, :, None].expand(-1, -1, table_bTD.shape[2]))
        thinks_b = (self.cursor_b >= self.start_b) & (self.cursor_b < self.end_b) & (take_b > 0)
        speaks_b = (self.cursor_b >= self.batch.lengths_B[self.index_b]) & (take_b > 0)
        if isinstance(self.source, Iterated) and thinks_b.any():
            self.slots_fed = Slots(self, self.source, thinks_b)
            embeds_bWD, thinks_b = self.slots_fed.fill(embeds_bWD), thinks_b & False
        first_bD = embeds_bWD[:, 0]
        if len(now_N := np.flatnonzero(thinks_b)) and self.last_bD is not None:
            latent_ND = self._latents(self.last_bD[self.to_device(now_N)], now_N, (self.cursor_b - self.start_b)[now_N])
            first_bD = first_bD.index_copy(0, self.to_device(now_N), latent_ND.to(first_bD.dtype))
        if speaks_b.any() and self.spoken_bD is not None:
            first_bD = torch.where(self.to_device(speaks_b)[:, None], self.spoken_bD, first_bD)
        if thinks_b.any() or speaks_b.any():
            embeds_bWD = torch.cat([first_bD[:, None], embeds_bWD[:, 1:]], dim=1)
        return embeds_bWD

    def _latents(self, state_ND: Tensor, now_N: np.ndarray, number_N: np.ndarray) -> Tensor:
        """Get the next latents of some rows from the source, and keep them for the trace."""
        latent_ND = self.source.next(state_ND, self.index_b[now_N], number_N)  # pyright: ignore[reportOptionalMemberAccess]
        self.latents.append(latent_ND)
        self.states.append(state_ND)
        self.places.append((self.index_b[now_N], number_N))
        return latent_ND

    def _trail(self, hidden_bWD: Tensor, take_b: np.ndarray) -> None:
        """Make the latent after the last one, which is never fed, for rows with `unfed_latent`."""
        last_b = self.end_b - 1 - self.cursor_b  # the column of the row's last latent in this pass
        fed_last_b = (last_b >= 0) & (last_b < take_b) & (self.end_b > self.start_b)
        now_N = np.flatnonzero(fed_last_b & self.batch.unfed_latent_B[self.index_b])
        if len(now_N):
            last_ND = hidden_bWD[self.to_device(now_N), self.to_device(last_b[now_N])]
            self._latents(last_ND, now_N, (self.end_b - self.start_b)[now_N])

    def _capture(self, states: Sequence[Tensor], column_b: np.ndarray, kept: list[tuple[np.ndarray, Tensor]]) -> None:
        """Keep the states of every layer at one column per row, where it is not -1."""
        now_N = np.flatnonzero(column_b >= 0)
        if len(now_N):
            rows_N, columns_N = self.to_device(now_N), self.to_device(column_b[now_N])
            kept.append((self.index_b[now_N], torch.stack([hidden_bWD[rows_N, columns_N] for hidden_bWD in states])))

    def _advance(self, take_b: np.ndarray) -> None:
        """Rows that have read everything given choose a token, or are done."""
        self.cursor_b = self.cursor_b + take_b
        if self.apart:
            self.apart = False
            self._copy(self.chains)
            self._fill()
        at_end_b = (self.cursor_b >= self.length_b) & ~self.done_b
        if self.speaking is None or not at_end_b.any():
            self.done_b |= at_end_b
            return
        if self.samples > 1:  # the first token is about to be chosen, and no row has left
            self._copy(self.samples)
            at_end_b, self.samples = np.tile(at_end_b, self.samples), 1
        assert self.chooser is not None
        assert self.last_bD is not None
        now_N = np.flatnonzero(at_end_b)
        logits_NV = self.backbone.logits(self.last_bD[self.to_device(now_N)])
        chosen_N = self.chooser.choose(logits_NV, self.index_b[now_N])
        chains = {n: self.soft[row] for n, row in enumerate(self.index_b[now_N])} if self.soft else {}
        fed = feed_back(self.backbone, chains, logits_NV, chosen_N.tolist())
        for b, (token, _) in zip(now_N.tolist(), fed, strict=True):
            row = int(self.index_b[b])
            self.speech.tokens[row].append(token)
            self.eos_left_B[row] -= token in self.eos
            self.speech.finished_B[row] = self.eos_left_B[row] == 0
            if self.on_token is not None:
                self.on_token(row % len(self.asked), token)
            if self.speech.finished_B[row] or len(self.speech.tokens[row]) >= self.speaking.max_new_tokens:
                self.done_b[b] = True
            else:
                self.length_b[b] += 1
        spoken_bD = torch.zeros_like(self.last_bD)
        if chains:
            chosen_N = self.to_device(np.array([token for token, _ in fed]))
        embeds_ND = self.backbone.embed(chosen_N)
        if any(vector_D is not None for _, vector_D in fed):
            embeds_ND = torch.stack([e_D if v_D is None else v_D for e_D, (_, v_D) in zip(embeds_ND, fed, strict=True)])
        self.spoken_bD = spoken_bD.index_copy(0, self.to_device(now_N), embeds_ND.to(spoken_bD.dtype))
        # Finished rows leave the batch, but not one by one: leaving copies the cache.
        if not self.done_b.all() and self.done_b.sum() * 4 >= len(self.done_b):
            self._keep(np.flatnonzero(~self.done_b))

    def _copy(self, copies: int) -> None:
        """Copy every row, before any has finished: copy c of row b becomes row c * B + b."""
        if copies == 1:
            return
        rows_n = np.tile(np.arange(len(self.batch)), copies)
        index = self.to_device(rows_n)
        self.places = [(np.concatenate([rows + c * len(self.batch) for c in range(copies)]), np.tile(number, copies))
                       for rows, number in self.places]  # fmt: skip
        self.latents = [torch.cat([part] * copies) for part in self.latents]
        self.states = [torch.cat([part] * copies) for part in self.states]
        self.hidden = [hidden_BWD[index] for hidden_BWD in self.hidden]
        self.thoughts_BKD = None if self.thoughts_BKD is None else self.thoughts_BKD[index]
        assert not self.captured, "rows are captured in training, where copies are made before the first capture"
        self.cache.batch_select_indices(index)
        self.batch, self.speech = self.batch.tile(copies), self.speech.copied(copies)
        self.eos_left_B = self.batch.num_eos_B.copy()
        self.embeds_bTD = self.given_BTD = self.given_BTD[index]
        self.last_bD = None if self.last_bD is None else self.last_bD[index]
        self.index_b = np.arange(len(rows_n))
        for name in ("cursor_b", "length_b", "start_b", "end_b", "done_b", "mask_bS", "columns_BT"):
            setattr(self, name, getattr(self, name)[rows_n])

    def _fill(self) -> None:
        """Put precomputed thoughts into their slots."""
        if self.prompted is None:
            return
        thoughts_BKD = self.prompted.vectors(self.asked, self.chains)
        B, K, D = thoughts_BKD.shape
        slot_BK = np.arange(K)[None, :] < self.batch.latents_B[:, None]
        (rows_N, number_N), T = np.nonzero(slot_BK), self.given_BTD.shape[1]
        place_N = self.to_device(rows_N * T + self.batch.starts_B[rows_N] + number_N)
        latent_ND = thoughts_BKD.reshape(B * K, D).index_select(0, self.to_device(rows_N * K + number_N))
        given_ND = self.given_BTD.reshape(B * T, D).index_copy(0, place_N, latent_ND.to(self.given_BTD.dtype))
        self.embeds_bTD = self.given_BTD = given_ND.view(B, T, D)
        self.thoughts_BKD = thoughts_BKD * self.to_device(slot_BK)[:, :, None]

    def _keep(self, stay_n: np.ndarray) -> None:
        """Continue with some of the rows only."""
        index = self.to_device(stay_n)
        self.cache.batch_select_indices(index)
        self.embeds_bTD = self.embeds_bTD[index]
        for name in ("last_bD", "spoken_bD"):
            if (tensor := getattr(self, name)) is not None:
                setattr(self, name, tensor[index])
        for name in ("index_b", "cursor_b", "length_b", "start_b", "end_b", "done_b", "mask_bS"):
            setattr(self, name, getattr(self, name)[stay_n])

    def _everyone(self, hidden_bWD: Tensor) -> Tensor:
        """States of a pass for all rows of the batch; zero for rows that have finished."""
        if len(hidden_bWD) == len(self.batch):
            return hidden_bWD
        hidden_BWD = hidden_bWD.new_zeros(len(self.batch), *hidden_bWD.shape[1:])
        return hidden_BWD.index_copy(0, self.to_device(self.index_b), hidden_bWD)

    def _trace(self) -> Trace:
        """Assemble the trace from what the passes kept."""
        batch = self.batch
        B, D = len(batch), self.given_BTD.shape[2]
        made_B = batch.latents_B + (batch.unfed_latent_B if self.source is not None else 0)
        K = int(made_B.max())
        slot_BK = np.arange(K)[None, :] < made_B[:, None]
        states_BKD = None
        if self.thoughts_BKD is not None:
            latents_BKD = self.thoughts_BKD
        elif self.source is None:
            place_BK = np.minimum(batch.starts_B[:, None] + np.arange(K)[None, :], self.given_BTD.shape[1] - 1)
            latents_BKD = self.given_BTD.gather(1, self.to_device(place_BK)[:, :, None].expand(-1, -1, D))
            latents_BKD = latents_BKD * self.to_device(slot_BK)[:, :, None]
        elif K == 0:
            latents_BKD = states_BKD = self.given_BTD.new_zeros(B, 0, D)
        else:
            latents_BKD, states_BKD = (stack_latents(parts, self.places, B, K) for parts in (self.latents, self.states))
        hidden_BSD = torch.cat(self.hidden, dim=1) if self.keep_hidden else None
        trace = Trace(
            latents_BKD=latents_BKD,
            states_BKD=states_BKD,
            rounds=tuple(self.rounds),
            counts_B=made_B,
            starts_B=batch.starts_B,
            hidden_BSD=hidden_BSD,
            column_BT=self.columns_BT,
            cost=self.cost,
            captured_LBD=gather_states(self.captured, B),
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
                captured_LBD=gather_states(self.branch_captured, B),
            )
        return trace

    def to_device(self, array: np.ndarray) -> Tensor:
        """A host array on the backbone's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.given_BTD.device, non_blocking=True)


def unroll(
    backbone: CausalLM,
    batch: Batch,
    source: Source | PrecomputedThoughts | None,
    embeds_BTD: Tensor | None = None,
    *,
    chains: int = 1,
    frozen: bool = False,
    prefixes: PrefixCache | None = None,
) -> Trace:
    """Forward rows whose tokens are all given, with gradients. The trace keeps all hidden states (see `Loop`)."""
    loop = Loop(
        backbone, batch, source, embeds_BTD=embeds_BTD, keep_hidden=True, chains=chains, frozen=frozen, prefixes=prefixes
    )
    return loop.run()[0]
