"""benchmarks/kills.py, shortened: `make endurance` is the same with a hundred kills, of every variant, of real commands."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.forks import Forked

from benchmarks import kills


@pytest.fixture(autouse=True)
def started_by_forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's processes begin with everything imported, which is most of what they do; trainings are short."""

    def start(name: str, out: Path, url: str) -> list[Forked]:
        _, words = kills.command(name, out, url)
        return [Forked(*words)]

    def ends(started: list[Forked]) -> None:
        for process in started:
            assert process.wait() == 0, process.stderr()

    def kill(started: list[Forked]) -> None:
        for process in started:
            process.kill()
            process.wait()

    for changed in (start, ends, kill):
        monkeypatch.setattr(kills, changed.__name__, changed)
    shorter = ["train.steps=8", "train.validate_every=4", "train.validate_limit=2", "task.train_size=32"]
    monkeypatch.setattr(kills, "COMMON", [*kills.COMMON, *shorter])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora, micro-batches", "evaluation", "condensing"])
def test_a_killed_command_ends_as_one_that_was_not(name: str, tmp_path: Path):
    found = kills.trial(name, 1, tmp_path, random.Random(0))
    assert found["kills"] == 1
    assert found["different"] == []
