"""Real data, where a checkout has it beside it; a hub that answers from memory; a language model behind a server."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fakes.chat_server import Server

from unspoken.tasks.reading.source import DATA_VARIABLE

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark files, or a skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no benchmark data: {SHARED_DATA} is not there")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _no_data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """A stand-in for `datasets`: fill in {(name, config): {split: rows}}; other names fail as without a network."""
    contents: dict[Any, Any] = {}

    def load_dataset(name: str, config: str | None = None) -> Any:
        if (name, config) not in contents:
            raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nsecond line")
        return contents[name, config]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return contents


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """serve(says) -> a running server."""
    started: list[Server] = []

    def start(says: Callable[[str, int], Any]) -> Server:
        started.append(Server(says))
        return started[-1]

    yield start
    for server in started:
        server.close()
