"""What the application answers with: models, their engine, and who may do what in which thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request, Response

from unspoken.core.checks import parse_json
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.errors import did_you_mean
from unspoken.exporters.prompt_embeds import PromptEmbedder
from unspoken.serving.embeds import EmbedsService
from unspoken.serving.engine import Engine
from unspoken.serving.errors import ApiError
from unspoken.serving.metrics import Metrics
from unspoken.serving.models import ServedModel
from unspoken.serving.protocol import schema

T = TypeVar("T")

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "error", "content": {"application/json": {}}}
    for status in (400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 503, 504)
}

LONG = 2000
"""Bytes of a request that is no longer prepared in passing."""


@dataclass(kw_only=True)
class Service:
    """What the application answers with.

    Attributes:
        models: what is served, the first one where a call names none and there is no other.
        embeds: what turns questions into prompt embeddings, by the name of the model.
        deadline: seconds after which a call is given up; None = never.
        draining: it is stopping, and takes nothing new.
    """

    models: Sequence[ServedModel] = ()
    embeds: dict[str, EmbedsService] = field(default_factory=dict)
    deadline: float | None = None
    draining: bool = False

    def __post_init__(self) -> None:
        self.metrics = Metrics(served.name for served in self.models)
        self.engine = Engine(self.models, self.metrics)
        self._by_name = {served.name: served for served in self.models}
        for served in self.models:
            if isinstance(served.model.source, PrecomputedThoughts) and served.model.path is not None:
                embedder = PromptEmbedder.of_run(served.model)
                self.embeds[served.name] = EmbedsService(embedder, within=lambda work: self.engine.call(work).result())
        self._prompts = threading.Lock()  # tokenizers are not for two threads at once
        self._one = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._many = ThreadPoolExecutor(256, thread_name_prefix="embeds")  # each waits for its turn

    @property
    def names(self) -> list[str]:
        """Of all that is served."""
        return [*self._by_name, *(name for name in self.embeds if name not in self._by_name)]

    def name(self, asked: str | None) -> str:
        """The name of the model that a call is for.

        Raises:
            ApiError: 404, there is none of that name; 400, it names none and there are several.
        """
        names = self.names
        if asked is None and len(names) == 1:
            return names[0]
        if asked is None:
            raise ApiError(400, f"several models are served; name one of them in model: {', '.join(names)}", "model")
        if asked not in names:
            raise ApiError(
                404, f"the model {asked!r:.200} does not exist; {did_you_mean(asked, names)}", "model", "model_not_found"
            )
        return asked

    def model(self, asked: str | None) -> ServedModel:
        """The model that a call is for; see `name`.

        Raises:
            ApiError: 501, it only makes prompt embeddings here.
        """
        name = self.name(asked)
        if name not in self._by_name:
            raise ApiError(
                501, f"{name} only makes prompt embeddings here: POST /v1/prompt_embeds, or start with --engine URL"
            )
        return self._by_name[name]

    def check_open(self) -> None:
        """See that calls are taken.

        Raises:
            ApiError: 503, it is stopping, or nobody answers any more.
        """
        if self.draining:
            raise ApiError(503, "the server is stopping and takes nothing new; ask another one, or later", retry_after=2)
        if self.models and not self.engine.alive:
            raise ApiError(503, "the engine does not run; see the server's log", retry_after=5)

    async def prepare(self, work: Callable[[], T], size: int = LONG) -> T:
        """Do something with tokenizers, one at a time, beside the event loop.

        Args:
            work: is done.
            size: bytes that it reads. Few are read in the event loop: to hand them over would take it longer.
        """
        if size < LONG and self._prompts.acquire(blocking=False):
            try:
                return work()
            finally:
                self._prompts.release()

        def alone() -> T:
            with self._prompts:
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._one, alone)

    async def beside(self, work: Callable[[], T]) -> T:
        """Do something that mostly waits, many at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._many, work)

    def close(self) -> None:
        """Nothing is asked any more."""
        self.engine.stop()
        for pool in (self._one, self._many):
            pool.shutdown(wait=False, cancel_futures=True)


async def json_of(request: Request) -> Any:
    """The body of a request.

    Raises:
        ApiError: 400, it is no JSON.
    """
    try:
        return parse_json((await request.body()).decode("utf-8"))
    except ValueError as error:
        raise ApiError(400, f"the request is not JSON that can be read: {error}") from None


def said(body: object, status: int = 200) -> Response:
    """JSON as an answer."""
    return Response(json.dumps(body, ensure_ascii=False), status, media_type="application/json")


def request_body(kind: type) -> dict[str, Any]:
    """What the OpenAPI document says of a request's body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema(kind)}}}}
