"""What a server stands, shortened; `python -m benchmarks.endurance` is the same at full size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.forks import Popen

from benchmarks.endurance import TRIALS
from unspoken.bench import server_process
from unspoken.bench.server_process import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One for the trials that leave it well."""
    with ServerProcess("builtin:tiny", "--slots", "8", "--max-waiting", "1000") as started:
        yield started


def run(name: str, **more: Any) -> dict[str, Any]:
    trial, small = TRIALS[name]
    found = trial(**small, **more)
    print(found)
    return found


pytestmark = pytest.mark.slow


def test_cancelled_requests_make_room(server: ServerProcess):
    found = run("cancelled", at=server)
    assert found["then_answered"]
    assert found["seconds_of_that_answer"] < 5
    assert found["seconds_until_idle"] < 5


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial's own server begins with everything imported; `server` is a real process."""
    monkeypatch.setattr(server_process.subprocess, "Popen", Popen)


def test_overload_is_told_and_nobody_accepted_is_lost(forked: None):
    found = run("overload")
    assert set(found["statuses"]) == {200, 429}
    assert min(found["statuses"].values()) > 5
    assert found["accepted_but_not_answered"] == 0
    assert found["memory_after_mb"] - found["memory_before_mb"] < 60
    assert found["seconds_until_idle"] < 10


def test_idle_connections_keep_nobody_out(server: ServerProcess):
    found = run("connections", at=server)
    assert found["answered_meanwhile"]
    assert found["seconds_of_that_answer"] < 10
    assert found["files_after"] <= found["files_before"] + 5


def test_a_soak_leaves_nothing_behind(server: ServerProcess):
    found = run("soak", at=server)
    assert set(found["statuses"]) <= {200, 400, 404, 499}
    assert set(found["statuses"]) >= {200, 400, 404}
    assert found["answered_at_the_end"]
    assert found["memory_mb"]["end"] - found["memory_mb"]["settled"] < 40
    assert found["files"]["end"] <= found["files"]["settled"] + 10
    assert found["seconds_until_idle"] < 10


def test_killed_clients_are_noticed(server: ServerProcess):
    found = run("killed_client", at=server)
    assert found["seconds_until_idle"] < 5
    assert found["aborted"]


def test_a_stop_under_load_loses_nobody_without_a_word(forked: None):
    found = run("stopped")
    assert found["answered"] + found["ended_with_an_error"] == found["requests"]
    assert found["lost_without_a_word"] == 0
    assert found["late_status"] in (0, 503)
    assert found["exit_code"] == 0
    assert found["seconds"] < 30
