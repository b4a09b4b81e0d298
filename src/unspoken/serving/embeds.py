"""Prompt embeddings: questions in, the requests of a stock engine out, or that engine's answers to them.

For runs whose thoughts are all known before the first pass: an engine that takes prompt embeddings (vLLM:
`--enable-prompt-embeds`) then serves the base model as it is.

    POST /v1/prompt_embeds    {"prompt": question, ...} -> the body to send to an engine
    POST /v1/completions      the same, sent to `engine`, whose answer comes back as it is

Fields besides `prompt`: `latents`, `chains`, `samples` are ours, all others those of vLLM's completions API. Where answers
are drawn from several sets of thoughts, each set is a request of its own with its own seed: the first place then gives a
list of bodies, the second puts the answers together.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from unspoken.core.checks import shown, spoken
from unspoken.core.config import build, config_class
from unspoken.errors import ConfigError, DataError, OverloadError
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


def engine_url(text: str) -> str:
    """The base URL of an engine's API, checked.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query + parts.fragment
        right = right and text.isascii() and text.isprintable() and " " not in text
    except ValueError:  # a port that is none
        right = False
    if not right:
        raise ConfigError(f"the engine must be the base URL of an API, e.g. http://localhost:8000/v1; got {shown(text)}")
    return text.rstrip("/")


class EmbedsService:
    """Makes prompt embeddings for one model, and asks the engine that serves it.

    Args:
        embedder: what makes them.
        engine: base URL of an engine's API, e.g. http://localhost:8000/v1; None = prompt embeddings only.
        timeout: seconds to wait for the engine.
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
        self.embedder, self.wait, self._within = embedder, timeout, within
        self.engine = None if engine is None else engine_url(engine)
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
        if asked.get("stream") is True:
            raise DataError("streamed answers are not passed on; leave 'stream' out")
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

    def ask(self, bodies: Sequence[Mapping[str, object]]) -> tuple[int, bytes]:
        """Status and answer of the engine; of several requests, the answers as one."""
        if len(bodies) == 1:
            return self._ask(bodies[0])
        with ThreadPoolExecutor(min(len(bodies), 32)) as pool:
            answers = list(pool.map(self._ask, bodies))
        if bad := next((answer for answer in answers if answer[0] != 200), None):
            return bad
        try:
            return 200, json.dumps(_together([json.loads(text) for _, text in answers])).encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return 502, _fault(f"the engine at {self.engine} answered in a way that is not understood: {error!r:.200}")

    def _ask(self, body: Mapping[str, object]) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"{self.engine}/completions", data=json.dumps(body).encode("utf-8"), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.wait) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:  # the engine's own words
            with contextlib.suppress(OSError):
                return error.code, error.read()
            return 502, _fault(f"the engine at {self.engine} broke off")
        except Exception as error:  # what comes over the wire may be anything
            return 502, _fault(f"no answer from the engine at {self.engine}: {error}; start it with --enable-prompt-embeds")


def _together(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Several answers as one: all choices, numbered through, and what they used."""
    choices = [choice for answer in answers for choice in answer["choices"]]
    whole = {**answers[0], "choices": [{**choice, "index": number} for number, choice in enumerate(choices)]}
    if used := [answer["usage"] for answer in answers if isinstance(answer.get("usage"), dict)]:
        counted = {name for one in used for name, value in one.items() if isinstance(value, int)}
        whole["usage"] = {**used[0], **{name: sum(one.get(name) or 0 for one in used) for name in sorted(counted)}}
    return whole


def _fault(message: str) -> bytes:
    """An error as the API writes it."""
    return json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": "bad_gateway"}}).encode(
        "utf-8"
    )
