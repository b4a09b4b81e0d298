"""Continuous batching: requests think and speak in slots, and one that finishes makes room for the next.

The same rows, sources and ways to speak as `core/loop/loop.py`, and the same answers. What differs is who goes on when: the
loop there takes batches from start to end (training needs that); here every pass feeds whatever is ready, of however many
rows as there are slots, packed without padding (`core/engine/kv_slots.py`): a prompt, or a part of it if prompts would hold up those
who think and speak; one latent; the last latent with all given text behind it; one chosen token.

What all prompts begin with (examples of a few-shot prompt, a chat's instruction) is read once, in one pass of its own, and
stays in the slots. A text that answers are expected to begin with can be fed on trial together with the prompt's end: as far
as the model would have chosen it, it need not be fed token by token; the rest is forgotten (`Request.expected`).

Shapes: N packed columns of a pass, n rows in a pass, D width, K latents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from unspoken.core.engine.cuda_graphs import slots_of
from unspoken.core.engine.kv_slots import Segment
from unspoken.core.engine.requests import Request, Seat, common_prefix
from unspoken.core.engine.stopping import Judge
from unspoken.core.fast.cpu_linear import look_again
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.loop import OnToken
from unspoken.core.loop.sampling import Chooser, Speaking
from unspoken.core.loop.sources import Prompted, Source
from unspoken.core.loop.speech import check_context
from unspoken.core.loop.trace import Cost, Trace
from unspoken.core.rows.batch import collate

SHORTEST_PREFIX = 8
"""What all prompts begin with is read apart from this length on; a pass of its own costs more than fewer tokens."""


class Queue:
    """Requests on their way. `submit` any time, `step` until `idle`; or `run`, which does both.

    Args:
        backbone: the base model.
        source: makes latents from states; None: the slots' own tokens are the thoughts.
        slots: how many requests at a time.
        chunk: prompt positions per pass; four times as many while nobody thinks or speaks.
        judge: says when a row has thought enough; None = when it has filled its slots.
        keep: keep the latents of finished requests, for `trace`.
        on_token: called with (number of the request, token id).
        graphs: record passes in which everybody thinks or speaks as CUDA graphs; None = on a GPU.
    """

    def __init__(
        self,
        backbone: Backbone,
        source: Source | Prompted | None,
        *,
        slots: int = 32,
        chunk: int = 512,
        judge: Judge | None = None,
        keep: bool = False,
        on_token: OnToken | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.backbone, self.chunk, self.judge, self.keep, self.on_token = backbone, chunk, judge, keep, on_token
        self.prompted = source if isinstance(source, Prompted) else None
        self.source = None if isinstance(source, Prompted) else source
        self.slots = slots_of(backbone, slots, 64, graphs, self)
        self.waiting: deque[tuple[int, Request]] = deque()
        self.seats: list[Seat] = []
        self.done: dict[int, Seat] = {}
        self.prefix: tuple[int, ...] = ()  # stands in every slot
        self.cost = Cost()
        self._submitted = 0
        self._choosers: dict[Speaking, Chooser] = {}
        self._states_nD: Tensor | None = None
        self._vectors: dict[int, Tensor] = {}  # prompted thoughts of those who wait

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return not self.waiting and not self.seats

    def submit(self, request: Request) -> int:
        """Take a request; it begins when a slot is free. Returns its number.

        Raises:
            DataError: it and what it may speak do not fit into the model's context.
        """
        check_context(self.backbone, collate([request.row]), request.speaking.max_new_tokens)
        if self.idle:
            look_again()
        self.waiting.append((self._submitted, request))
        self._submitted += 1
        return self._submitted - 1

    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> list[int]:
        """Submit requests and finish them all, longest prompts first; their numbers."""
        numbers = [self.submit(request) for request in requests]
        self.waiting = deque(sorted(self.waiting, key=lambda one: len(one[1].row.ids), reverse=True))
        self.share_prefix()
        while not self.idle:
            self.step()
        return numbers

    @torch.inference_mode()
    def share_prefix(self) -> None:
        """Read what all waiting prompts begin with, once, into all slots. Nothing happens while a request is under way."""
        rows = [request.row for _, request in self.waiting]
        if self.seats or len(rows) < 2 or self.prefix or (length := common_prefix(rows)) < SHORTEST_PREFIX:
            return
        self.slots.reserve(length + 1)
        at = self.backbone.device
        embeds_ND = self.backbone.embed(torch.tensor(rows[0].ids[:length], device=at))
        self.slots.forward(self.backbone, embeds_ND, torch.arange(length, device=at), [Segment(0, 0, length)])
        self.slots.copy(0, slice(1, None), length)
        self._count(length)
        self.prefix = rows[0].ids[:length]

    @torch.inference_mode()
    def step(self) -> list[int]:
        """One pass: free slots are filled, everyone ready is fed, those at the end of their text speak.

        Returns:
            The numbers of requests that this pass finished; what they said is in `done`, until somebody takes it out.
        """
        if self.idle:
            return []
        self._admit()
        self._think([seat for seat in self.seats if seat.thinking])
        takes = self._takes()
        # One column each first: so slots want it.
        fed = sorted((seat for seat in self.seats if takes[seat.slot]), key=lambda s: (takes[s.slot] > 1, s.slot))
        widths = [takes[seat.slot] for seat in fed]
        hidden_ND = self._feed(fed, widths)
        self._go_on(fed, widths, hidden_ND)
        over = [seat for seat in self.seats if seat.over]
        self.seats = [seat for seat in self.seats if not seat.over]
        self.done |= {seat.place: seat for seat in over}
        return [seat.place for seat in over]

    def _admit(self) -> None:
        """Give free slots to those who wait; when nobody does, those under way move together."""
        taken = {seat.slot for seat in self.seats}
        free = [slot for slot in range(self.slots.rows) if slot not in taken]
        new = [self._seat(slot, *self.waiting.popleft()) for slot in free[: len(self.waiting)]]
        if new and self.prompted is not None:
            self._prompt(new)
        self.seats.extend(new)
        if not new and 4 * (max(taken) + 1) >= 5 * len(taken) and max(taken) + 1 > len(taken):
            for seat, slot in zip([s for s in self.seats if s.slot >= len(taken)], free, strict=False):
                self.slots.clear(slot)
                self.slots.copy(seat.slot, slot, seat.cursor)
                seat.slot = slot

    def _prompt(self, new: Sequence[Seat]) -> None:
        """Give new rows their prompted thoughts; made for many of the waiting at once: another model may read them."""
        assert self.prompted is not None
        if any(seat.place not in self._vectors for seat in new):
            ahead = [(seat.place, seat.row) for seat in new]
            ahead += [(place, request.row) for place, request in islice(self.waiting, self.slots.rows)]
            ahead = [(place, row) for place, row in ahead if place not in self._vectors]
            batch = collate([row for _, row in ahead]).to(self.backbone.device)
            for (place, row), vectors_KD in zip(ahead, self.prompted.vectors(batch, 1), strict=True):
                self._vectors[place] = vectors_KD[: row.latents]
        for seat in new:
            seat.vectors_KD = self._vectors.pop(seat.place)

    def _seat(self, slot: int, place: int, request: Request) -> Seat:
        row, key = request.row, replace(request.speaking, max_new_tokens=1)
        if self.prefix and common_prefix([row], self.prefix) < len(self.prefix):
            self.prefix = ()  # the slot is overwritten from the start
        self.slots.clear(slot, len(self.prefix))
        if key not in self._choosers:
            self._choosers[key] = Chooser(key, [])
        return Seat(
            request=request,
            place=place,
            slot=slot,
            stream=self._choosers[key].add(request.number),
            end=row.start + (row.latents if self.source is not None else 0),
            ends=row.ends,
            cursor=len(self.prefix),
            positions=len(self.prefix),  # as if it had read alone what all share
        )

    def _think(self, seats: Sequence[Seat]) -> None:
        """Make the latents that are fed now, and ask whether they are the last."""
        if not seats:
            return
        assert self.source is not None
        assert self._states_nD is not None
        state_ND = self._states_nD.index_select(0, self._device([seat.state_at for seat in seats]))
        number_N = np.array([seat.cursor - seat.row.start for seat in seats])
        latent_ND = self.source.next(state_ND, np.array([seat.place for seat in seats]), number_N)
        for i, seat in enumerate(seats):
            before_D, seat.latent_D, thought = seat.latent_D, latent_ND[i], int(number_N[i]) + 1
            if self.keep:
                seat.latents.append(latent_ND[i])
                seat.states.append(state_ND[i])
            if self.judge is None or thought >= seat.row.latents or not self.judge.asked(thought):
                continue
            if self.judge.tries:
                seat.probing = True
            elif self.judge.is_last(thought, seat.latent_D, before_D):
                self._stop(seat, thought)

    def _stop(self, seat: Seat, thought: int) -> None:
        """A row has thought enough: the rest of its prompt moves up."""
        seat.skipped = seat.row.latents - thought
        seat.end = seat.row.start + thought

    def _takes(self) -> dict[int, int]:
        """Columns each slot's row feeds in this pass: one who thinks or speaks all that is ready, prompts share a chunk."""
        # Prompts are cut so that nobody who thinks or speaks waits long for them.
        takes, budget = {}, self.chunk if any(seat.passes for seat in self.seats) else 4 * self.chunk
        for seat in self.seats:
            row = seat.row
            seat.trial = ()
            if seat.probing:
                seat.trial = row.ids[row.start + row.latents :]
                takes[seat.slot] = 1 + len(seat.trial)
            elif seat.thinking and seat.cursor < seat.end - 1:
                takes[seat.slot] = 1
            elif seat.cursor < row.start < seat.end:
                takes[seat.slot] = min(row.start - seat.cursor, budget)
                budget -= takes[seat.slot]
            elif seat.cursor < seat.given and not seat.thinking:
                takes[seat.slot] = min(seat.given - seat.cursor, budget)
                budget -= takes[seat.slot]
            else:
                takes[seat.slot] = max(min(seat.known - seat.cursor, budget), 1)
                budget = max(budget - takes[seat.slot] + 1, 0)
            if takes[seat.slot] and seat.cursor + takes[seat.slot] == seat.given:
                seat.trial = seat.request.expected[: seat.request.speaking.max_new_tokens - 1]
                takes[seat.slot] += len(seat.trial)
        return takes

    def _feed(self, seats: Sequence[Seat], widths: Sequence[int]) -> Tensor:
        """Feed the next columns of some rows, packed: the states [N, D]."""
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        vectors: list[Tensor] = []
        for seat, take in zip(seats, widths, strict=True):
            first, row = len(ids), seat.row
            ids.extend(seat.ids(take))
            positions.extend(seat.position_ids(take))
            if seat.thinking and seat.latent_D is not None:
                places.append(first)
                vectors.append(seat.latent_D[None])
            elif seat.vectors_KD is not None and seat.cursor < row.start + row.latents:
                low, high = (min(max(p - row.start, 0), row.latents) for p in (seat.cursor, seat.cursor + take))
                places.extend(first + row.start + k - seat.cursor for k in range(low, high))
                vectors.append(seat.vectors_KD[low:high])
            seat.passes += 1
            seat.positions += take
        embeds_ND = self.backbone.embed(self._device(ids))
        if places:
            embeds_ND = embeds_ND.index_copy(0, self._device(places), torch.cat(vectors).to(embeds_ND.dtype))
        fed = dict(zip((seat.slot for seat in seats), widths, strict=True))
        self.slots.reserve(max(seat.cursor + fed.get(seat.slot, 0) for seat in self.seats) + 1)  # the last stays free
        segments = [Segment(seat.slot, seat.cursor, take) for seat, take in zip(seats, widths, strict=True)]
        self._count(len(ids))
        return self.slots.forward(self.backbone, embeds_ND, self._device(positions), segments)

    def _go_on(self, seats: Sequence[Seat], widths: Sequence[int], hidden_ND: Tensor) -> None:
        """Move cursors; who stands at the end of its text speaks, or was only trying and thinks on."""
        firsts = np.cumsum([0, *widths[:-1]]).tolist()
        states: list[int] = []
        asked: list[tuple[Seat, list[int]]] = []  # with the columns of the state before its first token and of a trial
        for i, (seat, take, first) in enumerate(zip(seats, widths, firsts, strict=True)):
            was_last = seat.thinking and seat.cursor == seat.end - 1
            if was_last:
                self._trail(seat, hidden_ND[first : first + 1])
            seat.cursor += take
            seat.state_at = i
            states.append(first if seat.probing else first + take - 1)
            if seat.probing:
                asked.append((seat, [first + take - 1]))
            elif seat.cursor >= seat.known:
                asked.append((seat, list(range(first + take - 1 - len(seat.trial), first + take))))
        self._states_nD = hidden_ND.index_select(0, self._device(states))
        if asked:
            self._speak(asked, hidden_ND)

    def _trail(self, seat: Seat, state_1D: Tensor) -> None:
        """Make the latent after the last one, which is never fed, where a row asks for it and somebody for the trace."""
        if not (self.keep and seat.row.trailing):
            return
        assert self.source is not None
        made_1D = self.source.next(state_1D, np.array([seat.place]), np.array([seat.end - seat.row.start]))
        seat.latents.append(made_1D[0])
        seat.states.append(state_1D[0])

    def _speak(self, asked: list[tuple[Seat, list[int]]], hidden_ND: Tensor) -> None:
        """Choose tokens: one for each row, more where what it tried is what it would have said."""
        columns = [column for _, several in asked for column in several]
        logits_NV = self.backbone.logits(hidden_ND.index_select(0, self._device(columns)))
        firsts = np.cumsum([0, *(len(several) for _, several in asked)]).tolist()
        on: list[tuple[Seat, int]] = []  # rows that choose now, and the logits they choose from
        sure = self._sure([(seat, at) for (seat, _), at in zip(asked, firsts, strict=False) if seat.probing], logits_NV)
        for (seat, _), at in zip(asked, firsts, strict=False):
            if seat.probing:
                behind, seat.probing = len(seat.trial), False
                seat.trial = ()
                if not sure[seat.place]:
                    seat.cursor -= behind
                    continue
                self._stop(seat, seat.cursor - behind - seat.row.start)
                assert self._states_nD is not None
                self._trail(seat, self._states_nD[seat.state_at][None])
            seat.cursor -= len(seat.trial)
            on.append((seat, at))
        while on:
            chosen = self._choose(on, logits_NV)
            further: list[tuple[Seat, int]] = []
            for (seat, at), token in zip(on, chosen, strict=True):
                said = len(seat.tokens)
                seat.tokens.append(token)
                seat.ends -= token in self.backbone.eos_ids
                if self.on_token is not None:
                    self.on_token(seat.place, token)
                if said < len(seat.trial) and token == seat.trial[said] and not seat.over:
                    seat.cursor += 1  # its column has been fed
                    further.append((seat, at + 1))
            on = further

    def _sure(self, probing: list[tuple[Seat, int]], logits_NV: Tensor) -> dict[int, bool]:
        """What the judge says of the rows that try, by number."""
        if not probing:
            return {}
        assert self.judge is not None
        said = self.judge.sure(logits_NV.index_select(0, self._device([at for _, at in probing])))
        return {seat.place: yes for (seat, _), yes in zip(probing, said, strict=True)}

    def _choose(self, on: list[tuple[Seat, int]], logits_NV: Tensor) -> list[int]:
        """A token for each row, by its own way to speak."""
        tokens = [0] * len(on)
        kinds: dict[Speaking, list[int]] = {}
        for i, (seat, _) in enumerate(on):
            kinds.setdefault(replace(seat.request.speaking, max_new_tokens=1), []).append(i)
        for kind, members in kinds.items():
            at = [on[i][1] for i in members]
            mine_NV = logits_NV if at == list(range(len(logits_NV))) else logits_NV.index_select(0, self._device(at))
            streams = np.array([on[i][0].stream for i in members])
            for i, token in zip(members, self._choosers[kind].choose(mine_NV, streams).tolist(), strict=True):
                tokens[i] = token
        return tokens

    def trace(self, numbers: Sequence[int]) -> Trace:
        """The thoughts of finished requests; `keep` must be on."""
        seats = [self.done[number] for number in numbers]
        thoughts = [self._thoughts(seat) for seat in seats]
        states = [torch.stack(seat.states) if seat.states else None for seat in seats]
        K = max(len(made) for made in thoughts)
        latents_BKD = torch.stack([_padded(made, K) for made in thoughts])
        states_BKD = None
        if self.source is not None:
            states_BKD = torch.stack(
                [latents_BKD.new_zeros(K, latents_BKD.shape[2]) if s is None else _padded(s, K) for s in states]
            )
        return Trace(
            latents_BKD=latents_BKD,
            states_BKD=states_BKD,
            counts_B=np.array([len(made) for made in thoughts]),
            starts_B=np.array([seat.row.start for seat in seats]),
            cost=self.cost,
        )

    def _thoughts(self, seat: Seat) -> Tensor:
        """The latents of a row, [K, D]; its slots' tokens where these are its thoughts."""
        if seat.vectors_KD is not None:
            return seat.vectors_KD
        row = seat.row
        if self.source is None:
            return self.backbone.embed(self._device(row.ids[row.start : row.start + row.latents]))
        return torch.stack(seat.latents) if seat.latents else self.backbone.embed(self._device([]))

    def _count(self, columns: int) -> None:
        self.cost.passes += 1
        self.cost.positions += columns
        self.cost.slots += columns

    def _device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.backbone.device)


def _padded(made_kD: Tensor, K: int) -> Tensor:
    """[k, D] -> [K, D], zero behind."""
    return torch.cat([made_kD, made_kD.new_zeros(K - len(made_kD), made_kD.shape[1])])
