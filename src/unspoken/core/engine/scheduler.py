"""Continuous batching: requests think and speak in slots, and one that finishes makes room for the next.

The same rows, sources and ways to speak as `core/loop/loop.py`, and the same answers. What differs is who goes on when: the
loop there takes batches from start to end (training needs that); here every pass feeds whatever is ready, of however many
rows as there are slots, packed without padding (`core/engine/kv_slots.py`): a prompt, or a part of it if prompts would
hold up those who think and speak; one latent; the last latent with all given text behind it; one chosen token.

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

from unspoken.core.engine.cuda_graphs import acquire_slots
from unspoken.core.engine.kv_slots import Segment
from unspoken.core.engine.requests import ActiveRequest, Request, common_prefix
from unspoken.core.engine.stopping import StopDecider
from unspoken.core.fast.cpu_linear import look_again
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.loop import OnToken
from unspoken.core.loop.sampling import Sampler, SamplingParams
from unspoken.core.loop.sources import PrecomputedThoughts, Source
from unspoken.core.loop.speech import check_context
from unspoken.core.loop.trace import Cost, Trace
from unspoken.core.rows.batch import collate

SHORTEST_PREFIX = 8
"""What all prompts begin with is read apart from this length on; a pass of its own costs more than fewer tokens."""


class Scheduler:
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
        source: Source | PrecomputedThoughts | None,
        *,
        slots: int = 32,
        chunk: int = 512,
        judge: StopDecider | None = None,
        keep: bool = False,
        on_token: OnToken | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.backbone, self.chunk, self.judge, self.keep, self.on_token = backbone, chunk, judge, keep, on_token
        self.prompted = source if isinstance(source, PrecomputedThoughts) else None
        self.source = None if isinstance(source, PrecomputedThoughts) else source
        self.slots = acquire_slots(backbone, slots, 64, graphs, self)
        self.waiting: deque[tuple[int, Request]] = deque()
        self.running: list[ActiveRequest] = []
        self.done: dict[int, ActiveRequest] = {}
        self.prefix: tuple[int, ...] = ()  # stands in every slot
        self.cost = Cost()
        self._submitted = 0
        self._choosers: dict[SamplingParams, Sampler] = {}
        self._states_nD: Tensor | None = None
        self._vectors: dict[int, Tensor] = {}  # prompted thoughts of those who wait

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return not self.waiting and not self.running

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
        if self.running or len(rows) < 2 or self.prefix or (length := common_prefix(rows)) < SHORTEST_PREFIX:
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
        self._think([active for active in self.running if active.thinking])
        takes = self._takes()
        # One column each first: so slots want it.
        fed = sorted((active for active in self.running if takes[active.slot]), key=lambda s: (takes[s.slot] > 1, s.slot))
        widths = [takes[active.slot] for active in fed]
        hidden_ND = self._feed(fed, widths)
        self._go_on(fed, widths, hidden_ND)
        over = [active for active in self.running if active.over]
        self.running = [active for active in self.running if not active.over]
        self.done |= {active.place: active for active in over}
        return [active.place for active in over]

    def _admit(self) -> None:
        """Give free slots to those who wait; when nobody does, those under way move together."""
        taken = {active.slot for active in self.running}
        free = [slot for slot in range(self.slots.rows) if slot not in taken]
        new = [self._seat(slot, *self.waiting.popleft()) for slot in free[: len(self.waiting)]]
        if new and self.prompted is not None:
            self._prompt(new)
        self.running.extend(new)
        if not new and 4 * (max(taken) + 1) >= 5 * len(taken) and max(taken) + 1 > len(taken):
            for active, slot in zip([s for s in self.running if s.slot >= len(taken)], free, strict=False):
                self.slots.clear(slot)
                self.slots.copy(active.slot, slot, active.cursor)
                active.slot = slot

    def _prompt(self, new: Sequence[ActiveRequest]) -> None:
        """Give new rows their prompted thoughts; made for many of the waiting at once: another model may read them."""
        assert self.prompted is not None
        if any(active.place not in self._vectors for active in new):
            ahead = [(active.place, active.row) for active in new]
            ahead += [(place, request.row) for place, request in islice(self.waiting, self.slots.rows)]
            ahead = [(place, row) for place, row in ahead if place not in self._vectors]
            batch = collate([row for _, row in ahead]).to(self.backbone.device)
            for (place, row), vectors_KD in zip(ahead, self.prompted.vectors(batch, 1), strict=True):
                self._vectors[place] = vectors_KD[: row.latents]
        for active in new:
            active.vectors_KD = self._vectors.pop(active.place)

    def _seat(self, slot: int, place: int, request: Request) -> ActiveRequest:
        row, key = request.row, replace(request.speaking, max_new_tokens=1)
        if self.prefix and common_prefix([row], self.prefix) < len(self.prefix):
            self.prefix = ()  # the slot is overwritten from the start
        self.slots.clear(slot, len(self.prefix))
        if key not in self._choosers:
            self._choosers[key] = Sampler(key, [])
        return ActiveRequest(
            request=request,
            place=place,
            slot=slot,
            stream=self._choosers[key].add(request.number),
            end=row.start + (row.latents if self.source is not None else 0),
            eos_left=row.num_eos,
            cursor=len(self.prefix),
            positions=len(self.prefix),  # as if it had read alone what all share
        )

    def _think(self, running: Sequence[ActiveRequest]) -> None:
        """Make the latents that are fed now, and ask whether they are the last."""
        if not running:
            return
        assert self.source is not None
        assert self._states_nD is not None
        state_ND = self._states_nD.index_select(0, self._device([active.state_at for active in running]))
        number_N = np.array([active.cursor - active.row.start for active in running])
        latent_ND = self.source.next(state_ND, np.array([active.place for active in running]), number_N)
        for i, active in enumerate(running):
            before_D, active.latent_D, thought = active.latent_D, latent_ND[i], int(number_N[i]) + 1
            if self.keep:
                active.latents.append(latent_ND[i])
                active.states.append(state_ND[i])
            if self.judge is None or thought >= active.row.latents or not self.judge.asked(thought):
                continue
            if self.judge.tries:
                active.probing = True
            elif self.judge.is_last(thought, active.latent_D, before_D):
                self._stop(active, thought)

    def _stop(self, active: ActiveRequest, thought: int) -> None:
        """A row has thought enough: the rest of its prompt moves up."""
        active.skipped = active.row.latents - thought
        active.end = active.row.start + thought

    def _takes(self) -> dict[int, int]:
        """Columns each slot's row feeds in this pass: one who thinks or speaks all that is ready, prompts share a chunk."""
        # Prompts are cut so that nobody who thinks or speaks waits long for them.
        takes, budget = {}, self.chunk if any(active.passes for active in self.running) else 4 * self.chunk
        for active in self.running:
            row = active.row
            active.trial = ()
            if active.probing:
                active.trial = row.ids[row.start + row.latents :]
                takes[active.slot] = 1 + len(active.trial)
            elif active.thinking and active.cursor < active.end - 1:
                takes[active.slot] = 1
            elif active.cursor < row.start < active.end:
                takes[active.slot] = min(row.start - active.cursor, budget)
                budget -= takes[active.slot]
            elif active.cursor < active.given and not active.thinking:
                takes[active.slot] = min(active.given - active.cursor, budget)
                budget -= takes[active.slot]
            else:
                takes[active.slot] = max(min(active.known - active.cursor, budget), 1)
                budget = max(budget - takes[active.slot] + 1, 0)
            if takes[active.slot] and active.cursor + takes[active.slot] == active.given:
                active.trial = active.request.expected[: active.request.speaking.max_new_tokens - 1]
                takes[active.slot] += len(active.trial)
        return takes

    def _feed(self, running: Sequence[ActiveRequest], widths: Sequence[int]) -> Tensor:
        """Feed the next columns of some rows, packed: the states [N, D]."""
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        vectors: list[Tensor] = []
        for active, take in zip(running, widths, strict=True):
            first, row = len(ids), active.row
            ids.extend(active.ids(take))
            positions.extend(active.position_ids(take))
            if active.thinking and active.latent_D is not None:
                places.append(first)
                vectors.append(active.latent_D[None])
            elif active.vectors_KD is not None and active.cursor < row.start + row.latents:
                low, high = (min(max(p - row.start, 0), row.latents) for p in (active.cursor, active.cursor + take))
                places.extend(first + row.start + k - active.cursor for k in range(low, high))
                vectors.append(active.vectors_KD[low:high])
            active.passes += 1
            active.positions += take
        embeds_ND = self.backbone.embed(self._device(ids))
        if places:
            embeds_ND = embeds_ND.index_copy(0, self._device(places), torch.cat(vectors).to(embeds_ND.dtype))
        fed = dict(zip((active.slot for active in running), widths, strict=True))
        self.slots.reserve(
            max(active.cursor + fed.get(active.slot, 0) for active in self.running) + 1
        )  # the last stays free
        segments = [Segment(active.slot, active.cursor, take) for active, take in zip(running, widths, strict=True)]
        self._count(len(ids))
        return self.slots.forward(self.backbone, embeds_ND, self._device(positions), segments)

    def _go_on(self, running: Sequence[ActiveRequest], widths: Sequence[int], hidden_ND: Tensor) -> None:
        """Move cursors; who stands at the end of its text speaks, or was only trying and thinks on."""
        firsts = np.cumsum([0, *widths[:-1]]).tolist()
        states: list[int] = []
        asked: list[
            tuple[ActiveRequest, list[int]]
        ] = []  # with the columns of the state before its first token and of a trial
        for i, (active, take, first) in enumerate(zip(running, widths, firsts, strict=True)):
            was_last = active.thinking and active.cursor == active.end - 1
            if was_last:
                self._trail(active, hidden_ND[first : first + 1])
            active.cursor += take
            active.state_at = i
            states.append(first if active.probing else first + take - 1)
            if active.probing:
                asked.append((active, [first + take - 1]))
            elif active.cursor >= active.known:
                asked.append((active, list(range(first + take - 1 - len(active.trial), first + take))))
        self._states_nD = hidden_ND.index_select(0, self._device(states))
        if asked:
            self._speak(asked, hidden_ND)

    def _trail(self, active: ActiveRequest, state_1D: Tensor) -> None:
        """Make the latent after the last one, which is never fed, where a row asks for it and somebody for the trace."""
        if not (self.keep and active.row.unfed_latent):
            return
        assert self.source is not None
        made_1D = self.source.next(state_1D, np.array([active.place]), np.array([active.end - active.row.start]))
        active.latents.append(made_1D[0])
        active.states.append(state_1D[0])

    def _speak(self, asked: list[tuple[ActiveRequest, list[int]]], hidden_ND: Tensor) -> None:
        """Choose tokens: one for each row, more where what it tried is what it would have said."""
        columns = [column for _, several in asked for column in several]
        logits_NV = self.backbone.logits(hidden_ND.index_select(0, self._device(columns)))
        firsts = np.cumsum([0, *(len(several) for _, several in asked)]).tolist()
        on: list[tuple[ActiveRequest, int]] = []  # rows that choose now, and the logits they choose from
        sure = self._sure(
            [(active, at) for (active, _), at in zip(asked, firsts, strict=False) if active.probing], logits_NV
        )
        for (active, _), at in zip(asked, firsts, strict=False):
            if active.probing:
                behind, active.probing = len(active.trial), False
                active.trial = ()
                if not sure[active.place]:
                    active.cursor -= behind
                    continue
                self._stop(active, active.cursor - behind - active.row.start)
                assert self._states_nD is not None
                self._trail(active, self._states_nD[active.state_at][None])
            active.cursor -= len(active.trial)
            on.append((active, at))
        while on:
            chosen = self._choose(on, logits_NV)
            further: list[tuple[ActiveRequest, int]] = []
            for (active, at), token in zip(on, chosen, strict=True):
                said = len(active.tokens)
                active.tokens.append(token)
                active.eos_left -= token in self.backbone.eos_ids
                if self.on_token is not None:
                    self.on_token(active.place, token)
                if said < len(active.trial) and token == active.trial[said] and not active.over:
                    active.cursor += 1  # its column has been fed
                    further.append((active, at + 1))
            on = further

    def _sure(self, probing: list[tuple[ActiveRequest, int]], logits_NV: Tensor) -> dict[int, bool]:
        """What the judge says of the rows that try, by number."""
        if not probing:
            return {}
        assert self.judge is not None
        said = self.judge.sure(logits_NV.index_select(0, self._device([at for _, at in probing])))
        return {active.place: yes for (active, _), yes in zip(probing, said, strict=True)}

    def _choose(self, on: list[tuple[ActiveRequest, int]], logits_NV: Tensor) -> list[int]:
        """A token for each row, by its own way to speak."""
        tokens = [0] * len(on)
        kinds: dict[SamplingParams, list[int]] = {}
        for i, (active, _) in enumerate(on):
            kinds.setdefault(replace(active.request.speaking, max_new_tokens=1), []).append(i)
        for kind, members in kinds.items():
            at = [on[i][1] for i in members]
            mine_NV = logits_NV if at == list(range(len(logits_NV))) else logits_NV.index_select(0, self._device(at))
            streams = np.array([on[i][0].stream for i in members])
            for i, token in zip(members, self._choosers[kind].choose(mine_NV, streams).tolist(), strict=True):
                tokens[i] = token
        return tokens

    def trace(self, numbers: Sequence[int]) -> Trace:
        """The thoughts of finished requests; `keep` must be on."""
        running = [self.done[number] for number in numbers]
        thoughts = [self._thoughts(active) for active in running]
        states = [torch.stack(active.states) if active.states else None for active in running]
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
            starts_B=np.array([active.row.start for active in running]),
            cost=self.cost,
        )

    def _thoughts(self, active: ActiveRequest) -> Tensor:
        """The latents of a row, [K, D]; its slots' tokens where these are its thoughts."""
        if active.vectors_KD is not None:
            return active.vectors_KD
        row = active.row
        if self.source is None:
            return self.backbone.embed(self._device(row.ids[row.start : row.start + row.latents]))
        return torch.stack(active.latents) if active.latents else self.backbone.embed(self._device([]))

    def _count(self, columns: int) -> None:
        self.cost.passes += 1
        self.cost.positions += columns
        self.cost.slots += columns

    def _device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.backbone.device)


def _padded(made_kD: Tensor, K: int) -> Tensor:
    """[k, D] -> [K, D], zero behind."""
    return torch.cat([made_kD, made_kD.new_zeros(K - len(made_kD), made_kD.shape[1])])
