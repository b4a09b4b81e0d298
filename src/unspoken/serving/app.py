"""The HTTP interface: OpenAI's completions and chat completions, health, metrics, and what is our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

import unspoken
from unspoken.core.checks import parse_json
from unspoken.core.engine.requests import Request as Answering
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.errors import ConfigError, UnspokenError, did_you_mean
from unspoken.exporters.prompt_embeds import PromptEmbedder
from unspoken.serving.embeds import EmbedsRequest, EmbedsService
from unspoken.serving.engine import Engine, Event, Group
from unspoken.serving.errors import DICE, ApiError, api_error
from unspoken.serving.metrics import Metrics
from unspoken.serving.models import ServedModel
from unspoken.serving.protocol import Asked, ChatRequest, CompletionRequest, parse, prompts_of, question_of, schema
from unspoken.serving.replies import ChatReply, CompletionReply, Reply

T = TypeVar("T")

GONE = 499
"""The status that logs show for whoever has left before the answer."""

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "error", "content": {"application/json": {}}}
    for status in (400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 503, 504)
}


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
        self._one = ThreadPoolExecutor(1, thread_name_prefix="prompts")  # tokenizers are not for two threads at once
        self._many = ThreadPoolExecutor(256, thread_name_prefix="engines")  # each waits for an engine elsewhere

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

    async def prepare(self, work: Callable[[], T]) -> T:
        """Do something with tokenizers, one at a time, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._one, work)

    async def beside(self, work: Callable[[], T]) -> T:
        """Do something that mostly waits, many at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._many, work)

    def close(self) -> None:
        """Nothing is asked any more."""
        self.engine.stop()
        for pool in (self._one, self._many):
            pool.shutdown(wait=False, cancel_futures=True)


async def _json(request: Request) -> Any:
    """The body of a request.

    Raises:
        ApiError: 400, it is no JSON.
    """
    try:
        return parse_json((await request.body()).decode("utf-8"))
    except ValueError as error:
        raise ApiError(400, f"the request is not JSON that can be read: {error}") from None


async def _answer(
    service: Service, request: Request, asked: Asked, served: ServedModel, reply: Reply, requests: Sequence[Answering]
) -> Response:
    """Hand requests to the engine, and its answers back: whole, or as a stream."""
    explains = served.model.explains and asked.show_thoughts is not False
    loop = asyncio.get_running_loop()
    group = Group(loop, len(requests), streams=asked.stream, explains=explains)
    service.check_open()
    service.engine.submit(served, requests, group)
    about = request.state.about
    about["model"] = served.name
    timer = None
    if service.deadline is not None:
        late = ApiError(504, f"no answer within {service.deadline:g} seconds, the server's deadline; ask for less")
        timer = loop.call_later(service.deadline, group.news.put_nowait, Event(index=0, error=late))

    def over() -> None:
        service.engine.cancel(group)
        if timer is not None:
            timer.cancel()
        about.update(tokens=reply.tokens, latents=reply.latents)

    if asked.stream:
        how = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_until_over(reply.chunks(group), over), media_type="text/event-stream", headers=how)
    try:
        outcomes = await _unless_gone(request, group.outcomes())
        if outcomes is None:
            return Response(status_code=GONE)
        return _said(reply.whole(outcomes))
    finally:
        over()


async def _until_over(chunks: AsyncIterator[str], over: Callable[[], None]) -> AsyncIterator[str]:
    """Hand chunks on; whatever ends it, whoever listens included, ends what is left of the answers."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        over()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes out of some work; None where whoever asked for it leaves before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


def _said(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status, media_type="application/json")


def create_app(service: Service) -> FastAPI:
    """The application of a service; its engine must have been started."""
    app = FastAPI(
        title="unspoken", version=unspoken.__version__, docs_url=None, redoc_url=None, lifespan=None,
        description="Language models that reason in latent space, behind OpenAI's API.",
    )  # fmt: skip
    _add_errors(app)
    _add_answers(app, service)
    _add_about(app, service)
    return app


