"""What stands in front of the application: who may ask, how large and how slowly, and one line of log per request.

Pure ASGI, so that a stream passes through untouched. Questions and answers are not logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import ipaddress
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from unspoken.serving.errors import ApiError, Gone, api_error, new_id
from unspoken.serving.protocol import LONGEST

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
Log = Callable[[Mapping[str, object]], None]

SENDING = 20.0
"""Seconds in which a request must have arrived."""

QUIET = ("/health", "/ready", "/metrics")
"""Asked every few seconds by machines; not logged while all is well."""


class Guard:
    """Wraps an application.

    Args:
        app: what answers.
        key: what clients must send as `Authorization: Bearer KEY` to everything under /v1; None = nothing.
        local: it listens on this machine only: then it answers no other names, so that no web page leads a browser here.
        log: called with what is known of each request when it is over; None = nobody.
    """

    def __init__(self, app: Application, *, key: str | None = None, local: bool = True, log: Log | None = None) -> None:
        self.app, self.key, self.local, self.log = app, key, local, log

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
                return
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        number = re.sub(r"[^\w.:-]", "", headers.get("x-request-id", ""))[:128] or new_id()
        about: dict[str, Any] = {"id": number, "method": scope["method"], "path": scope["path"]}
        scope["state"] = {**scope.get("state", {}), "about": about}
        began, status = time.perf_counter(), 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", number.encode())]
            await send(message)

        try:
            self._admit(scope, headers)
            taken = await _body(receive, headers) if scope["method"] not in ("GET", "HEAD") else receive
            await self.app(scope, taken, numbered)
        except Gone:
            status = status or 499
        except Exception as error:
            known = api_error(error)
            if known.status == 500:
                print(
                    f"error: request {number} failed: {type(error).__name__}: {_place(error)}", file=sys.stderr, flush=True
                )
            if known.status == 413:
                await _discard(receive)
            if not status:
                with contextlib.suppress(OSError):
                    await _say(numbered, known)
        finally:
            if self.log is not None and (scope["path"] not in QUIET or status >= 400):
                about |= {"status": status, "ms": round(1000 * (time.perf_counter() - began), 1)}
                self.log(about)

    def _admit(self, scope: Message, headers: dict[str, str]) -> None:
        """Refuse what another site makes a browser send, a name that leads here from outside, and who has no key.

        Raises:
            ApiError: says why.
        """
        host, origin = headers.get("host"), headers.get("origin")
        if self.local and host is not None and not _loopback(_name(f"//{host}")):
            raise ApiError(403, f"this server answers this machine only, got the name {host!r:.80}; ask for 127.0.0.1")
        if origin is not None and (host is None or _netloc(origin) != host.lower()):
            raise ApiError(403, f"this server answers no pages of other sites, got {origin!r:.80}")
        path = scope["path"]
        if self.key is not None and (path == "/v1" or path.startswith("/v1/")):
            sent = headers.get("authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(sent, f"Bearer {self.key}".encode()):
                raise ApiError(401, "this server needs its key: Authorization: Bearer KEY")
        if scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, f"a request needs the header Content-Type: application/json, got {kind!r:.80}")


async def _body(receive: Receive, headers: dict[str, str]) -> Receive:
    """Read a request's body, within bounds of size and time: what hands it on.

    Raises:
        ApiError: 413, 408.
    """
    said = headers.get("content-length", "0")
    if not said.isascii() or not said.isdigit() or len(said) > 15 or int(said) > LONGEST:
        raise ApiError(413, f"a request may have {LONGEST} bytes at most, got {said:.40}")
    parts, size = [], 0
    try:
        async with asyncio.timeout(SENDING):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > LONGEST:
                    raise ApiError(413, f"a request may have {LONGEST} bytes at most")
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise ApiError(408, f"the request had not arrived after {SENDING:g} seconds") from None
    whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


async def _discard(receive: Receive) -> None:
    """Read on for a moment: what lies unread in a connection when it is closed would reset it before the answer is read."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while size < 4 * LONGEST:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


async def _say(send: Send, error: ApiError) -> None:
    text = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(text)), **error.headers}
    if error.status in (408, 413):
        headers["connection"] = "close"  # what is still coming is not read
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": text})


def _place(error: BaseException) -> str:
    """Where an error was raised; not what it said, which may quote a question."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "" if at is None else f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None


@functools.lru_cache(64)
def _loopback(name: str | None) -> bool:
    """Whether a name is one of this machine for itself."""
    if name is None or name == "localhost" or name.endswith(".localhost"):
        return name is not None
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
