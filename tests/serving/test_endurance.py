"""What a server stands, shortened; `python -m benchmarks.endurance` is the same at full size."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.endurance import TRIALS


def run(name: str) -> dict[str, Any]:
    trial, small = TRIALS[name]
    found = trial(**small)
    print(found)
    return found


pytestmark = pytest.mark.slow


def test_cancelled_requests_make_room():
    found = run("cancelled")
    assert found["then_answered"]
    assert found["seconds_of_that_answer"] < 5
    assert found["seconds_until_idle"] < 5


def test_overload_is_told_and_nobody_accepted_is_lost():
    found = run("overload")
    assert set(found["statuses"]) == {200, 429}
    assert min(found["statuses"].values()) > 5
    assert found["accepted_but_not_answered"] == 0
    assert found["memory_after_mb"] - found["memory_before_mb"] < 60
    assert found["seconds_until_idle"] < 10


def test_idle_connections_keep_nobody_out():
    found = run("connections")
    assert found["answered_meanwhile"]
    assert found["seconds_of_that_answer"] < 10
    assert found["files_after"] <= found["files_before"] + 5


def test_a_soak_leaves_nothing_behind():
    found = run("soak")
    assert set(found["statuses"]) <= {200, 400, 404, 499}
    assert set(found["statuses"]) >= {200, 400, 404}
    assert found["answered_at_the_end"]
    assert found["memory_mb"]["end"] - found["memory_mb"]["settled"] < 40
    assert found["files"]["end"] <= found["files"]["settled"] + 10
    assert found["seconds_until_idle"] < 10


def test_killed_clients_are_noticed():
    found = run("killed_client")
    assert found["seconds_until_idle"] < 5
    assert found["aborted"]


def test_a_stop_under_load_loses_nobody_without_a_word():
    found = run("stopped")
    assert found["answered"] + found["ended_with_an_error"] == found["requests"]
    assert found["lost_without_a_word"] == 0
    assert found["late_status"] in (0, 503)
    assert found["exit_code"] == 0
    assert found["seconds"] < 30
