"""The HTTP interface: OpenAI's completions and chat completions, health, metrics, and what is our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

import unspoken
from unspoken.core.engine.requests import Request as Answering
from unspoken.errors import ConfigError, UnspokenError
from unspoken.serving.embeds import EmbedsRequest, EngineAnswer
from unspoken.serving.engine import Event, Group
from unspoken.serving.errors import DICE, ApiError, api_error
from unspoken.serving.models import ServedModel
from unspoken.serving.protocol import Asked, ChatRequest, CompletionRequest, parse, prompts_of, question_of
from unspoken.serving.replies import ChatReply, CompletionReply, Reply
from unspoken.serving.service import ERRORS, Service, json_of, request_body, said
from unspoken.serving.watching import add_page

T = TypeVar("T")

UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers of a stream, for the proxies in between."""

GONE = 499
"""The status that logs show for whoever has left before the answer."""


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
        chunks = _until_over(reply.chunks(group), over)
        return StreamingResponse(chunks, media_type="text/event-stream", headers=UNBUFFERED)
    try:
        outcomes = await _unless_gone(request, group.outcomes())
        if outcomes is None:
            return Response(status_code=GONE)
        return said(reply.whole(outcomes))
    finally:
        over()


async def _passed_on(request: Request, asking: Coroutine[object, object, EngineAnswer]) -> Response:
    """The answer of an engine elsewhere as it is, whole or as a stream."""
    answer = await _unless_gone(request, asking)
    if answer is None:
        return Response(status_code=GONE)
    if isinstance(answer.body, bytes):
        return Response(answer.body, answer.status, media_type=answer.kind)
    return StreamingResponse(answer.body, answer.status, UNBUFFERED, media_type=answer.kind)


async def _until_over(chunks: AsyncIterator[str], over: Callable[[], None]) -> AsyncIterator[str]:
    """Hand chunks on; whatever ends it, whoever listens included, ends what is left of the answers."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        over()


async def _unless_gone(request: Request, work: Coroutine[object, object, T]) -> T | None:
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


def create_app(service: Service) -> FastAPI:
    """The application of a service; its engine must have been started."""
    app = FastAPI(
        title="unspoken", version=unspoken.__version__, docs_url=None, redoc_url=None, lifespan=None,
        description="Language models that reason in latent space, behind OpenAI's API.",
    )  # fmt: skip
    _add_errors(app)
    _add_answers(app, service)
    _add_about(app, service)
    add_page(app, service)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    """What answers questions."""

    @app.post("/v1/completions", openapi_extra=request_body(CompletionRequest), responses=ERRORS, response_model=None)
    async def completions(request: Request) -> Response:
        """Answers to prompts: texts, or token ids, which are spelt."""
        body = await json_of(request)
        named = body.get("model") if isinstance(body, dict) else None
        name = service.name(named if isinstance(named, str) else None)
        if (embeds := service.embeds.get(name)) is not None and embeds.engine is not None:
            bodies = await service.beside(lambda: embeds.bodies(body))
            return await _passed_on(request, embeds.ask(bodies))
        asked = parse(CompletionRequest, body)
        served = service.model(asked.model)

        def prepare() -> list[Answering]:
            prompts = prompts_of(asked)
            texts = [served.text_of(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
            return served.requests(texts, asked, seed=DICE.getrandbits(32), logprobs=asked.logprobs)

        requests = await _prepared(service, prepare, "prompt")
        reply = CompletionReply(logprobs=asked.logprobs is not None, **_reply(served, asked, requests))
        return await _answer(service, request, asked, served, reply, requests)

    @app.post("/v1/chat/completions", openapi_extra=request_body(ChatRequest), responses=ERRORS, response_model=None)
    async def chat(request: Request) -> Response:
        """An answer to the user's message; thoughts are in `reasoning`."""
        asked = parse(ChatRequest, await json_of(request))
        served = service.model(asked.model)
        question = question_of(asked)
        how: dict[str, Any] = {"max_tokens": asked.max_completion_tokens, "effort": asked.reasoning_effort}
        how["logprobs"] = (asked.top_logprobs or 0) if asked.logprobs else None
        seed = DICE.getrandbits(32)
        requests = await _prepared(service, lambda: served.requests([question], asked, seed=seed, **how), "messages")
        reply = ChatReply(logprobs=asked.logprobs, **_reply(served, asked, requests))
        return await _answer(service, request, asked, served, reply, requests)

    @app.post("/v1/prompt_embeds", openapi_extra=request_body(EmbedsRequest), responses=ERRORS, response_model=None)
    async def prompt_embeds(request: Request) -> Response:
        """The request that makes a stock engine answer with this run's thoughts."""
        body = await json_of(request)
        named = body.get("model") if isinstance(body, dict) else None
        embeds = service.embeds.get(name := service.name(named if isinstance(named, str) else None))
        if embeds is None:
            raise ApiError(400, f"the thoughts of {name} come out of the base model itself, so no engine can be given them")
        bodies = await service.beside(lambda: embeds.bodies(body))
        return said(bodies[0] if len(bodies) == 1 else bodies)


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
        return said({"status": "ok" if well else "the engine does not run", "models": service.names}, 200 if well else 503)

    @app.get("/ready", response_model=None)
    async def ready() -> Response:
        """Whether it takes requests."""
        service.check_open()
        return said({"status": "ready"})

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
