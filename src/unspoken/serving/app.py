"""The HTTP interface: OpenAI's completions and chat completions, health, metrics, and what is our own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import unspoken
from unspoken.core.engine.requests import Request as Answering
from unspoken.errors import UnspokenError
from unspoken.serving.answering import GONE, UNBUFFERED, answered
from unspoken.serving.embeds import EmbedsRequest, EngineAnswer
from unspoken.serving.errors import DICE, ApiError, api_error
from unspoken.serving.models import ServedModel
from unspoken.serving.protocol import Asked, ChatRequest, CompletionRequest, parse, prompts_of, question_of
from unspoken.serving.replies import ChatReply, CompletionReply, Reply
from unspoken.serving.service import ERRORS, Service, json_of, request_body, said
from unspoken.serving.watching import add_page

T = TypeVar("T")
R = TypeVar("R", bound=Reply)

Endpoint = Callable[[Request], Awaitable[Response]]


class App(FastAPI):
    """Calls that are `direct` go past the framework's layers, which cost a short answer more than all else; `Guard` says
    what is wrong with them. They are routes nevertheless, which the OpenAPI document shows."""

    direct: dict[str, Endpoint]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["method"] == "POST" and (to := self.direct.get(scope["path"])) is not None:
            response = await to(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _passed_on(request: Request, asking: Coroutine[object, object, EngineAnswer]) -> Response:
    """The answer of an engine elsewhere as it is, whole or as a stream."""
    answer = await _unless_gone(request, asking)
    if answer is None:
        return Response(status_code=GONE)
    if isinstance(answer.body, bytes):
        return Response(answer.body, answer.status, media_type=answer.kind)
    return StreamingResponse(answer.body, answer.status, UNBUFFERED, media_type=answer.kind)


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


def create_app(service: Service) -> App:
    """The application of a service; its engine must have been started."""
    app = App(
        title="unspoken", version=unspoken.__version__, docs_url=None, redoc_url=None, lifespan=None,
        description="Language models that reason in latent space, behind OpenAI's API.",
    )  # fmt: skip
    _add_errors(app)
    app.direct = _add_answers(app, service)
    _add_about(app, service)
    add_page(app, service)
    return app


def _add_answers(app: FastAPI, service: Service) -> dict[str, Endpoint]:
    """What answers questions; returns what is asked most, by its path."""

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

        reply = partial(_reply, CompletionReply, served, asked, asked.logprobs is not None)
        return await answered(service, request, served, asked, prepare, reply, "prompt")

    @app.post("/v1/chat/completions", openapi_extra=request_body(ChatRequest), responses=ERRORS, response_model=None)
    async def chat(request: Request) -> Response:
        """An answer to the user's message; thoughts are in `reasoning`."""
        asked = parse(ChatRequest, await json_of(request))
        served = service.model(asked.model)
        question = question_of(asked)
        how: dict[str, Any] = {"max_tokens": asked.max_completion_tokens, "effort": asked.reasoning_effort}
        how["logprobs"] = (asked.top_logprobs or 0) if asked.logprobs else None
        prepare = partial(served.requests, [question], asked, seed=DICE.getrandbits(32), **how)
        reply = partial(_reply, ChatReply, served, asked, asked.logprobs)
        return await answered(service, request, served, asked, prepare, reply, "messages")

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

    return {"/v1/completions": completions, "/v1/chat/completions": chat}


def _reply(kind: type[R], served: ServedModel, asked: Asked, logprobs: bool, requests: Sequence[Answering]) -> R:
    rows = {id(one.row): one.row for one in requests}.values()
    return kind(
        model=asked.model or served.name,
        prompt_tokens=sum(len(row.ids) - row.latents for row in rows),
        decode=lambda tokens: served.model.method.backbone.tokenizer.decode(list(tokens)),
        usage_at_end=asked.usage_at_end,
        logprobs=logprobs,
    )


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
