"""Connections of the server: how many there may be, and how long one may keep it waiting.

uvicorn waits for ever for the first request of a connection. Here whoever sends no whole request head in time loses the
line, and where all connections are taken, the one that has been idle longest makes room.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from unspoken.serving.errors import ApiError

HEAD_SECONDS = 10.0
"""In which the head of a request must have arrived."""

MOST = 4096
"""Connections at a time; fewer where the process may not open so many files."""

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


class Connection(H11Protocol):
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
        body = json.dumps(ApiError(400, "this is no HTTP request that can be read").body).encode()
        head = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        with contextlib.suppress(h11.LocalProtocolError):  # in the middle of an answer
            for event in (h11.Response(status_code=400, headers=head), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
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
