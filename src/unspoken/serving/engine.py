"""The one thread that answers: it steps the schedulers of all served models, and tells who waits what has happened.

HTTP knows requests as `Group`s: the answers to one call. Their scheduler takes and cancels requests from any thread; what
happens to them is handed over once per pass, in one call into the event loop, however many tokens the pass has made.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unspoken.core.engine.requests import ActiveRequest, Request, TokenLogprobs
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.engine.thoughts import latents_of
from unspoken.core.fast.switch import using
from unspoken.core.loop.trace import Trace
from unspoken.errors import OverloadError
from unspoken.serving.errors import ApiError, Gone, api_error, stopping
from unspoken.serving.metrics import Metrics
from unspoken.serving.models import ServedModel

T = TypeVar("T")


@dataclass(kw_only=True)
class Outcome:
    """What has become of one answer.

    Attributes:
        tokens: spoken token ids, the one that ended it included; `spoken` without it.
        latents: thought, mixtures included.
        soft: how many of `tokens` were fed as mixtures.
        passes: forward passes that it took part in.
    """

    text: str
    tokens: list[int]
    spoken: list[int]
    latents: int
    passes: int
    finish_reason: Literal["stop", "length"]
    stop_reason: int | str | None
    logprobs: list[TokenLogprobs]
    thoughts: tuple[str, ...] | None
    latents_KD: Tensor | None = None
    soft: int = 0


@dataclass(kw_only=True)
class Event:
    """News of one answer of a group.

    Attributes:
        index: which answer.
        text: what has been said since the last event.
        thoughts: steps that were decoded since then, one per thought group.
        tokens, logprobs: spoken since then.
        outcome: the whole, where this is the end.
        error: what it failed by, where that is.
    """

    index: int
    text: str = ""
    thoughts: tuple[str, ...] = ()
    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    outcome: Outcome | None = None
    error: ApiError | Gone | None = None


class Group:
    """The answers to one call, on their way.

    Args:
        loop: where whoever waits for them runs.
        streams: wants news before the end.
        explains: wants the latents in words.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int, *, streams: bool, explains: bool) -> None:
        self.loop, self.size, self.streams, self.explains = loop, size, streams, explains
        self.news: asyncio.Queue[Event] = asyncio.Queue()
        self.numbers: list[int] = []
        self.served: ServedModel | None = None

    async def events(self) -> AsyncIterator[Event]:
        """What happens, until all answers are there; an error of one of them ends all.

        Raises:
            ApiError: that error.
            Gone: whoever asked has left.
        """
        left = self.size
        while left:
            event = await self.news.get()
            if event.error is not None:
                raise event.error
            left -= event.outcome is not None
            yield event

    async def outcomes(self) -> list[Outcome]:
        """All answers, in their order."""
        found = {event.index: event.outcome async for event in self.events() if event.outcome is not None}
        return [found[index] for index in range(self.size)]


@dataclass(kw_only=True, eq=False)
class _Listener:
    """Whom to tell about a request, and what has been told."""

    group: Group
    index: int
    submitted: float
    admitted: float | None = None
    thinking_end: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    tokens: int = 0  # seen, for the clock
    told: int = 0  # tokens told
    text: int = 0  # characters told
    thoughts: list[str] = field(default_factory=list)
    thoughts_told: int = 0


