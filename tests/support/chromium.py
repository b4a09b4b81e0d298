"""A headless Chromium that opens a file and says what a reader would see. It is driven through two pipes (the DevTools
protocol), so nothing is installed and no port is opened. Tests that use it skip where there is no Chromium.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
_SECONDS = 60.0


def find() -> str | None:
    """Where a Chromium is, or None; `CHROMIUM` names one."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """An open page.

    Attributes:
        problems: errors and warnings of its console, and exceptions.
        requests: addresses that it asked for, itself included.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._buffer, self._number = to, back, b"", 0
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    _session: str | None = None

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._number:
                assert "error" not in heard, heard["error"]
                return heard["result"]

    def _hear(self) -> dict[str, Any]:
        """The next message; what happened on the page is noted."""
        until = time.monotonic() + _SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], max(until - time.monotonic(), 0))
            assert ready, "Chromium does not answer"
            part = os.read(self._back, 1 << 20)
            assert part, "Chromium has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        heard = json.loads(line)
        told = heard.get("params", {})
        match heard.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.problems.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.problems.append(str(told["entry"]))
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Page.loadEventFired":
                self._loaded = True
        return heard

    def open(self, path: Path, width: int = 1100, height: int = 1400, *, dark: bool = False) -> None:
        """Open a file in a window of that size."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self._call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._hear()

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def text(self) -> str:
        """What is visible as text: nothing that CSS hides."""
        return self.ask("document.body.innerText")

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, path: Path) -> None:
        """Write what the window shows."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A fresh page of a fresh Chromium, whose profile goes into `folder`."""
    program = find()
    assert program is not None
    pipes = [os.pipe(), os.pipe()]
    # Above 9, so that neither is 3 or 4, the numbers that Chromium reads and writes.
    given = [fcntl.fcntl(pipes[0][0], fcntl.F_DUPFD, 10), fcntl.fcntl(pipes[1][1], fcntl.F_DUPFD, 10)]
    command = [
        sys.executable, "-c", _START, *map(str, given), program, "--headless", "--no-sandbox", "--disable-gpu",
        "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    with open(folder / "chromium.log", "wb") as log:
        process = subprocess.Popen(command, pass_fds=given, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for number in (*given, pipes[0][0], pipes[1][1]):
        os.close(number)
    try:
        yield Page(pipes[0][1], pipes[1][0])
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        for number in (pipes[0][1], pipes[1][0]):
            os.close(number)
