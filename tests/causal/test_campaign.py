"""A whole evaluation from Python: what the command does, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import unspoken
from unspoken.causal.campaign import Campaign
from unspoken.causal.control_report import ControlsReport
from unspoken.errors import ConfigError
from unspoken.evaluation.card import Card
from unspoken.runs.directory import RunDir
from unspoken.training.loop import train

COCONUT = {"name": "coconut", "curriculum": "progressive", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 2}


@pytest.fixture
def run(make, tmp_path: Path) -> Path:
    return train(make(COCONUT, steps=2), tmp_path / "run").path


def test_tasks_and_seeds_are_evaluated_and_kept(run: Path):
    own = RunDir(run).config().task
    told: list[tuple[str, int, int]] = []
    found = unspoken.evaluate_run(
        run, [own, {"name": "tiny", "test_size": 4}], [1, 2], limit=3, temperature=1.0, max_new_tokens=4,
        extractors=("flexible",), progress=lambda *now: told.append(now),
    )  # fmt: skip
    assert [(one.task, one.seed) for one in found] == [("files", 1), ("files", 2), ("tiny", 1), ("tiny", 2)]
    for one in found:
        assert one.path == run / f"eval-{one.task}-test-limit-3-temperature-1.0-max_new_tokens-4-seed-{one.seed}.json"
        assert unspoken.EvalReport.from_json(one.path) == one.report
        assert one.report.speaking["seed"] == one.seed
        assert [rule.name for rule in one.by_rules] == ["flexible"]
        assert one.controls is None  # never once per seed
    assert set(RunDir(run).reports()) == {one.path for one in found}
    assert RunDir(run).reports(whole=True) == []
    assert told[-1] == ("questions", 3, 3)


def test_controls_where_they_can_say_something(run: Path):
    (done,) = unspoken.evaluate_run(run, max_new_tokens=4, controls_limit=2, latents=1, card=run / "card.json")
    assert done.controls is not None
    assert done.controls_path == run / "controls-files-test-latents-1-max_new_tokens-4.json"
    assert done.controls_path is not None
    assert ControlsReport.from_json(done.controls_path) == done.controls
    assert done.controls.plain.n == 2
    assert Card.from_json(run / "card.json").score == done.report.accuracy

    def controlled(**how: Any) -> bool:
        return Campaign(run=run, **how).controlled

    assert controlled()
    assert not controlled(latents=0)
    assert not controlled(controls=False)
    assert not controlled(speaking={"stop": "fixed:1"})
    assert controlled(speaking={"stop": "fixed:1"}, controls=True)
    assert not Campaign(run="builtin:tiny").controlled


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"seeds": [1, 2], "out": "x.json"}, "files of one report, but 2 evaluations"),
        ({"seeds": [1, 2], "card": "x.json"}, "files of one report, but 2 evaluations"),
        ({"seeds": [1], "speaking": {"seed": 3}}, "leave the one seed out"),
        ({"controls_limit": 0}, "controls_limit must be at least 1, got 0"),
    ],
)
def test_what_contradicts_itself_is_refused(how: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Campaign(run="builtin:tiny", **how)


def test_a_model_inside_the_package_takes_nothing_in():
    assert RunDir("builtin:tiny").report_path("tiny", "test", limit=4) == Path("builtin-tiny-eval-tiny-test-limit-4.json")
    assert RunDir("runs/a").report_path("svamp", "test") == Path("runs/a/eval-svamp-test.json")
    assert RunDir("runs/a").report_path("svamp", "test", stop="head:0.5").name == "eval-svamp-test-stop-head-0.5.json"
