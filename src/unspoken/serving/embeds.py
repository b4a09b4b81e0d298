"""Prompt embeddings: questions in, the requests of a stock engine out, or that engine's answers to them.

For runs whose thoughts are all known before the first pass: an engine that takes prompt embeddings (vLLM:
`--enable-prompt-embeds`) then serves the base model as it is.

    POST /v1/prompt_embeds    {"prompt": question, ...} -> the body to send to an engine
    POST /v1/completions      the same, sent to `engine`, whose answer comes back as it is

Fields besides `prompt`: `latents`, `chains`, `samples` are ours, all others those of vLLM's completions API. Where answers
are drawn from several sets of thoughts, each set is a request of its own with its own seed: the first place then gives a
list of bodies, the second puts the answers together, which are not streamed. A stream of one set comes back as the engine
sends it. Whoever hangs up hangs up on the engine too.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import httpx
from pydantic import Field

from unspoken.core.checks import api_url, shown, spoken
from unspoken.core.config import build, config_class
from unspoken.errors import DataError, OverloadError
from unspoken.exporters.prompt_embeds import PromptEmbedder
from unspoken.serving.protocol import Count, Flag, Logprobs, Positive, Seed, Some, Text, TokenId, Tokens, TopK, TopP

_Int = Annotated[int, Field(strict=True, ge=-(1 << 31), lt=1 << 31)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Above0 = Annotated[float, Field(strict=True, gt=0, le=1e3, allow_inf_nan=False)]
_Penalty = Annotated[float, Field(strict=True, ge=-2, le=2, allow_inf_nan=False)]
_Bias = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]


@config_class
class EmbedsRequest:
    """What may be asked. The bounds keep out what is certainly wrong; an engine has its own, which are narrower."""

    prompt: Text
    latents: Count | None = None
    chains: Some | None = None
    samples: Some | None = None

    model: Text | None = None
    stream: Flag | None = None
    stream_options: dict[str, Flag] | None = None
    user: Text | None = None
    max_tokens: Tokens | None = None
    min_tokens: Count | None = None
    temperature: Positive | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: _Share | None = None
    seed: Seed | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: _Above0 | None = None
    logprobs: Logprobs | None = None
    logit_bias: dict[str, _Bias] | None = None
    stop: Text | list[Text] | None = None
    stop_token_ids: list[TokenId] | None = None
    bad_words: list[Text] | None = None
    allowed_token_ids: list[TokenId] | None = None
    ignore_eos: Flag | None = None
    include_stop_str_in_output: Flag | None = None
    skip_special_tokens: Flag | None = None
    spaces_between_special_tokens: Flag | None = None
    return_tokens_as_token_ids: Flag | None = None
    return_token_ids: Flag | None = None
    priority: _Int | None = None
    cache_salt: Text | None = None
    request_id: Text | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class EngineAnswer:
    """What an engine said: its status, and its body, whole or as it comes."""

    status: int
    body: bytes | AsyncIterator[bytes]
    kind: str = "application/json"


class EmbedsService:
    """Makes prompt embeddings for one model, and asks the engine that serves it.

    Args:
        embedder: what makes them.
        engine: base URL of an engine's API, e.g. http://localhost:8000/v1; None = prompt embeddings only.
        timeout: seconds without a word from the engine after which it is given up.
        waiting: requests that may wait to be embedded, one at a time; those beyond are told to come back.
        within: does work where the models may be used; None = where it is asked for.

    Raises:
        ConfigError: the engine's URL is none.
    """

    def __init__(
        self,
        embedder: PromptEmbedder,
        *,
        engine: str | None = None,
        timeout: float = 600.0,
        waiting: int = 256,
        within: Callable[[Callable[[], Any]], Any] = lambda work: work(),
    ) -> None:
        self.embedder, self._within = embedder, within
        self.engine = None if engine is None else api_url(engine, "the engine")
        # No connection outlives its answer, so that there is none to close when the server stops.
        self._http = httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_keepalive_connections=0))
        self._one_at_a_time = threading.Lock()
        self._queue = threading.BoundedSemaphore(waiting)

    def bodies(self, asked: object) -> list[dict[str, Any]]:
        """The engine's requests for one of ours.

        Raises:
            DataError: it is no object with a text in `prompt`.
            ConfigError: a field that is not known or out of range; see `PromptEmbedder.requests`.
            OverloadError: too many wait.
        """
        if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), str):
            raise DataError(f"expected an object with a question as text in 'prompt', got {shown(asked, 80)}")
        question = spoken(asked["prompt"], "the question")
        given = build(EmbedsRequest, asked).given()
        del given["prompt"]
        given.pop("model", None)  # what the engine calls it is known here
        if not self._queue.acquire(blocking=False):
            raise OverloadError("too many requests wait already; try again in a moment")
        try:
            with self._one_at_a_time:
                return self._within(lambda: self.embedder.requests(question, **given))
        finally:
            self._queue.release()

    async def ask(self, bodies: Sequence[Mapping[str, object]]) -> EngineAnswer:
        """The engine's answer; of several requests, the answers as one. Cancelled, it hangs up.

        Raises:
            DataError: several requests are to be answered as one stream.
        """
        if len(bodies) == 1:
            return await self._stream(bodies[0]) if bodies[0].get("stream") else EngineAnswer(*await self._whole(bodies[0]))
        if any(body.get("stream") for body in bodies):
            raise DataError("answers to several sets of thoughts are not streamed; leave 'stream' out, or take chains 1")
        answers = await asyncio.gather(*map(self._whole, bodies))
        if bad := next((answer for answer in answers if answer[0] != 200), None):
            return EngineAnswer(*bad)
        try:
            whole = _together([json.loads(text) for _, text in answers])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            said = f"the engine at {self.engine} answered in a way that is not understood: {error!r:.200}"
            return EngineAnswer(502, _fault(said))
        return EngineAnswer(200, json.dumps(whole).encode("utf-8"))

    async def _send(self, body: Mapping[str, object]) -> httpx.Response:
        """The beginning of the engine's answer, to be closed by whoever reads the rest."""
        return await self._http.send(self._http.build_request("POST", f"{self.engine}/completions", json=body), stream=True)

    async def _whole(self, body: Mapping[str, object]) -> tuple[int, bytes]:
        """Status and answer."""
        try:
            response = await self._send(body)
            try:
                return response.status_code, await response.aread()  # an error in the engine's own words
            finally:
                await response.aclose()
        except Exception as error:  # what comes over the wire may be anything
            return 502, self._no_answer(error)

    async def _stream(self, body: Mapping[str, object]) -> EngineAnswer:
        try:
            response = await self._send(body)
        except Exception as error:
            return EngineAnswer(502, self._no_answer(error))
        kind = response.headers.get("Content-Type", "application/json")
        return EngineAnswer(response.status_code, self._passed_on(response), kind)

    async def _passed_on(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The rest of an answer; one that breaks off says so in its last event."""
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        except Exception as error:
            if "event-stream" not in response.headers.get("Content-Type", ""):
                raise
            yield b"data: " + _fault(f"the engine at {self.engine} broke off: {_words(error)}") + b"\n\n"
        finally:
            await response.aclose()

    def _no_answer(self, error: Exception) -> bytes:
        words = f"no answer from the engine at {self.engine}: {_words(error)}; start it with --enable-prompt-embeds"
        return _fault(words)


def _words(error: Exception) -> str:
    """What went wrong; some errors say their kind only."""
    return str(error) or type(error).__name__


def _together(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Several answers as one: all choices, numbered through, and what they used."""
    choices = [choice for answer in answers for choice in answer["choices"]]
    whole = {**answers[0], "choices": [{**choice, "index": number} for number, choice in enumerate(choices)]}
    if used := [answer["usage"] for answer in answers if isinstance(answer.get("usage"), dict)]:
        counted = {name for one in used for name, value in one.items() if isinstance(value, int)}
        whole["usage"] = {**used[0], **{name: sum(one.get(name) or 0 for one in used) for name in sorted(counted)}}
    return whole


def _fault(message: str) -> bytes:
    """An engine's fault as the API writes it."""
    error = {"message": message, "type": "server_error", "param": None, "code": "bad_gateway"}
    return json.dumps({"error": error}).encode("utf-8")
