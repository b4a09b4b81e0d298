"""A small service in front of a stock engine: questions in, prompt embeddings out, or the engine's answers to them.

    GET  /health              {"status": "ok", "model": ..., "chains": ...}
    POST /v1/prompt_embeds    {"prompt": question, ...} -> the body to send to an engine
    POST /v1/completions      the same, sent to `engine`, whose answer comes back as it is

Fields besides `prompt`: `latents`, `chains`, `samples` are ours, all others those of vLLM's completions API. Standard
library only; one question is embedded at a time, engines are waited for side by side.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from unspoken.errors import DataError, UnspokenError
from unspoken.training.prompt_export import PromptEmbedder

LONGEST = 1 << 20
"""Bytes of a request: a question, not a book."""

_KNOWN = "known: GET /health, POST /v1/prompt_embeds, POST /v1/completions"


class Service(ThreadingHTTPServer):
    """The service.

    Args:
        embedder: what `unspoken export --prompt-embeds` wrote, loaded.
        address: host and port; port 0 takes a free one (`server_port`).
        engine: base URL of an engine's API, e.g. http://localhost:8000/v1; None = prompt embeddings only.
        timeout: seconds to wait for the engine.
    """

    daemon_threads = True

    def __init__(
        self, embedder: PromptEmbedder, address: tuple[str, int], *, engine: str | None = None, timeout: float = 600.0
    ) -> None:
        super().__init__(address, _Handler)
        self.embedder, self.engine, self.wait = embedder, engine, timeout
        self.one_at_a_time = threading.Lock()

    def body(self, asked: Any) -> dict[str, Any]:
        """The engine's request for one of ours.

        Raises:
            DataError: it is no object with a text in `prompt`.
            ConfigError: see `PromptEmbedder.request`.
        """
        if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), str):
            raise DataError(f"expected an object with a question as text in 'prompt', got {json.dumps(asked)[:80]}")
        if asked.get("stream"):
            raise DataError("streamed answers are not passed on; leave 'stream' out")
        rest = {name: value for name, value in asked.items() if name != "prompt"}
        for name in ("latents", "chains", "samples"):
            if name in rest and (isinstance(rest[name], bool) or not isinstance(rest[name], int)):
                raise DataError(f"{name!r} must be a whole number, got {json.dumps(rest[name])[:40]}")
        with self.one_at_a_time:
            return self.embedder.request(asked["prompt"], **rest)

    def ask(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and answer of the engine."""
        request = urllib.request.Request(
            f"{str(self.engine).rstrip('/')}/completions",
            data=json.dumps(body).encode("utf-8"),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.wait) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:  # the engine's own words
            return error.code, error.read()
        except (OSError, ValueError) as error:
            return 502, _fault(f"no answer from the engine at {self.engine}: {error}; start it with --enable-prompt-embeds")


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Service  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Whether it is there, and for which model."""
        if self.path != "/health":
            return self._say(404, _fault(f"nothing at {self.path}; {_KNOWN}"))
        embedder = self.server.embedder
        about = {"status": "ok", "model": embedder.model, "chains": embedder.chains}
        return self._say(200, json.dumps(about).encode())

    def do_POST(self) -> None:
        """A question."""
        if self.path not in ("/v1/prompt_embeds", "/v1/completions"):
            return self._say(404, _fault(f"nothing at {self.path}; {_KNOWN}"))
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LONGEST:
            self.close_connection = True
            return self._say(413, _fault(f"a request needs a Content-Length of at most {LONGEST} bytes, got {length!r:.40}"))
        if self.path == "/v1/completions" and self.server.engine is None:
            self.rfile.read(int(length))
            return self._say(501, _fault("there is no engine behind this service: start it with --engine URL"))
        try:
            body = self.server.body(json.loads(self.rfile.read(int(length))))
        except UnspokenError as error:
            return self._say(400, _fault(str(error)))
        except ValueError as error:
            return self._say(400, _fault(f"the request is not JSON: {error}"))
        if self.path == "/v1/prompt_embeds":
            return self._say(200, json.dumps(body).encode("utf-8"))
        return self._say(*self.server.ask(body))

    def _say(self, status: int, answer: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: questions are nobody's business."""


def _fault(message: str) -> bytes:
    """An error as the API writes it."""
    return json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode("utf-8")
