"""A server in this process that speaks OpenAI's chat completions, and says what a test wants."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

from unspoken.tasks.endpoint import Endpoint


class Server:
    """Answers each call by `says(prompt, number of the call)`: a text, or an HTTP status with a body and perhaps headers."""

    def __init__(self, says: Callable[[str, int], Any]) -> None:
        self.says, self.calls = says, []
        lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.calls)
                    outer.calls.append({"path": self.path, "auth": self.headers.get("Authorization"), **body})
                said = outer.says(body["messages"][0]["content"], number)
                status, text, *more = said if isinstance(said, tuple) else (200, outer.completion(said))
                self.send_response(status)
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @staticmethod
    def completion(text: str, usage: tuple[int, int] | None = None, finish: str = "stop", **message: str) -> str:
        choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        counts = {} if usage is None else {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}
        return json.dumps({"choices": [choice], **counts})

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(url=f"http://127.0.0.1:{self.http.server_port}/v1", model="some-model", wait=0.0)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
