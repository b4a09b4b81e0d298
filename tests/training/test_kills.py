"""benchmarks/kills.py, shortened: `make endurance` is the same with a hundred kills, of every variant."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import kills


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora, micro-batches", "evaluation", "condensing"])
def test_a_killed_command_ends_as_one_that_was_not(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shorter = ["train.steps=8", "train.validate_every=4", "train.validate_limit=2", "task.train_size=32"]
    monkeypatch.setattr(kills, "COMMON", [*kills.COMMON, *shorter])
    found = kills.trial(name, 1, tmp_path, random.Random(0))
    assert found["kills"] == 1
    assert found["different"] == []
