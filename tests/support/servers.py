"""Servers on loopback, in a thread of the test; as a process: `unspoken.bench.server_process`."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import torch
from contract.cases import make

from unspoken.runs.model import Model
from unspoken.serving.models import ServedModel
from unspoken.serving.server import Server, ServerConfig
from unspoken.serving.service import Service


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


def events(text: str) -> list[Any]:
    """The data of a stream of server-sent events; the closing one is checked and left out."""
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert found[-1] == "[DONE]"
    return [json.loads(one) for one in found[:-1]]
