"""Answers in the form of OpenAI's completions and chat completions, whole and as chunks of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from unspoken.core.engine.requests import TokenLogprobs
from unspoken.serving.engine import Event, Group, Outcome
from unspoken.serving.errors import ApiError, new_id

_JSON = json.JSONEncoder(ensure_ascii=False).encode

_FLOOR = -9999.0
"""Stands for the logarithm of nothing, which JSON cannot write."""


@dataclass(kw_only=True)
class Reply:
    """How one call is answered.

    Attributes:
        model: what the call named.
        prompt_tokens: of all its prompts.
        decode: token ids -> text.
        logprobs: whether they are told.
    """

    model: str
    prompt_tokens: int
    decode: Callable[[Sequence[int]], str]
    logprobs: bool = False
    usage_at_end: bool = False
    id: str = field(default_factory=new_id)
    created: int = field(default_factory=lambda: int(time.time()))
    tokens: int = field(default=0, init=False)  # spoken so far
    latents: int = field(default=0, init=False)
    _opening: str = field(default="", init=False)  # of every chunk

    prefix: ClassVar[str]
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    def whole(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """The answer to a call that is not a stream."""
        self._count(outcomes)
        choices = [self._choice(index, outcome) for index, outcome in enumerate(outcomes)]
        return {**self._head(self.object), "choices": choices, "usage": self.usage(outcomes)}

    async def chunks(self, group: Group) -> AsyncIterator[tuple[str, bool]]:
        """The answer as server-sent events, and whether more will come. An error of one answer ends the stream with an event
        that says so."""
        self._opening = f"{_JSON(self._head(self.chunk_object))[:-1]}, "
        outcomes: dict[int, Outcome] = {}
        ready: list[str] = []  # goes out in one piece, as far as it has happened: every piece costs a way through all layers
        try:
            ready.extend(self._sent(first) for first in self._first(group.size))
            offsets = [0] * group.size
            if ready:
                yield _taken(ready), True
            async for event in group.events():
                if (choice := self._delta(event, offsets)) is not None:
                    ready.append(self._sent(choice))
                if event.outcome is not None:
                    outcomes[event.index] = event.outcome
                    self._count([event.outcome])
                if ready and group.news.empty() and len(outcomes) < group.size:
                    yield _taken(ready), True
            if self.usage_at_end:
                usage = self.usage([outcomes[i] for i in range(group.size)])
                ready.append(_event(f'{self._opening}"choices": [], "usage": {_JSON(usage)}}}'))
        except ApiError as error:
            ready.append(_event(_JSON(error.body)))
        ready.append(_event("[DONE]"))
        yield _taken(ready), False

    def usage(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """What a call has cost: latents count as tokens of the completion, and beside them as reasoning."""
        latents = sum(outcome.latents for outcome in outcomes)
        said = sum(len(outcome.tokens) - outcome.soft for outcome in outcomes) + latents
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": said,
            "total_tokens": self.prompt_tokens + said,
            "completion_tokens_details": {"reasoning_tokens": latents},
            "forward_passes": sum(outcome.passes for outcome in outcomes),
        }

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        self.tokens += sum(len(one.tokens) - one.soft for one in outcomes)
        self.latents += sum(one.latents for one in outcomes)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"{self.prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _sent(self, choice: Mapping[str, object]) -> str:
        usage = ', "usage": null' if self.usage_at_end else ""
        return _event(f'{self._opening}"choices": [{_JSON(choice)}]{usage}}}')

    def _first(self, size: int) -> list[dict[str, Any]]:
        return []

    def _choice(self, index: int, outcome: Outcome) -> dict[str, Any]:
        raise NotImplementedError

    def _delta(self, event: Event, offsets: list[int]) -> dict[str, Any] | None:
        raise NotImplementedError


class CompletionReply(Reply):
    """Of `POST /v1/completions`."""

    prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"

    def _choice(self, index: int, outcome: Outcome) -> dict[str, Any]:
        thoughts = None if outcome.thoughts is None else list(outcome.thoughts)
        return {
            "index": index,
            "text": outcome.text,
            "logprobs": self._logprobs(outcome.spoken, outcome.logprobs, 0),
            "finish_reason": outcome.finish_reason,
            "stop_reason": outcome.stop_reason,
            "thoughts": thoughts,
        }

    def _delta(self, event: Event, offsets: list[int]) -> dict[str, Any]:
        outcome, offset = event.outcome, offsets[event.index]
        offsets[event.index] += sum(len(self.decode([token])) for token in event.tokens) if self.logprobs else 0
        return {
            "index": event.index,
            "text": event.text,
            "logprobs": self._logprobs(event.tokens, event.logprobs, offset),
            "finish_reason": None if outcome is None else outcome.finish_reason,
            "stop_reason": None if outcome is None else outcome.stop_reason,
            "thoughts": list(event.thoughts) or None,
        }

    def _logprobs(self, tokens: Sequence[int], told: Sequence[TokenLogprobs], offset: int) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        texts, offsets = [self.decode([token]) for token in tokens], []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        tops = []
        for text, one in zip(texts, told, strict=True):
            top = {self.decode([token]): _number(value) for token, value in reversed(one.top)}
            tops.append({**dict(reversed(top.items())), text: _number(one.logprob)} if one.top else None)
        return {
            "tokens": texts,
            "token_logprobs": [_number(one.logprob) for one in told],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


class ChatReply(Reply):
    """Of `POST /v1/chat/completions`. Thoughts are called both `reasoning` and `reasoning_content`: clients read either."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _first(self, size: int) -> list[dict[str, Any]]:
        self._reasoned = [False] * size
        return [
            {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            for i in range(size)
        ]

    def _choice(self, index: int, outcome: Outcome) -> dict[str, Any]:
        lines = _lines(outcome.thoughts) if outcome.thoughts else None
        message = {
            "role": "assistant",
            "content": outcome.text,
            "refusal": None,
            "reasoning": lines,
            "reasoning_content": lines,
        }
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(outcome.spoken, outcome.logprobs),
            "finish_reason": outcome.finish_reason,
            "stop_reason": outcome.stop_reason,
        }

    def _delta(self, event: Event, offsets: list[int]) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if event.thoughts:
            lines = ("\n" if self._reasoned[event.index] else "") + _lines(event.thoughts)
            self._reasoned[event.index] = True
            delta = {"reasoning": lines, "reasoning_content": lines}
        if event.text:
            delta["content"] = event.text
        outcome = event.outcome
        return {
            "index": event.index,
            "delta": delta,
            "logprobs": self._logprobs(event.tokens, event.logprobs),
            "finish_reason": None if outcome is None else outcome.finish_reason,
            "stop_reason": None if outcome is None else outcome.stop_reason,
        }

    def _logprobs(self, tokens: Sequence[int], told: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [
            {**self._token(token, one.logprob), "top_logprobs": [self._token(*pair) for pair in one.top]}
            for token, one in zip(tokens, told, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.decode([token])
        return {"token": text, "logprob": _number(logprob), "bytes": list(text.encode())}


def _lines(thoughts: Sequence[str]) -> str:
    """One step a line."""
    return "\n".join(" ".join(step.split("\n")) for step in thoughts)


def _taken(ready: list[str]) -> str:
    """All that is ready, as one piece, and nothing is left."""
    piece = "".join(ready)
    ready.clear()
    return piece


def _number(value: float) -> float:
    return value if value > _FLOOR else _FLOOR


def _event(data: str) -> str:
    return f"data: {data}\n\n"
