"""`unspoken serve` as a process that is measured: started, asked how it does, stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from unspoken.errors import RunError


class ServerProcess:
    """A server of ours on a free port, inside a `with`.

    Args:
        arguments: of `unspoken serve`.
        command: what to run in its place; `--port` and a number are added.
        environment: variables that it gets besides ours.

    Raises:
        RunError: on entering, it does not start; says what it said.
    """

    def __init__(
        self, *arguments: str, command: Sequence[str] = ("unspoken", "serve"), environment: Mapping[str, str] | None = None
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command, *arguments, "--port", str(self.port)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            del self.log[:-1000]

    def __enter__(self) -> ServerProcess:
        for _ in range(3000):
            if self.process.poll() is not None:
                time.sleep(0.2)
                raise RunError(f"the server does not start: {' '.join(''.join(self.log).split())}")
            if self.get("/ready")[0] == 200:
                return self
            time.sleep(0.1)
        raise RunError("the server does not start within 5 minutes")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a place; (0, "") where nobody answers."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            line.request("GET", path)
            answer = line.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            line.close()

    def metric(self, name: str) -> float:
        """A metric without our prefix, summed over its labels."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"unspoken:{name}{{"))

    def terminate(self) -> None:
        """As whoever runs it tells it to stop."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

    @property
    def processor_seconds(self) -> float:
        """Processor time that it has taken so far, of all its threads."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            times = stat.read().rpartition(")")[2].split()[11:13]  # its own, and the system's for it
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    @property
    def files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))
