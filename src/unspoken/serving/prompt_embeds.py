"""A small service in front of a stock engine: questions in, prompt embeddings out, or the engine's answers to them.

    GET  /health              {"status": "ok", "model": ..., "chains": ...}
    POST /v1/prompt_embeds    {"prompt": question, ...} -> the body to send to an engine
    POST /v1/completions      the same, sent to `engine`, whose answer comes back as it is

Fields besides `prompt`: `latents`, `chains`, `samples` are ours, all others those of vLLM's completions API
(`CompletionRequest`). Where answers are drawn from several sets of thoughts, each set is a request of its own with its own
seed: the first place then gives a list of bodies, the second puts the answers together.

Standard library only; one question is embedded at a time, engines are waited for side by side. Whoever sends slowly, sends
too much, or comes when too many wait is told so and costs little: connections, waiting requests, the time for sending a
request and its size have bounds. Pages of other sites in a browser are refused.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import re
import resource
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from unspoken.core.checks import parse_json, shown, spoken
from unspoken.core.config import STRICT, build
from unspoken.errors import ConfigError, DataError, UnspokenError
from unspoken.exporters.prompt_embeds import PromptEmbedder

LONGEST = 1 << 20
"""Bytes of a request: a question, not a book."""

SENDING = 10.0
"""Seconds in which a request must have arrived; one where all connections are taken."""

CONNECTIONS = 512
"""At a time; fewer where the process may not open so many files."""

_KNOWN = "known: GET /health, POST /v1/prompt_embeds, POST /v1/completions"


_Text = Annotated[str, Field(strict=True, max_length=LONGEST)]
_Flag = Annotated[bool, Field(strict=True)]
_Count = Annotated[int, Field(strict=True, ge=0, le=1 << 20)]
_Some = Annotated[int, Field(strict=True, ge=1, le=1 << 10)]
_Tokens = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
_TopK = Annotated[int, Field(strict=True, ge=-1, lt=1 << 31)]
_Int = Annotated[int, Field(strict=True, ge=-(1 << 31), lt=1 << 31)]
_Id = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_Seed = Annotated[int, Field(strict=True, ge=0, lt=1 << 62)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Positive = Annotated[float, Field(strict=True, ge=0, le=1e3, allow_inf_nan=False)]
_Above0 = Annotated[float, Field(strict=True, gt=0, le=1e3, allow_inf_nan=False)]
_TopP = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
_Penalty = Annotated[float, Field(strict=True, ge=-2, le=2, allow_inf_nan=False)]
_Bias = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """What may be asked. The bounds keep out what is certainly wrong; an engine has its own, which are narrower."""

    __pydantic_config__ = STRICT

    prompt: _Text
    latents: _Count | None = None
    chains: _Some | None = None
    samples: _Some | None = None

    model: _Text | None = None
    stream: _Flag | None = None
    user: _Text | None = None
    max_tokens: _Tokens | None = None
    min_tokens: _Count | None = None
    temperature: _Positive | None = None
    top_p: _TopP | None = None
    top_k: _TopK | None = None
    min_p: _Share | None = None
    seed: _Seed | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: _Above0 | None = None
    logprobs: _Count | None = None
    logit_bias: dict[str, _Bias] | None = None
    stop: _Text | list[_Text] | None = None
    stop_token_ids: list[_Id] | None = None
    bad_words: list[_Text] | None = None
    allowed_token_ids: list[_Id] | None = None
    ignore_eos: _Flag | None = None
    include_stop_str_in_output: _Flag | None = None
    skip_special_tokens: _Flag | None = None
    spaces_between_special_tokens: _Flag | None = None
    return_tokens_as_token_ids: _Flag | None = None
    return_token_ids: _Flag | None = None
    priority: _Int | None = None
    cache_salt: _Text | None = None
    request_id: _Text | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


class Busy(UnspokenError):
    """Too many wait already."""


def engine_url(text: str) -> str:
    """The base URL of an engine's API, checked.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query + parts.fragment
        right = right and text.isascii() and text.isprintable() and " " not in text
    except ValueError:  # a port that is none
        right = False
    if not right:
        raise ConfigError(f"the engine must be the base URL of an API, e.g. http://localhost:8000/v1; got {shown(text)}")
    return text.rstrip("/")


