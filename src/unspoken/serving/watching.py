"""What the page at / is made of: itself, the problems that it offers, and latents to touch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from unspoken.core.loop.edits import Edit
from unspoken.errors import UnspokenError
from unspoken.pages.watch import page
from unspoken.runs.directory import RunDir
from unspoken.serving.engine import Group, Outcome
from unspoken.serving.errors import ApiError, api_error
from unspoken.serving.models import ServedModel
from unspoken.serving.protocol import CompletionRequest, parse
from unspoken.serving.service import ERRORS, Service, json_of, request_body, said
from unspoken.serving.touch import TouchRequest, told, touched
from unspoken.tasks import make_task

PROBLEMS = 12
"""Example problems that the page offers."""


def add_page(app: FastAPI, service: Service) -> None:
    """The page, and what only it asks for."""

    @app.get("/", response_model=None, include_in_schema=False)
    async def watch() -> Response:
        """The page."""
        text, policy = page([about(served) for served in service.models])
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/inspect/{name}", response_model=None, include_in_schema=False)
    async def inspection(name: str) -> Response:
        """What `unspoken inspect` found in the run."""
        if (file := _inspection(service.model(name))) is None:
            raise ApiError(404, f"there is no page about {name}; run `unspoken inspect` on it")
        return HTMLResponse(await asyncio.to_thread(file.read_bytes))

    @app.get("/v1/problems/{name}", response_model=None, responses=ERRORS)
    async def problems(name: str) -> dict[str, Any]:
        """Problems of the run's task."""
        served = service.model(name)
        return {"problems": await service.prepare(lambda: list(_problems(served.model.path)))}

    @app.post("/v1/thoughts", response_model=None, responses=ERRORS, openapi_extra=request_body(TouchRequest))
    async def thoughts(request: Request) -> Response:
        """A question's latents, one of them changed if that is asked for, and the answer."""
        asked = parse(TouchRequest, await json_of(request))
        served = service.model(asked.model)
        try:
            outcome = await touched(_asking(service, served, asked.max_tokens), asked)
        except UnspokenError as error:
            raise api_error(error, "question") from None
        return said(await asyncio.wrap_future(service.engine.call(lambda: told(served, outcome))))


def about(served: ServedModel) -> dict[str, Any]:
    """What the page says of a model."""
    model = served.model
    return {
        "name": served.name,
        "method": model.method.config.name,
        "latents": served.latents,
        "explains": model.explains,
        "inspected": _inspection(served) is not None,
    }


def _asking(service: Service, served: ServedModel, max_tokens: int | None) -> Callable[..., Any]:
    """One greedy answer at a time, with its latents kept."""

    async def ask(question: str, latents: int | None = None, edit: Edit | None = None) -> Outcome:
        asked = CompletionRequest(prompt=question, temperature=0.0, latents=latents, max_tokens=max_tokens)
        service.check_open()
        how: dict[str, Any] = {"seed": 0, "edit": edit, "keep": True}
        requests = await service.prepare(lambda: served.requests([question], asked, **how))
        group = Group(asyncio.get_running_loop(), 1, streams=False, explains=served.model.explains)
        try:
            service.engine.submit(served, requests, group)
            return (await group.outcomes())[0]
        finally:
            service.engine.cancel(group)

    return ask


def _inspection(served: ServedModel) -> Path | None:
    """The page that `unspoken inspect` wrote beside the run, the newest where there are several."""
    if served.model.path is None or not Path(served.model.path).is_dir():
        return None
    pages = sorted(Path(served.model.path).glob("inspect-*/*.html"), key=lambda file: file.stat().st_mtime)
    return pages[-1] if pages else None


@cache
def _problems(path: str | None) -> tuple[str, ...]:
    """Questions of the test problems of a run's task; none where they cannot be had here."""
    if path is None:
        return ()
    try:
        return tuple(example.question for example in make_task(RunDir(path).config().task).examples("test")[:PROBLEMS])
    except (UnspokenError, OSError):
        return ()
