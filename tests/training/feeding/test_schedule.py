"""Which examples a run trains on, its learning rate, and what its steps cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from unspoken.core.config import dump
from unspoken.core.rows.row import Row
from unspoken.errors import ConfigError
from unspoken.runs.config import RunConfig, TrainConfig, learning_rate
from unspoken.tasks import make_task
from unspoken.training.loop import build_method, train


def _rows(config: RunConfig) -> list[Row]:
    """The row of every training example."""
    method = build_method(config)
    return [method.layout(e, method.curriculum().last, Random(0)) for e in make_task(config.task).examples("train")]


CODI = {"name": "codi", "latents": 3, "projection_width": 8}


def test_warmup_as_a_share_of_the_run():
    """Linear from 0 over the longer of both warm-ups; then the schedule runs over what is left."""
    config = TrainConfig(steps=100, lr=1.0, warmup_share=0.1, schedule="linear")
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (k + 1) for k in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert learning_rate(replace(config, warmup_steps=20), 9, 100) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match=r"warmup_share must be in \[0, 1\], got 1.5"):
        TrainConfig(steps=1, warmup_share=1.5)


def test_long_examples_are_left_out(make, tmp_path: Path):
    """By the longer of row and branch; how many is in run.json."""
    config = make(CODI, max_positions=10_000, steps=1)
    assert train(config, tmp_path / "all").read()["left_out"] == 0
    # Problems 10 to 24 have longer numbers than 1 to 9.
    longest = make(CODI, max_positions=_rows(config)[0].longest, steps=1)
    about = train(longest, tmp_path / "some").read()
    assert 0 < about["left_out"] < 24
    with pytest.raises(ConfigError, match="max_positions=3 leaves none of 24 training examples; raise it"):
        train(make(CODI, max_positions=3, steps=1), tmp_path / "none")


def test_a_run_knows_what_its_steps_cost(make, tmp_path: Path):
    """CODI: as many dependent passes as latents and one more; every position of student and teacher once."""
    config = make(CODI, steps=6, batch_size=8, micro_batch_size=3)
    run = train(config, tmp_path / "run")
    rows = [row for row in run.metrics() if row["kind"] == "train"]
    assert {row["passes"] for row in rows} == {4}
    finished = run.read()["finished"]
    assert finished["passes"] == 4
    # Two epochs of all 24 examples.
    assert sum(row["examples"] for row in rows) == 48
    whole = [len(row.ids) + len(row.branch.ids) - (row.start - 1) for row in _rows(config) if row.branch]
    assert finished["positions_per_example"] == pytest.approx(sum(whole) / 24, abs=0.01)


def test_a_run_of_a_version_without_a_field_goes_on(make, tmp_path: Path):
    """A config field that did not exist yet has its default."""
    train(make(steps=4), tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    about = json.loads(file.read_text())
    assert about["config"]["train"].pop("max_positions", 0) is None
    assert about["config"]["train"].pop("warmup_share", None) == 0.0
    file.write_text(json.dumps(about))
    assert dump(train(make(steps=4), tmp_path / "run").config()) == dump(make(steps=4))