class Engine:
    """Runs the served models. `start` it once; `submit` and `cancel` from the event loop.

    Args:
        models: what is served; several share the thread, a pass each in turn.
        metrics: counts and times go there.
    """

    def __init__(self, models: Sequence[ServedModel], metrics: Metrics) -> None:
        self.models, self.metrics = list(models), metrics
        self._schedulers = {served.name: served.new_scheduler() for served in self.models}
        self._listeners: dict[str, dict[int, _Listener]] = {served.name: {} for served in self.models}
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; whoever waits is told so."""
        with self._lock:
            self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self.abort(stopping())
        with self._lock:
            calls, self._calls = self._calls, []
        for _, future in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopping())

    @property
    def alive(self) -> bool:
        """Whether somebody answers."""
        return self._thread.is_alive()

    @property
    def busy(self) -> int:
        """Answers under way or waiting."""
        with self._lock:
            return sum(map(len, self._listeners.values()))

    def scheduler(self, served: ServedModel) -> Scheduler:
        """The one of a model."""
        return self._schedulers[served.name]

    def submit(self, served: ServedModel, requests: Sequence[Request], group: Group) -> None:
        """Take the answers of a call.

        Raises:
            DataError: one is too long for the model.
            OverloadError: too many wait.
        """
        with self._lock:
            now = time.perf_counter()
            try:
                group.numbers = self._schedulers[served.name].submit_all(requests)
            except OverloadError:
                self.metrics.refused(served.name)
                raise
            group.served = served
            for index, number in enumerate(group.numbers):
                self._listeners[served.name][number] = _Listener(group=group, index=index, submitted=now)
        self._wake.set()

    def cancel(self, group: Group) -> None:
        """Whoever asked is gone: end what is left of a call."""
        if group.served is None:
            return
        name = group.served.name
        with self._lock:
            known = self._listeners[name]
            left = [number for number in group.numbers if number in known and known[number].group is group]
            for number in left:
                del known[number]
                self._schedulers[name].cancel(number)
        for _ in left:
            self.metrics.ended(name, "abort")
        self._wake.set()

    def abort(self, error: ApiError) -> None:
        """End everything with an error that clients see."""
        with self._lock:
            ended = [(name, dict(listeners)) for name, listeners in self._listeners.items()]
            for name, listeners in ended:
                for number in listeners:
                    self._schedulers[name].cancel(number)
                self._listeners[name].clear()
        news = [(one, Event(index=one.index, error=error)) for _, listeners in ended for one in listeners.values()]
        for name, listeners in ended:
            for _ in listeners:
                self.metrics.ended(name, "abort")
        self._tell(news)
        self._wake.set()

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Do something between two passes, in the thread that may use the models.

        Raises:
            ApiError: in the future, the thread has been stopped: whoever waited for it would keep the process from ending.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                future.set_exception(stopping())
                return future
            self._calls.append((work, future))
        self._wake.set()
        return future

    def _run(self) -> None:
        while not self._ended:
            busy = False
            self._do_calls()
            for served in self.models:
                if not self._schedulers[served.name].idle:
                    busy = True
                    self._step(served)
            if not busy:
                self._wake.wait()
                self._wake.clear()

    def _do_calls(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for work, future in calls:
            if not future.set_running_or_notify_cancel():  # whoever asked has given it up
                continue
            try:
                with torch.inference_mode():
                    future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    @torch.inference_mode()
    def _step(self, served: ServedModel) -> None:
        """A pass of a model, and what it has made told."""
        scheduler, began = self._schedulers[served.name], time.perf_counter()
        columns = scheduler.cost.positions
        try:
            with served.model.lock, using(served.model.fast):
                scheduler.step()
        except Exception as error:  # not one request's fault, or nobody can say whose
            self._start_over(served, error)
            return
        self.metrics.passed(served.name, scheduler.cost.positions - columns, time.perf_counter() - began)
        done = [scheduler.done.pop(number) for number in list(scheduler.done)]
        with self._lock:
            known = self._listeners[served.name]
            members = [(known[a.place], a) for a in (*scheduler.running, *done) if a.place in known]
            for active in done:
                known.pop(active.place, None)
        now = time.perf_counter()
        for listener, active in members:
            self._clock(served, listener, active, now)
        self._explain(served, members)
        news = [(one, event) for one, active in members if (event := self._event(served, one, active)) is not None]
        self._tell(news)

    def _start_over(self, served: ServedModel, error: Exception) -> None:
        """Everybody under way ends with the error; whoever waits goes on in a new scheduler."""
        _log_failure(error)
        old = self._schedulers[served.name]
        with self._lock:
            known = self._listeners[served.name]
            waiting = [(number, request) for number, request in old.waiting if number in known]
            kept = {number for number, _ in waiting}
            lost = [one for number, one in known.items() if number not in kept]
            self._schedulers[served.name] = new = served.new_scheduler()
            self._listeners[served.name] = {}
            for number, request in waiting:
                listener = known[number]
                (place,) = new.submit_all([request])
                listener.group.numbers[listener.index] = place
                self._listeners[served.name][place] = listener
        for _ in lost:
            self.metrics.ended(served.name, "error")
        self._tell([(one, Event(index=one.index, error=api_error(error))) for one in lost])

    def _clock(self, served: ServedModel, one: _Listener, active: ActiveRequest, now: float) -> None:
        """Note when what happened."""
        if one.admitted is None:
            one.admitted = now
            self.metrics.admitted(served.name, now - one.submitted)
        if one.thinking_end is None and not active.thinking and active.cursor >= active.end:
            one.thinking_end = now
            if active.row.latents:
                self.metrics.thought(served.name, now - one.admitted)
        if (new := len(active.tokens) - one.tokens) > 0:
            if one.first_token is None:
                one.first_token = now
                self.metrics.spoke_first(served.name, now - one.submitted)
                new -= 1
            if new:
                self.metrics.spoke(served.name, (now - one.last_token) / new if one.tokens else 0.0, new)
            one.tokens, one.last_token = len(active.tokens), now

    def _explain(self, served: ServedModel, members: Sequence[tuple[_Listener, ActiveRequest]]) -> None:
        """Decode the thought groups that are whole by now: each as it comes where somebody watches, else all at the end."""
        size = served.model.method.latents_per_group
        parts: list[tuple[_Listener, Tensor, Tensor | None]] = []
        for one, active in members:
            if not one.group.explains or active.error is not None or (one.thinking_end is None and not one.group.streams):
                continue
            source = self._schedulers[served.name].source
            made = (active.row.latents if source is None else len(active.latents)) // size
            if made > len(one.thoughts):
                new = slice(len(one.thoughts) * size, made * size)
                latents_KD = latents_of(served.model.method.backbone, source, active)
                states_KD = torch.stack(active.states[new]) if len(active.states) >= made * size else None
                parts.append((one, latents_KD[new], states_KD))
        if not parts:
            return
        try:
            with served.model.lock:
                self._decode_thoughts(served, parts)
        except Exception as error:
            if len(parts) == 1:
                _log_failure(error)
                return
            for part in parts:
                with contextlib.suppress(Exception), served.model.lock:
                    self._decode_thoughts(served, [part])

    @staticmethod
    def _decode_thoughts(served: ServedModel, parts: Sequence[tuple[_Listener, Tensor, Tensor | None]]) -> None:
        latents_BKD = pad_sequence([latents for _, latents, _ in parts], batch_first=True)
        states = [states for *_, states in parts if states is not None]
        counts = [len(latents) for _, latents, _ in parts]
        trace = Trace(
            latents_BKD=latents_BKD,
            states_BKD=pad_sequence(states, batch_first=True) if len(states) == len(parts) else None,
            counts_B=torch.tensor(counts).numpy(),
            starts_B=torch.zeros(len(parts), dtype=torch.long).numpy(),
        )
        for (one, *_), steps in zip(parts, served.model.method.explain(trace), strict=True):
            one.thoughts.extend(steps)

    def _event(self, served: ServedModel, one: _Listener, active: ActiveRequest) -> Event | None:
        """What there is to tell about a request, if anything."""
        if active.error is not None:
            _log_failure(active.error)
            self.metrics.ended(served.name, "error")
            return Event(index=one.index, error=api_error(active.error))
        if not active.over and not one.group.streams:
            return None
        outcome = self._outcome(served, one, active) if active.over else None
        if outcome is None and active.text is not None:
            ready = active.text.ready
        else:
            ready = "" if outcome is None else outcome.text
        thoughts = tuple(one.thoughts[one.thoughts_told :])
        if outcome is None and len(ready) == one.text and not thoughts:
            return None
        until = len(active.spoken)
        event = Event(
            index=one.index,
            text=ready[one.text :],
            thoughts=thoughts,
            tokens=list(active.spoken[one.told : until]),
            logprobs=active.logprobs[one.told : until],
            outcome=outcome,
        )
        one.text, one.told, one.thoughts_told = len(ready), until, len(one.thoughts)
        return event

    def _outcome(self, served: ServedModel, one: _Listener, active: ActiveRequest) -> Outcome:
        reason = active.finish_reason
        assert reason in ("stop", "length")
        backbone = served.model.method.backbone
        spoken = list(active.spoken)
        text = backbone.decode(spoken) if active.text is None else active.text.whole(spoken)
        now = time.perf_counter()
        self.metrics.finished(
            served.name,
            reason,
            seconds=now - one.submitted,
            prompt=len(active.row.ids) - active.row.latents,
            tokens=len(active.tokens) - active.soft_steps,
            latents=active.latents_made,
        )
        source = self._schedulers[served.name].source
        return Outcome(
            text=text,
            tokens=list(active.tokens),
            spoken=spoken,
            latents=active.latents_made,
            soft=active.soft_steps,
            passes=active.passes,
            finish_reason=reason,
            stop_reason=active.stop_reason,
            logprobs=active.logprobs[: len(spoken)],
            thoughts=tuple(one.thoughts) if one.group.explains else None,
            latents_KD=latents_of(backbone, source, active)[: active.latents_made].cpu() if active.request.keep else None,
        )

    @staticmethod
    def _tell(news: Sequence[tuple[_Listener, Event]]) -> None:
        """Hand events over to the loops of whoever waits."""
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Group, Event]]] = {}
        for one, event in news:
            loops.setdefault(one.group.loop, []).append((one.group, event))
        for loop, events in loops.items():
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(_deliver, events)


def _deliver(events: Sequence[tuple[Group, Event]]) -> None:
    for group, event in events:
        group.news.put_nowait(event)


def _log_failure(error: BaseException) -> None:
    """What a request failed by and where; never what it said."""
    at = traceback.extract_tb(error.__traceback__)
    where = f" at {at[-1].filename}:{at[-1].lineno}" if at else ""
    print(f"error: a request failed: {type(error).__name__}{where}", file=sys.stderr, flush=True)
