"""Connections of the server: how many there may be, and how long one may keep it waiting.

uvicorn waits for ever for the first request of a connection. Here whoever sends no whole request head in time loses the
line, and where all connections are taken, the one that has been idle longest makes room.
"""

from __future__ import annotations

import asyncio
import json
import resource
from importlib.util import find_spec
from typing import TYPE_CHECKING

from uvicorn.protocols.http.h11_impl import H11Protocol

from unspoken.serving.errors import ApiError

HEAD_SECONDS = 10.0
"""In which the head of a request must have arrived."""

MOST = 4096
"""Connections at a time; fewer where the process may not open so many files."""

LONGEST_HEAD = 1 << 16
"""Bytes of a request that are not its body: h11's own bound, which httptools does not have."""

_SPARE_FILES = 64
"""Files that the process has open besides connections."""


def connections_allowed() -> int:
    """How many connections this process can hold; the limit of its files is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST if soft == resource.RLIM_INFINITY else max(min(MOST, soft - _SPARE_FILES), 4)


if TYPE_CHECKING or find_spec("httptools") is None:  # it comes as a binary, which not every machine has

    class Protocol(H11Protocol):
        """The parser in Python."""

else:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Protocol(HttpToolsProtocol):
        """The quick parser, which by itself would read a head of any length."""

        _seen: int | None = None  # bytes of the message that is being read, about
        _body = 0  # of it

        def data_received(self, data: bytes) -> None:
            """See `asyncio.Protocol`."""
            if self._seen is not None:
                self._seen += len(data)
            super().data_received(data)
            if self._seen is not None and self._seen > LONGEST_HEAD + 8 * self._body:  # a chunk of 1 byte is sent as 6
                self._seen = None
                self.send_400_response("")

        def on_message_begin(self) -> None:
            """Called by the parser, as those below."""
            self._seen, self._body = 0, 0
            super().on_message_begin()

        def on_body(self, body: bytes) -> None:
            """See above."""
            self._body += len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            """See above."""
            self._seen = None
            super().on_message_complete()


class Connection(Protocol):
    """One connection. `most` is how many there may be."""

    most = MOST
    _idle: dict[Connection, None]
    _timer: asyncio.TimerHandle | None = None

    @classmethod
    def limited(cls, most: int) -> type[Connection]:
        """Connections of which there may be so many."""
        return type("Connection", (cls,), {"most": most, "_idle": {}})

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.most and (oldest := next(iter(self._idle), None)) is not None:
            oldest._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._busy()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._busy()
        elif self._timer is None and not self.transport.is_closing():
            self._wait()

    def on_response_complete(self) -> None:
        """An answer is whole; the next request may come."""
        super().on_response_complete()
        if self.transport is not None and not self.transport.is_closing() and self.cycle.response_complete:
            self._idle[self] = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, in the form of all errors."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(ApiError(400, "this is no HTTP request that can be read").body)
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
            self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n\r\n{body}".encode())
        self.transport.close()

    def _wait(self) -> None:
        """A request head is being sent, or should be."""
        self._idle.pop(self, None)
        self._idle[self] = None
        self._timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _busy(self) -> None:
        self._idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        self._busy()
        self.transport.abort()