def _body_of(kind: type) -> dict[str, Any]:
    """What the OpenAPI document says of a request's body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema(kind)}}}}


def _add_answers(app: FastAPI, service: Service) -> None:
    """What answers questions."""

    @app.post("/v1/completions", openapi_extra=_body_of(CompletionRequest), responses=ERRORS, response_model=None)
    async def completions(request: Request) -> Response:
        """Answers to prompts: texts, or token ids, which are spelt."""
        body = await _json(request)
        named = body.get("model") if isinstance(body, dict) else None
        name = service.name(named if isinstance(named, str) else None)
        if (embeds := service.embeds.get(name)) is not None and embeds.engine is not None:
            bodies = await service.beside(lambda: embeds.bodies(body))
            status, answer = await service.beside(lambda: embeds.ask(bodies))
            return Response(answer, status, media_type="application/json")
        asked = parse(CompletionRequest, body)
        served = service.model(asked.model)

        def prepare() -> list[Answering]:
            prompts = prompts_of(asked)
            texts = [served.text_of(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
            return served.requests(texts, asked, seed=DICE.getrandbits(32), logprobs=asked.logprobs)

        requests = await _prepared(service, prepare, "prompt")
        reply = CompletionReply(logprobs=asked.logprobs is not None, **_reply(served, asked, requests))
        return await _answer(service, request, asked, served, reply, requests)

    @app.post("/v1/chat/completions", openapi_extra=_body_of(ChatRequest), responses=ERRORS, response_model=None)
    async def chat(request: Request) -> Response:
        """An answer to the user's message; thoughts are in `reasoning`."""
        asked = parse(ChatRequest, await _json(request))
        served = service.model(asked.model)
        question = question_of(asked)
        how: dict[str, Any] = {"max_tokens": asked.max_completion_tokens, "effort": asked.reasoning_effort}
        how["logprobs"] = (asked.top_logprobs or 0) if asked.logprobs else None
        seed = DICE.getrandbits(32)
        requests = await _prepared(service, lambda: served.requests([question], asked, seed=seed, **how), "messages")
        reply = ChatReply(logprobs=asked.logprobs, **_reply(served, asked, requests))
        return await _answer(service, request, asked, served, reply, requests)

    @app.post("/v1/prompt_embeds", openapi_extra=_body_of(EmbedsRequest), responses=ERRORS, response_model=None)
    async def prompt_embeds(request: Request) -> Response:
        """The request that makes a stock engine answer with this run's thoughts."""
        body = await _json(request)
        named = body.get("model") if isinstance(body, dict) else None
        embeds = service.embeds.get(name := service.name(named if isinstance(named, str) else None))
        if embeds is None:
            raise ApiError(400, f"the thoughts of {name} come out of the base model itself, so no engine can be given them")
        bodies = await service.beside(lambda: embeds.bodies(body))
        return _said(bodies[0] if len(bodies) == 1 else bodies)


async def _prepared(service: Service, prepare: Callable[[], list[Answering]], param: str) -> list[Answering]:
    """The requests of a call.

    Raises:
        ApiError: what is wrong with it.
    """
    service.check_open()
    try:
        return await service.prepare(prepare)
    except ConfigError as error:
        raise api_error(error, "latents" if "latents" in str(error) else None) from None
    except UnspokenError as error:
        raise api_error(error, param) from None


def _reply(served: ServedModel, asked: Asked, requests: Sequence[Answering]) -> dict[str, Any]:
    rows = {id(one.row): one.row for one in requests}.values()
    return {
        "model": asked.model or served.name,
        "prompt_tokens": sum(len(row.ids) - row.latents for row in rows),
        "decode": lambda tokens: served.model.method.backbone.tokenizer.decode(list(tokens)),
        "usage_at_end": asked.usage_at_end,
    }


def _add_about(app: FastAPI, service: Service) -> None:
    """What tells about the server."""

    @app.get("/v1/models", response_model=None)
    async def models() -> dict[str, Any]:
        """What is served."""
        return {"object": "list", "data": [_card(service, name) for name in service.names]}

    @app.get("/v1/models/{name:path}", responses=ERRORS, response_model=None)
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        return _card(service, service.name(name))

    @app.get("/health", response_model=None)
    async def health() -> Response:
        """Whether the process is well; also while it stops."""
        well = service.engine.alive or not service.models
        return _said({"status": "ok" if well else "the engine does not run", "models": service.names}, 200 if well else 503)

    @app.get("/ready", response_model=None)
    async def ready() -> Response:
        """Whether it takes requests."""
        service.check_open()
        return _said({"status": "ready"})

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """For Prometheus."""
        for served in service.models:
            service.metrics.state(served.name, service.engine.scheduler(served))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/version", response_model=None)
    async def version() -> dict[str, str]:
        """Of unspoken."""
        return {"version": unspoken.__version__}


def _card(service: Service, name: str) -> dict[str, Any]:
    """A model as /v1/models lists it."""
    served = next((one for one in service.models if one.name == name), None)
    card: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "unspoken"}
    if served is None:
        return card
    model = served.model
    return {
        **card,
        "created": served.created,
        "root": model.path,
        "max_model_len": served.context,
        "method": model.method.config.name,
        "latents": served.latents,
        "chains": model.chains,
        "explains": model.explains,
    }


def _add_errors(app: FastAPI) -> None:
    """Every error in one form."""

    async def known(request: Request, error: Exception) -> Response:
        found = api_error(error)
        return JSONResponse(found.body, found.status, found.headers)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: f"nothing at {request.url.path:.80}; see /openapi.json", 405: f"not by {request.method} here"}
        found = ApiError(error.status_code, words.get(error.status_code, str(error.detail)))
        return JSONResponse(found.body, found.status, {**found.headers, **(error.headers or {})})

    app.add_exception_handler(HTTPException, of_http)
    for kind in (ApiError, UnspokenError, Exception):
        app.add_exception_handler(kind, known)
