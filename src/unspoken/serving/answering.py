"""From requests that were read to the answer, whole or as a stream, and who waits for it.

What is done here is done for every piece of a stream, so nothing stands between it and the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from unspoken.core.engine.requests import Request as Answering
from unspoken.errors import ConfigError, UnspokenError
from unspoken.serving.engine import Event, Group
from unspoken.serving.errors import ApiError, Gone, api_error
from unspoken.serving.models import ServedModel
from unspoken.serving.protocol import Asked
from unspoken.serving.replies import Reply
from unspoken.serving.service import Service, said

UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Headers of a stream, for the proxies in between."""

GONE = 499
"""The status that logs show for whoever has left before the answer."""


class Caller:
    """Whoever waits for an answer. `close` it when there is one.

    Args:
        receive: what ASGI hands on, after the body.

    Attributes:
        gone: they have hung up.
        when_gone: called when they do.
    """

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self.when_gone: Callable[[], None] = lambda: None
        self._watch = asyncio.ensure_future(self._wait(receive))

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.when_gone()

    def check(self) -> None:
        """See that they are there, before something is done for them.

        Raises:
            Gone: they are not.
        """
        if self.gone:
            raise Gone

    def close(self) -> None:
        """Nobody waits any more."""
        self._watch.cancel()


class EventStream(Response):
    """Server-sent events as they come.

    Args:
        chunks: texts of them, each with whether more will come.
        over: called at the end, whatever ends it.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[tuple[str, bool]], over: Callable[[], None]) -> None:
        self.status_code, self.background = 200, None
        self.chunks, self.over = chunks, over
        self.init_headers(UNBUFFERED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for text, more in self.chunks:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
        except Gone:
            pass
        finally:
            self.over()


async def answered(
    service: Service,
    request: Request,
    served: ServedModel,
    asked: Asked,
    prepare: Callable[[], list[Answering]],
    reply: Callable[[Sequence[Answering]], Reply],
    param: str,
) -> Response:
    """Prepare requests, hand them to the engine, and its answers back: whole, or as a stream.

    Args:
        request: its body has been read.
        prepare: makes the requests.
        reply: how they are answered.
        param: the field that is wrong where preparing fails.

    Raises:
        ApiError: what is wrong with them.
    """
    caller = Caller(request.receive)
    streams = False
    try:
        requests = await _prepared(service, caller, prepare, len(await request.body()), param)
        response = await _answered(service, request.state.about, caller, served, asked, requests, reply(requests))
        streams = isinstance(response, EventStream)
        return response
    except Gone:
        return Response(status_code=GONE)
    finally:
        if not streams:
            caller.close()


async def _prepared(
    service: Service, caller: Caller, prepare: Callable[[], list[Answering]], size: int, param: str
) -> list[Answering]:
    def present() -> list[Answering]:
        caller.check()  # there may have been many before it
        return prepare()

    service.check_open()
    try:
        requests = await service.prepare(present, size)
    except ConfigError as error:
        raise api_error(error, "latents" if "latents" in str(error) else None) from None
    except UnspokenError as error:
        raise api_error(error, param) from None
    caller.check()
    return requests


async def _answered(
    service: Service,
    about: dict[str, object],
    caller: Caller,
    served: ServedModel,
    asked: Asked,
    requests: Sequence[Answering],
    reply: Reply,
) -> Response:
    explains = served.model.explains and asked.show_thoughts is not False
    loop = asyncio.get_running_loop()
    group = Group(loop, len(requests), streams=asked.stream, explains=explains)
    service.check_open()
    service.engine.submit(served, requests, group)
    about["model"] = served.name
    timer = None
    if service.deadline is not None:
        late = ApiError(504, f"no answer within {service.deadline:g} seconds, the server's deadline; ask for less")
        timer = loop.call_later(service.deadline, group.news.put_nowait, Event(index=0, error=late))

    def gone() -> None:
        service.engine.cancel(group)
        group.news.put_nowait(Event(index=0, error=Gone()))

    def over() -> None:
        caller.close()
        service.engine.cancel(group)
        if timer is not None:
            timer.cancel()
        about.update(tokens=reply.tokens, latents=reply.latents)

    caller.when_gone = gone
    if asked.stream:
        return EventStream(reply.chunks(group), over)
    try:
        return said(reply.whole(await group.outcomes()))
    finally:
        over()
