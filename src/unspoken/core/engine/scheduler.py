"""Continuous batching: requests think and speak in slots, and one that finishes makes room for the next.

It takes the same rows, sources and sampling as `core/loop/loop.py` and gives the same answers. The loop forwards a batch
from start to end, as training needs; here every pass feeds whatever is ready from up to as many rows as there are slots,
packed without padding (`core/engine/kv_slots.py`): a prompt, or a chunk of it so that long prompts do not delay other
requests; one latent; the last latent with the given text after it; or one chosen token.

A prefix common to all prompts (few-shot examples, a chat's instruction) is read once in a pass of its own and stays in the
slots; a prompt that another request has read is copied from its slot (`core/engine/prompt_sharing.py`). Text that answers
are expected to begin with can be fed speculatively with the end of the prompt: tokens that the model would have chosen are
kept, and the rest is dropped (`Request.expected`).

Shapes: N packed columns of a pass, n rows in a pass, D width, K latents.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar, TypeVarTuple

import numpy as np
import torch
from torch import Tensor

from unspoken.core.engine.cuda_graphs import acquire_slots
from unspoken.core.engine.kv_slots import Segment
from unspoken.core.engine.prompt_sharing import SHORTEST_PREFIX, share_prompts
from unspoken.core.engine.requests import ActiveRequest, Request, TokenLogprobs, common_prefix
from unspoken.core.engine.stopping import StopDecider
from unspoken.core.engine.text_stream import TextStream
from unspoken.core.engine.thoughts import trace_of
from unspoken.core.fast.cpu_linear import look_again
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.loop import OnToken
from unspoken.core.loop.sampling import choose, random_stream
from unspoken.core.loop.soft import SoftChain, feed_back
from unspoken.core.loop.sources import PrecomputedThoughts, Source
from unspoken.core.loop.speech import check_context
from unspoken.core.loop.trace import Cost, Trace
from unspoken.core.rows.batch import collate
from unspoken.errors import OverloadError

T = TypeVar("T")
Given = TypeVarTuple("Given")


class Scheduler:
    """Serves requests: `submit` at any time and `step` until `idle`, or `run`, which does both.

    One thread calls `step`; other threads may submit and cancel meanwhile.

    Args:
        backbone: the base model.
        source: makes latents from states; None: the slots' own token embeddings are the thoughts.
        slots: how many requests are served at a time.
        chunk: prompt positions per pass; four times as many while no request thinks or speaks.
        decider: default for `Request.decider`.
        keep: sets `Request.keep` for all requests; needed for `trace`.
        on_token: called with (number of the request, token id).
        graphs: record passes in which every request thinks or speaks as CUDA graphs; None = if on a GPU.
        max_waiting: how many requests may wait for a slot; None = any number.
        isolate: a request that fails ends alone, with its error in `ActiveRequest.error`; otherwise the error is raised.
    """

    def __init__(
        self,
        backbone: Backbone,
        source: Source | PrecomputedThoughts | None,
        *,
        slots: int = 32,
        chunk: int = 512,
        decider: StopDecider | None = None,
        keep: bool = False,
        on_token: OnToken | None = None,
        graphs: bool | None = None,
        max_waiting: int | None = None,
        isolate: bool = False,
    ) -> None:
        self.backbone, self.chunk, self.decider, self.keep, self.on_token = backbone, chunk, decider, keep, on_token
        self.max_waiting, self.isolate = max_waiting, isolate
        self.eos_ids = frozenset(backbone.eos_ids)
        self.prompted = source if isinstance(source, PrecomputedThoughts) else None
        self.source = None if isinstance(source, PrecomputedThoughts) else source
        self.slots = acquire_slots(backbone, slots, 64, graphs, self)
        self.waiting: deque[tuple[int, Request]] = deque()
        self.running: list[ActiveRequest] = []
        self.done: dict[int, ActiveRequest] = {}
        self.prefix: tuple[int, ...] = ()  # stands in every slot
        self.cost = Cost()
        self._lock = threading.Lock()  # guards what other threads may touch: waiting and cancelled requests
        self._submitted = 0
        self._left: set[int] = set()
        self._states_nD: Tensor | None = None
        self._vectors: dict[int, Tensor] = {}  # precomputed thoughts of waiting requests

    @property
    def idle(self) -> bool:
        """Whether no request is waiting or being served."""
        return not self.waiting and not self.running

    def submit(self, request: Request) -> int:
        """Queue a request; it begins when a slot is free. Returns its number.

        Raises:
            DataError: it does not fit into the model's context together with its longest answer.
            OverloadError: too many requests are waiting.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[int]:
        """Submit several requests: all of them, or none."""
        for request in requests:
            check_context(self.backbone, collate([request.row]), request.speaking.max_new_tokens)
        with self._lock:
            if self.max_waiting is not None:
                free = max(self.slots.rows - len(self.running), 0)
                if len(self.waiting) + len(requests) > self.max_waiting + free:
                    raise OverloadError(f"{len(self.waiting)} requests wait already; try again in a moment")
            if self.idle:
                look_again()
            first = self._submitted
            self._submitted += len(requests)
            self.waiting.extend(enumerate(requests, start=first))
        return list(range(first, self._submitted))

    def cancel(self, number: int) -> None:
        """End a request at once. It takes part in no later pass and is not reported as finished."""
        with self._lock:
            self._left.add(number)

    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> list[int]:
        """Submit requests, longest prompts first, and serve them all; returns their numbers."""
        numbers = self.submit_all(requests)
        self.waiting = deque(sorted(self.waiting, key=lambda one: len(one[1].row.ids), reverse=True))
        self.share_prefix()
        while not self.idle:
            self.step()
        return numbers

    @torch.inference_mode()
    def share_prefix(self) -> None:
        """Read the common prefix of all waiting prompts once, into all slots. Does nothing while a request is being
        served."""
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
        """Make one pass: fill free slots, feed every row that is ready, choose tokens for rows at the end of their text.

        Returns:
            The numbers of requests that this pass finished; their results stay in `done` until taken out.
        """
        self._forget()
        if self.idle:
            return []
        self._admit()
        self._think([active for active in self.running if active.thinking])
        takes = self._takes()
        # One column each first: so slots want it.
        fed = sorted((active for active in self.running if takes[active.slot]), key=lambda s: (takes[s.slot] > 1, s.slot))
        passed = self._each(fed, lambda part: self._feed(part, [takes[active.slot] for active in part]))
        if passed:
            hidden_ND = passed[0][1] if len(passed) == 1 else torch.cat([hidden_nD for _, hidden_nD in passed])
            there = [active for part, _ in passed for active in part]
            self._go_on(there, [takes[active.slot] for active in there], hidden_ND)
        over = [active for active in self.running if active.over]
        self.running = [active for active in self.running if not active.over]
        self.done |= {active.place: active for active in over}
        return [active.place for active in over]

    def _forget(self) -> None:
        """Drop cancelled requests."""
        if not self._left:
            return
        with self._lock:
            left, self._left = self._left, set()
            self.waiting = deque(one for one in self.waiting if one[0] not in left)
        self.running = [active for active in self.running if active.place not in left]
        for number in left:
            self._vectors.pop(number, None)

    def _each(
        self, members: Sequence[ActiveRequest], work: Callable[[Sequence[ActiveRequest]], T]
    ) -> list[tuple[Sequence[ActiveRequest], T]]:
        """Do some work for all members at once; returns the members for which it succeeded, and the results.

        If it fails and requests are isolated, it is repeated on halves until the failing request is alone.
        """
        if not members:
            return []
        try:
            return [(members, work(members))]
        except Exception as error:
            if not self.isolate:
                raise
            if len(members) == 1:
                members[0].error = error
                return []
        half = len(members) // 2
        return [*self._each(members[:half], work), *self._each(members[half:], work)]

    def _guard(self, active: ActiveRequest, work: Callable[[ActiveRequest, *Given], None], *given: *Given) -> None:
        """Do some work for one request; an error ends only this request."""
        try:
            work(active, *given)
        except Exception as error:
            if not self.isolate:
                raise
            active.error = error

    def _admit(self) -> None:
        """Give free slots to waiting requests; if none waits, compact the occupied slots."""
        taken = {active.slot for active in self.running}
        free = [slot for slot in range(self.slots.rows) if slot not in taken]
        with self._lock:
            next_up = [(slot, *self.waiting.popleft()) for slot in free[: len(self.waiting)]]
            new = [self._seat(*one) for one in next_up]
            self.running.extend(new)
        if self.prompted is not None:
            self._each(new, self._prompt)
        else:
            self._each([active for active in new if active.request.edit and self.source is None], self._prompt_by_tokens)
        if not new and 4 * (max(taken) + 1) >= 5 * len(taken) and max(taken) + 1 > len(taken):
            for active, slot in zip([s for s in self.running if s.slot >= len(taken)], free, strict=False):
                self.slots.clear(slot)
                self.slots.copy(active.slot, slot, active.cursor)
                active.slot = slot

    def _prompt(self, new: Sequence[ActiveRequest]) -> None:
        """Give new rows their precomputed thoughts, made for many waiting requests at once because another model may have
        to run."""
        assert self.prompted is not None
        if any(active.place not in self._vectors for active in new):
            ahead = [(active.place, active.request) for active in new]
            if len(new) > 1 or not self.isolate:  # alone: a waiting request may be the one that fails
                ahead += list(islice(self.waiting, self.slots.rows))
            ahead = [(place, request) for place, request in ahead if place not in self._vectors]
            batch = collate([request.row for _, request in ahead]).to(self.backbone.device)
            sets = 1 + max(request.chain for _, request in ahead)
            vectors_BKD = self.prompted.vectors(batch, sets)
            for b, (place, request) in enumerate(ahead):
                self._vectors[place] = vectors_BKD[request.chain * len(ahead) + b, : request.row.latents]
        for active in new:
            active.vectors_KD = self._edit(active, self._vectors.pop(active.place), 0)

    def _prompt_by_tokens(self, new: Sequence[ActiveRequest]) -> None:
        """Token thoughts as vectors, so that they can be edited."""
        for active in new:
            row = active.row
            tokens_KD = self.backbone.embed(self._device(row.ids[row.start : row.start + row.latents]))
            active.vectors_KD = self._edit(active, tokens_KD, 0)

    @staticmethod
    def _edit(active: ActiveRequest, latents_KD: Tensor, first: int) -> Tensor:
        """Latents of a request from number `first` on, edited if it has an edit."""
        edit = active.request.edit
        if edit is None or not len(latents_KD):
            return latents_KD
        keys = [(active.row.name, active.request.chain)] * len(latents_KD)
        return edit(latents_KD, keys, np.arange(first, first + len(latents_KD)))

    def _seat(self, slot: int, place: int, request: Request) -> ActiveRequest:
        row = request.row
        if self.prefix and common_prefix([row], self.prefix) < len(self.prefix):
            self.prefix = ()  # the slot is overwritten from the start
        self.slots.clear(slot, len(self.prefix))
        reading = request.stops or request.incremental
        return ActiveRequest(
            request=request,
            place=place,
            slot=slot,
            stream=random_stream(request.speaking.seed, request.number),
            end=row.start + (row.latents if self.source is not None else 0),
            eos_left=row.num_eos,
            cursor=len(self.prefix),
            positions=len(self.prefix),  # counted as if it had read the common prefix alone
            text=TextStream(self.backbone.decode, request.stops) if reading else None,
            soft=SoftChain(plan, request.speaking.max_new_tokens) if (plan := request.soft) else None,
        )

    def _think(self, running: Sequence[ActiveRequest]) -> None:
        """Make the latents to be fed in this pass, and ask the deciders whether they are the last."""
        for part, (state_ND, latent_ND) in self._each(running, self._latents):
            for active, state_D, latent_D in zip(part, state_ND, latent_ND, strict=True):
                self._guard(active, self._take_latent, state_D, latent_D)

    def _latents(self, running: Sequence[ActiveRequest]) -> tuple[Tensor, Tensor]:
        """The states [N, D] before the next latents, and the latents."""
        assert self.source is not None
        assert self._states_nD is not None
        state_ND = self._states_nD.index_select(0, self._device([active.state_at for active in running]))
        number_N = np.array([active.cursor - active.row.start for active in running])
        return state_ND, self.source.next(state_ND, np.array([active.place for active in running]), number_N)

    def _take_latent(self, active: ActiveRequest, state_D: Tensor, latent_D: Tensor) -> None:
        before_D, number = active.latent_D, active.cursor - active.row.start
        active.latent_D = latent_D if active.request.edit is None else self._edit(active, latent_D[None], number)[0]
        if self.keep or active.request.keep:
            active.latents.append(active.latent_D)
            active.states.append(state_D)
        decider, thought = self._decider(active), number + 1
        if decider is None or thought >= active.row.latents or not decider.asked(thought):
            return
        if decider.tries:
            active.probing_stop = True
        elif decider.is_last(thought, active.latent_D, before_D):
            self._stop(active, thought)

    def _decider(self, active: ActiveRequest) -> StopDecider | None:
        return self.decider if active.request.decider is None else active.request.decider

    def _stop(self, active: ActiveRequest, thought: int) -> None:
        """Stop a row's thinking: the rest of its prompt moves up."""
        active.skipped = active.row.latents - thought
        active.end = active.row.start + thought

    def _takes(self) -> dict[int, int]:
        """Columns that each slot's row feeds in this pass. Rows that think or speak feed all they have; prompts share a
        chunk."""
        # Prompts are cut into chunks so that requests that think or speak do not wait long.
        takes, budget = {}, self.chunk if any(active.passes for active in self.running) else 4 * self.chunk
        waiting = share_prompts(self.running, self.slots)
        for active in self.running:
            row = active.row
            active.speculated = ()
            if active.error is not None or active.slot in waiting:
                takes[active.slot] = 0
                continue
            if active.probing_stop:
                active.speculated = row.ids[row.start + row.latents :]
                takes[active.slot] = 1 + len(active.speculated)
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
            if takes[active.slot] and active.cursor + takes[active.slot] == active.given and active.soft is None:
                active.speculated = active.request.expected[: active.request.speaking.max_new_tokens - 1]
                takes[active.slot] += len(active.speculated)
        return takes

    def _feed(self, running: Sequence[ActiveRequest], widths: Sequence[int]) -> Tensor:
        """Feed the next columns of some rows, packed; returns the states [N, D]."""
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
            elif active.mixture_D is not None:
                places.append(first)
                vectors.append(active.mixture_D[None])
        embeds_ND = self.backbone.embed(self._device(ids))
        if places:
            embeds_ND = embeds_ND.index_copy(0, self._device(places), torch.cat(vectors).to(embeds_ND.dtype))
        segments = [Segment(active.slot, active.cursor, take) for active, take in zip(running, widths, strict=True)]
        self.slots.reserve(max(segment.start + segment.width for segment in segments) + 1)  # the last stays free
        hidden_ND = self.slots.forward(self.backbone, embeds_ND, self._device(positions), segments)
        self._count(len(ids))
        return hidden_ND

    def _go_on(self, running: Sequence[ActiveRequest], widths: Sequence[int], hidden_ND: Tensor) -> None:
        """Move cursors. Rows at the end of their text speak; rows that only probed for a stop may think on."""
        firsts = np.cumsum([0, *widths[:-1]]).tolist()
        states: list[int] = []
        asked: list[
            tuple[ActiveRequest, list[int]]
        ] = []  # with the columns of the state before its first token and of what was speculated
        for i, (active, take, first) in enumerate(zip(running, widths, firsts, strict=True)):
            was_last = active.thinking and active.cursor == active.end - 1
            if was_last:
                self._guard(active, self._trail, hidden_ND[first : first + 1])
            active.passes += 1
            active.positions += take
            active.cursor += take
            active.state_at = i
            states.append(first if active.probing_stop else first + take - 1)
            if active.probing_stop:
                asked.append((active, [first + take - 1]))
            elif active.cursor >= active.known:
                asked.append((active, list(range(first + take - 1 - len(active.speculated), first + take))))
        self._states_nD = hidden_ND.index_select(0, self._device(states))
        if asked:
            self._speak(asked, hidden_ND)

    def _trail(self, active: ActiveRequest, state_1D: Tensor) -> None:
        """Make the latent after the last one, which is never fed, for rows with `unfed_latent` whose trace is kept."""
        if not (active.row.unfed_latent and (self.keep or active.request.keep)):
            return
        assert self.source is not None
        made_1D = self.source.next(state_1D, np.array([active.place]), np.array([active.end - active.row.start]))
        active.latents.append(made_1D[0])
        active.states.append(state_1D[0])

    def _speak(self, asked: list[tuple[ActiveRequest, list[int]]], hidden_ND: Tensor) -> None:
        """Choose tokens: one per row, and more if speculated tokens are the ones the model chooses."""
        columns = [column for _, several in asked for column in several]
        logits_NV = self.backbone.logits(hidden_ND.index_select(0, self._device(columns)))
        firsts = np.cumsum([0, *(len(several) for _, several in asked)]).tolist()
        on: list[tuple[ActiveRequest, int]] = []  # rows that choose now, and the logits they choose from
        for (active, _), at in zip(asked, firsts, strict=False):
            if active.probing_stop:
                self._guard(active, self._probed, logits_NV[at : at + 1])
                if active.thinking:
                    continue
            active.cursor -= len(active.speculated)
            on.append((active, at))
        while on := [(active, at) for active, at in on if active.error is None]:
            further: list[tuple[ActiveRequest, int]] = []
            for active, at, token in self._choose(on, logits_NV):
                said = len(active.tokens)
                self._guard(active, self._say, token, logits_NV[at])
                if said < len(active.speculated) and token == active.speculated[said] and not active.over:
                    active.cursor += 1  # its column has been fed
                    further.append((active, at + 1))
            on = further

    def _say(self, active: ActiveRequest, token: int, logits_V: Tensor) -> None:
        """Add a token to a request's answer."""
        if active.request.logprobs is not None:
            active.logprobs.append(TokenLogprobs.of(logits_V, token, active.request.logprobs))
        active.say(token, eos=token in self.eos_ids)
        if self.on_token is not None:
            self.on_token(active.place, token)

    def _probed(self, active: ActiveRequest, logits_1V: Tensor) -> None:
        """A row that probed for a stop goes on to its answer, or thinks on."""
        behind, active.probing_stop, active.speculated = len(active.speculated), False, ()
        decider = self._decider(active)
        assert decider is not None
        if not decider.confident(logits_1V)[0]:
            active.cursor -= behind
            return
        self._stop(active, active.cursor - behind - active.row.start)
        assert self._states_nD is not None
        self._trail(active, self._states_nD[active.state_at][None])

    def _choose(self, on: list[tuple[ActiveRequest, int]], logits_NV: Tensor) -> list[tuple[ActiveRequest, int, int]]:
        """Choose a token per row with its own sampling settings: (row, index of its logits, token), in order."""
        places = dict(on)
        kinds: dict[Any, list[ActiveRequest]] = {}
        for active, _ in on:
            kinds.setdefault(active.request.speaking.shape, []).append(active)

        def chosen(part: Sequence[ActiveRequest]) -> list[int]:
            at = [places[active] for active in part]
            mine_NV = logits_NV if at == list(range(len(logits_NV))) else logits_NV.index_select(0, self._device(at))
            tokens = choose(part[0].request.speaking, mine_NV, [active.stream for active in part]).tolist()
            chains = {n: active.soft for n, active in enumerate(part) if active.soft is not None}
            fed = feed_back(self.backbone, chains, mine_NV, tokens)
            for active, (_, mixture_D) in zip(part, fed, strict=True):
                active.mixture_D = mixture_D
            return [token for token, _ in fed]

        tokens: dict[ActiveRequest, int] = {}
        for members in kinds.values():
            for part, made in self._each(members, chosen):
                tokens |= zip(part, made, strict=True)
        return [(active, at, tokens[active]) for active, at in on if active in tokens]

    def trace(self, numbers: Sequence[int]) -> Trace:
        """The trace of finished requests, which must have been kept."""
        return trace_of(self.backbone, self.source, [self.done[number] for number in numbers], self.cost)

    def _count(self, columns: int) -> None:
        self.cost.passes += 1
        self.cost.positions += columns
        self.cost.slots += columns

    def _device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.backbone.device)
