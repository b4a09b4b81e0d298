"""The server as a process: its socket, its start, its log, and how it stops.

SIGTERM and Ctrl-C: nothing new is taken, what is under way gets some seconds, the rest ends with an error that clients see.
A second one ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

import uvicorn

from unspoken.core.lm.backbone import Backbone
from unspoken.errors import ConfigError
from unspoken.serving.app import create_app
from unspoken.serving.connections import Connection, connections_allowed
from unspoken.serving.errors import stopping
from unspoken.serving.guard import Guard
from unspoken.serving.models import ServedModel
from unspoken.serving.service import Service

TURN = 0.0005
"""Seconds after which the engine's thread lets the event loop have the interpreter: each token sent waits so long."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How a service is reached.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        key: what clients must send to /v1; None = nothing.
        drain: seconds that answers under way get when it is told to stop.
        log_json: a JSON object per request, not a line of text.
    """

    host: str = "127.0.0.1"
    port: int = 8100
    key: str | None = None
    drain: float = 30.0
    log_json: bool = False


WAITING = 2048
"""Connections that the system keeps until they are taken."""

TAKEN = 64
"""Connections taken at a turn. Where no file can be opened, asyncio goes on trying so often, each with a traceback."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: nothing can listen there.
    """
    if not host or not 0 <= port <= 65535:
        raise ConfigError(f"cannot listen at {host!r}, port {port}: give an address, e.g. 127.0.0.1, and a port up to 65535")
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(WAITING)
    except (OSError, ValueError) as error:
        made.close()
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {host}:{port}: {why}; give another --host or --port") from None
    made.setblocking(False)
    return made


class Server(uvicorn.Server):
    """Serves a service until it is told to stop.

    Args:
        service: what answers; its engine is started and stopped here.
        config: how it is reached.
        ready: called with the address when requests are taken.
    """

    def __init__(self, service: Service, config: ServerConfig, ready: Callable[[str, int], None] | None = None) -> None:
        self.service, self.how, self._ready = service, config, ready
        self.socket = listen(config.host, config.port)
        self.local = ipaddress.ip_address(str(self.socket.getsockname()[0]).partition("%")[0]).is_loopback
        log = _json_line if config.log_json else _text_line
        guarded = Guard(create_app(service), key=config.key, local=self.local, log=log)
        connection = Connection.limited(connections_allowed())
        super().__init__(
            uvicorn.Config(
                guarded,
                http=connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                backlog=TAKEN,
                access_log=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=5,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._stops = 0
        self._draining: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.socket.getsockname()[1])

    def serve_forever(self) -> None:
        """Until a signal, or `stop` from another thread."""
        sys.setswitchinterval(TURN)
        self.service.engine.start()
        try:
            asyncio.run(self.serve(sockets=[self.socket]))
        finally:
            self.service.close()
            self.socket.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.socket.listen(WAITING)  # uvicorn has set it to the other number
        if self._ready is not None:
            self._ready(self.how.host, self.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets answers under way finish, the second does not."""
        self.stop()

    def stop(self) -> None:
        """As a signal does."""
        self._stops += 1
        if self._stops > 1:
            self.should_exit = self.force_exit = True
            return
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._begin_to_drain)

    def _begin_to_drain(self) -> None:
        self.service.draining = True
        self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        engine, end = self.service.engine, time.monotonic() + self.how.drain
        while engine.busy and time.monotonic() < end:
            await asyncio.sleep(0.05)
        engine.abort(stopping())
        self.should_exit = True


def settle() -> None:
    """Tell the garbage collector that what is loaded by now stays: for a process that serves, before it begins.

    To look through half a million objects of torch and transformers takes 0.2 seconds, in which nobody is answered, and
    several times that when the process ends.
    """
    gc.collect()
    gc.freeze()


def about(served: ServedModel) -> str:
    """A line about a model when it starts."""
    backbone: Backbone = served.model.method.backbone
    weight = backbone.lm.get_input_embeddings().weight
    size = sum(p.nbytes for p in served.model.method.parameters()) / 1e6
    kind = served.model.dtype or str(weight.dtype).removeprefix("torch.")
    return (
        f"{served.name}: {served.model.method.config.name}, {served.latents} latents, {kind} on {weight.device.type}, "
        f"{served.slots} slots, {size:,.0f} MB of weights"
    )


def curl(host: str, port: int, names: Sequence[str], key: str | None) -> str:
    """A line to try."""
    body = {
        "model": names[0],
        "messages": [{"role": "user", "content": "Ann has 7 figs. She finds 5. How many figs has Ann?"}],
    }
    auth = " -H 'Authorization: Bearer '$UNSPOKEN_API_KEY" if key else ""
    place = f"[{host}]" if ":" in host else host
    return (
        f"curl http://{place}:{port}/v1/chat/completions -H 'Content-Type: application/json'{auth} \\\n"
        f"  -d '{json.dumps(body)}'"
    )


def _text_line(about: Mapping[str, object]) -> None:
    more = "".join(f" {name}={about[name]}" for name in ("model", "tokens", "latents") if name in about)
    path = str(about["path"]).encode("unicode_escape").decode()[:100]
    print(f"{about['id']} {about['method']} {path} {about['status']}{more} {about['ms']} ms", file=sys.stderr, flush=True)


def _json_line(about: Mapping[str, object]) -> None:
    print(json.dumps({"time": round(time.time(), 3), **about}), file=sys.stderr, flush=True)
