"""benchmarks/kills.py, shortened: `make endurance` is the same with a hundred kills of every variant."""

from __future__ import annotations

import random

import pytest

from benchmarks.kills import trial


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora, micro-batches", "evaluation", "condensing"])
def test_a_killed_command_ends_as_one_that_was_not(name, tmp_path):
    found = trial(name, 1, tmp_path, random.Random(0))
    assert found["kills"] == 1
    assert found["different"] == []
