"""A client that measures: one request per connection, its stream read as it comes, with the time of every chunk.

asyncio alone: a client library would take more of the processor than the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(kw_only=True)
class Exchange:
    """A request and what came back.

    Attributes:
        status: of HTTP; 0 where the connection ended without an answer.
        began, ended: seconds of a clock that only goes forward.
        times: when each chunk of a stream came.
        chunks: what they held, as JSON; of an answer that is no stream, its one body.
    """

    status: int = 0
    began: float = 0.0
    ended: float = 0.0
    times: list[float] = field(default_factory=list)
    chunks: list[Any] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """It was answered to the end: a body that is no error, or a stream with its reasons for ending."""
        if self.status != 200 or not self.chunks or any("error" in chunk for chunk in self.chunks):
            return False
        return any(choice.get("finish_reason") for chunk in self.chunks for choice in chunk.get("choices", ()))


async def post(url: str, body: object, *, headers: dict[str, str] | None = None) -> Exchange:
    """Send JSON, read the answer. An answer cut off is one without its end; nothing is raised for it."""
    parts = urlsplit(url)
    data = json.dumps(body).encode()
    lines = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    found = Exchange(began=time.perf_counter())
    writer = None
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=1 << 22)
        writer.write(f"POST {parts.path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        await writer.drain()
        await _read(reader, found)
    except (OSError, asyncio.IncompleteReadError, ValueError, IndexError):  # no one there, cut off, or no HTTP
        pass
    finally:
        found.ended = time.perf_counter()
        if writer is not None:
            writer.transport.abort() if not found.chunks else writer.close()
    return found


async def _read(reader: asyncio.StreamReader, found: Exchange) -> None:
    status = await reader.readline()
    headers: dict[str, str] = {}
    while (line := (await reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    streams = headers.get("content-type", "").startswith("text/event-stream")
    found.status = int(status.split()[1])
    if not streams:
        length = headers.get("content-length")
        text = await (reader.read() if length is None else reader.readexactly(int(length)))
        found.chunks.append(json.loads(text))
        return
    chunked, rest = headers.get("transfer-encoding") == "chunked", b""
    while True:
        if chunked:
            size = int((await reader.readline()).split(b";")[0], 16)
            part = (await reader.readexactly(size + 2))[:-2]
        else:
            part = await reader.read(1 << 16)
        if not part:
            return
        now = time.perf_counter()
        *events, rest = (rest + part).split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data: ")
            if data == b"[DONE]":
                continue
            found.chunks.append(json.loads(data))
            found.times.append(now)
