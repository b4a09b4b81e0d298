"""Servers on loopback: in a thread of the test, or as a process of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import torch
from contract.cases import make

from unspoken.runs.model import Model
from unspoken.serving.app import Service
from unspoken.serving.models import ServedModel
from unspoken.serving.server import Server, ServerConfig


def thinker(name: str = "sim_cot", family: str = "llama", **more: Any) -> ServedModel:
    """A random model of a method of the contract, whose answers end at many lengths."""
    method = make(name, family)
    method.backbone.lm.generation_config.eos_token_id = list(range(3, method.backbone.vocabulary, 16))
    with torch.no_grad():
        return ServedModel(name=name.replace(" ", "-"), model=Model(method), **more)


@contextlib.contextmanager
def running(service: Service, **config: Any) -> Iterator[str]:
    """A service on a free port: its base URL."""
    server = Server(service, ServerConfig(**{"port": 0, "drain": 2.0, **config}), ready=lambda *_: begun.set())
    begun = threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    assert begun.wait(30)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server does not stop"


class ServerProcess:
    """`unspoken serve` as a process.

    Args:
        arguments: of the command.
    """

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "unspoken", "serve", *arguments, "--port", str(self.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def __enter__(self) -> ServerProcess:
        for _ in range(1200):
            assert self.process.poll() is None, "".join(self.log)
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return self
            time.sleep(0.1)
        raise AssertionError("the server does not start")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)

    def terminate(self) -> None:
        """As whoever runs it tells it to stop."""
        self.process.send_signal(signal.SIGTERM)

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

    @property
    def files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def events(text: str) -> list[Any]:
    """The data of a stream of server-sent events; the closing one is checked and left out."""
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert found[-1] == "[DONE]"
    return [json.loads(one) for one in found[:-1]]