class Service(ThreadingHTTPServer):
    """The service.

    Args:
        embedder: what `unspoken export --prompt-embeds` wrote, loaded.
        address: host and port; port 0 takes a free one (`server_port`).
        engine: base URL of an engine's API, e.g. http://localhost:8000/v1; None = prompt embeddings only.
        timeout: seconds to wait for the engine.
        key: what clients must send as `Authorization: Bearer KEY`; None = nothing.
        waiting: requests that may wait to be embedded; those beyond are told to come back (503).

    Raises:
        ConfigError: the engine's URL is none, or nothing can listen at the address.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(
        self,
        embedder: PromptEmbedder,
        address: tuple[str, int],
        *,
        engine: str | None = None,
        timeout: float = 600.0,
        key: str | None = None,
        waiting: int = 256,
    ) -> None:
        self.embedder, self.wait, self.key = embedder, timeout, key
        self.engine = None if engine is None else engine_url(engine)
        host, port = address
        if not host or not 0 <= port <= 65535:
            raise ConfigError(
                f"cannot listen at {host!r}, port {port}: give an address, e.g. 127.0.0.1, and a port up to 65535"
            )
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, _Handler)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot listen at {host}:{port}: {why}; give another --host or --port") from None
        self.local = ipaddress.ip_address(str(self.server_address[0]).partition("%")[0]).is_loopback
        self.one_at_a_time = threading.Lock()
        self._queue = threading.BoundedSemaphore(waiting)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = CONNECTIONS if files == resource.RLIM_INFINITY else max(4, min(CONNECTIONS, (files - 40) // 2))
        self._free = threading.BoundedSemaphore(most)  # a connection, and one to the engine for it, are two files
        self._full = False
        self.sending: dict[socket.socket, float] = {}  # those whose request is not there yet, and since when

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; none while all are taken (it waits in the system's queue)."""
        self._full = not self._free.acquire(timeout=0.1)
        if self._full:
            raise OSError("all connections are taken")
        try:
            return super().get_request()
        except OSError:  # gone again, or no descriptor is left: the system would call us again at once
            self._free.release()
            time.sleep(0.05)
            raise

    def service_actions(self) -> None:
        """Hang up on those who send too slowly."""
        patience = 1.0 if self._full else SENDING
        for connection, since in list(self.sending.items()):
            if time.monotonic() - since > patience:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection when its client has read the answer: what lies unread in it would reset it."""
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(1.0)
            end, left = time.monotonic() + 1.0, 4 * LONGEST
            while left > 0 and time.monotonic() < end and (got := request.recv(1 << 16)):
                left -= len(got)
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Give a connection back."""
        self.sending.pop(request, None)
        super().close_request(request)
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line; nothing where a client has left."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"error: a request failed: {type(error).__name__}: {error}", file=sys.stderr)

    def bodies(self, asked: Any) -> list[dict[str, Any]]:
        """The engine's requests for one of ours.

        Raises:
            DataError: it is no object with a text in `prompt`.
            ConfigError: a field that is not known or out of range; see `PromptEmbedder.requests`.
            Busy: too many wait.
        """
        if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), str):
            raise DataError(f"expected an object with a question as text in 'prompt', got {shown(asked, 80)}")
        if asked.get("stream") is True:
            raise DataError("streamed answers are not passed on; leave 'stream' out")
        question = spoken(asked["prompt"], "the question")
        given = build(CompletionRequest, asked).given()
        del given["prompt"]
        if not self._queue.acquire(blocking=False):
            raise Busy("too many requests wait already; try again in a moment")
        try:
            with self.one_at_a_time:
                return self.embedder.requests(question, **given)
        finally:
            self._queue.release()

    def ask(self, bodies: list[dict[str, Any]]) -> tuple[int, bytes]:
        """Status and answer of the engine; of several requests, the answers as one."""
        if len(bodies) == 1:
            return self._ask(bodies[0])
        with ThreadPoolExecutor(min(len(bodies), 32)) as pool:
            answers = list(pool.map(self._ask, bodies))
        if bad := next((answer for answer in answers if answer[0] != 200), None):
            return bad
        try:
            return 200, json.dumps(_together([json.loads(text) for _, text in answers])).encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return 502, _fault(f"the engine at {self.engine} answered in a way that is not understood: {error!r:.200}")

    def _ask(self, body: dict[str, Any]) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"{self.engine}/completions", data=json.dumps(body).encode("utf-8"), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.wait) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:  # the engine's own words
            with contextlib.suppress(OSError):
                return error.code, error.read()
            return 502, _fault(f"the engine at {self.engine} broke off")
        except Exception as error:  # what comes over the wire may be anything
            return 502, _fault(f"no answer from the engine at {self.engine}: {error}; start it with --enable-prompt-embeds")


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Service  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = 30.0

    def setup(self) -> None:
        """From here on the client sends."""
        super().setup()
        self.server.sending[self.connection] = time.monotonic()

    def do_GET(self) -> None:
        """Whether it is there, and for which model."""
        self._arrived()
        if refused := self._stranger():
            return self._say(*refused)
        if self.path != "/health":
            return self._say(404, _fault(f"nothing at {self.path:.80}; {_KNOWN}"))
        embedder = self.server.embedder
        about = {"status": "ok", "model": embedder.model, "chains": embedder.chains}
        return self._say(200, json.dumps(about).encode())

    def do_POST(self) -> None:
        """A question."""
        if refused := self._stranger() or self._keyless() or self._form():
            return self._say(*refused)
        length = int(self.headers["Content-Length"])
        text = self.rfile.read(length)
        self._arrived()
        if len(text) < length:
            return self._say(400, _fault(f"the request is cut off: {len(text)} of {length} bytes came"))
        try:
            bodies = self.server.bodies(parse_json(text.decode("utf-8")))
        except Busy as error:
            return self._say(503, _fault(str(error)), {"Retry-After": "1"})
        except UnspokenError as error:
            return self._say(400, _fault(str(error)))
        except ValueError as error:
            return self._say(400, _fault(f"the request is not JSON that can be read: {error}"))
        except Exception as error:
            print(f"error: a request failed: {type(error).__name__}: {error}", file=sys.stderr)
            return self._say(500, _fault("this question could not be turned into a prompt; the service's log says why"))
        if self.path == "/v1/prompt_embeds":
            return self._say(200, json.dumps(bodies[0] if len(bodies) == 1 else bodies).encode("utf-8"))
        return self._say(*self.server.ask(bodies))

    def _arrived(self) -> None:
        self.server.sending.pop(self.connection, None)

    def _stranger(self) -> tuple[int, bytes] | None:
        """Refuse what a page of another site makes a browser send, or a name that leads here from outside."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        name = _host(f"//{host}") if host is not None else None
        if self.server.local and host is not None and not _loopback(name):
            return 403, _fault(f"this service answers this machine only, got the name {host!r:.80}; ask for 127.0.0.1")
        if origin is not None and (host is None or _place(origin) != host.lower()):
            return 403, _fault(f"this service answers no pages of other sites, got {origin!r:.80}")
        return None

    def _keyless(self) -> tuple[int, bytes] | None:
        key, sent = self.server.key, self.headers.get("Authorization", "")
        if key is None or hmac.compare_digest(sent.encode("utf-8", "replace"), f"Bearer {key}".encode()):
            return None
        return 401, _fault("this service needs its key: Authorization: Bearer KEY")

    def _form(self) -> tuple[int, bytes] | None:
        """Refuse what is no request with JSON for one of the places, before its body is read."""
        if self.path not in ("/v1/prompt_embeds", "/v1/completions"):
            return 404, _fault(f"nothing at {self.path:.80}; {_KNOWN}")
        if self.path == "/v1/completions" and self.server.engine is None:
            return 501, _fault("there is no engine behind this service: start it with --engine URL")
        if self.headers.get_content_type() != "application/json":
            kind = self.headers.get("Content-Type")
            return 415, _fault(f"a request needs the header Content-Type: application/json, got {kind!r:.80}")
        lengths = self.headers.get_all("Content-Length") or []
        if not lengths:
            return 411, _fault("a request needs a Content-Length; it is not taken in chunks")
        if len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths[0].strip()) or "Transfer-Encoding" in self.headers:
            return 400, _fault(f"Content-Length must be one number of bytes, got {', '.join(lengths)!a:.80}")
        if len(lengths[0].strip().lstrip("0")) > 7 or int(lengths[0]) > LONGEST:
            return 413, _fault(f"a request needs a Content-Length of at most {LONGEST} bytes, got {lengths[0]:.40}")
        return None

    def _say(self, status: int, answer: bytes, headers: dict[str, str] | None = None) -> None:
        self._arrived()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library itself refuses, as everything else here."""
        self.close_connection = True
        self._say(int(code), _fault(message or "this request is none"))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: questions are nobody's business."""


def _host(url: str) -> str | None:
    """The name in a URL."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _place(url: str) -> str | None:
    """Name and port in a URL, in small letters."""
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None


def _loopback(name: str | None) -> bool:
    """Whether a name is one of this machine for itself."""
    if name is None or name == "localhost" or name.endswith(".localhost"):
        return name is not None
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _together(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Several answers as one: all choices, numbered through, and what they used."""
    choices = [choice for answer in answers for choice in answer["choices"]]
    whole = {**answers[0], "choices": [{**choice, "index": number} for number, choice in enumerate(choices)]}
    if used := [answer["usage"] for answer in answers if isinstance(answer.get("usage"), dict)]:
        counted = {name for one in used for name, value in one.items() if isinstance(value, int)}
        whole["usage"] = {**used[0], **{name: sum(one.get(name) or 0 for one in used) for name in sorted(counted)}}
    return whole


def _fault(message: str) -> bytes:
    """An error as the API writes it."""
    return json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode("utf-8")
