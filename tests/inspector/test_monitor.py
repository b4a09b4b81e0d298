"""The monitor: what it logs, when it warns, and that it changes nothing of the run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.cases import EXAMPLES
from safetensors.torch import load_file
from support.fakes.inspection import collapsed, model

from unspoken.errors import ConfigError
from unspoken.inspector.monitor import Monitor
from unspoken.runs.directory import RunDir
from unspoken.training.loop import Training, train

pytestmark = pytest.mark.filterwarnings("ignore:.*the latents are collapsing")  # random states are alike

COCONUT = {"name": "coconut", "curriculum": "none", "latents_per_step": 2, "max_stage": 2}


def rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in RunDir(run).metrics() if row["kind"] == "stability"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    (state,) = (run / "state").glob("step-*")
    return load_file(state / "state.safetensors")


def test_it_warns_when_latents_become_alike_and_once() -> None:
    """A last norm that lets less and less through makes all states one vector."""
    history: list[dict[str, Any]] = []
    said = []
    for step, share in ((0, 1.0), (10, 0.9), (20, 0.01), (30, 0.01), (40, 1.0), (50, 0.01)):
        it = collapsed(share)
        stage = it.method.curriculum().last
        torch.manual_seed(1)
        with torch.no_grad():
            it.method.backbone.lm.transformer.ln_f.bias.normal_()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            row = Monitor(it.method, EXAMPLES).look(step, stage, history)
        assert row is not None
        json.dumps(row)
        history.append(row)
        said.append([str(warning.message) for warning in caught if "collapsing" in str(warning.message)])
    assert [bool(row["collapse"]) for row in history] == [False, False, True, True, False, True]
    assert [len(one) for one in said] == [0, 0, 1, 0, 0, 1]
    assert said[2][0].startswith("step 20: the latents are collapsing: latents of one question have become alike")
    assert "see docs/guides/inspector.md" in said[2][0]


def test_before_training_nothing_has_collapsed() -> None:
    it = collapsed()
    row = Monitor(it.method, EXAMPLES).look(0, it.method.curriculum().last, [])
    assert row is not None
    assert row["across"] < 0.01
    assert row["collapse"] is None
    later = Monitor(it.method, EXAMPLES)
    with pytest.warns(UserWarning, match="step 1: the latents are collapsing"):
        assert (later.look(1, it.method.curriculum().last, [row]) or {})["collapse"]


def test_pauses_are_no_collapse() -> None:
    it = model({"name": "pause", "pauses": 3})
    row = Monitor(it.method, EXAMPLES).look(1, it.method.curriculum().last, [])
    assert row is not None
    assert row["across"] == pytest.approx(0.0, abs=1e-5)
    assert row["collapse"] is None


def test_what_a_run_logs(make, tmp_path: Path) -> None:
    train(make(COCONUT, stability_limit=4, stability_every=5), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [0, 5, 10, 12]
    for row in found:
        assert row["latents"] == 4.0
        assert row["problems"] == 4
        assert set(row["recovery"]) == {"words"}
        assert set(row["recovery"]["words"]) == {"numbers", "operators", "results"}


def test_a_decoder_is_read_too_and_stages_without_latents_are_left_out(make, tmp_path: Path) -> None:
    train(make(stability_limit=3), tmp_path / "sim")  # at validations: every 4 steps
    found = rows(tmp_path / "sim")
    assert [row["step"] for row in found] == [0, 4, 8, 12]
    assert set(found[-1]["recovery"]) == {"words", "steps"}
    staged = {"name": "coconut", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 2}
    train(make(staged, stability_limit=3, stability_every=2), tmp_path / "staged")
    found = rows(tmp_path / "staged")
    assert [row["step"] for row in found][:2] == [4, 6]  # stage 0 ends behind step 3
    assert [row["latents"] for row in found] == sorted(row["latents"] for row in found)
    assert found[0]["latents"] == 2.0
    assert found[-1]["latents"] == 4.0


def test_it_changes_nothing(make, tmp_path: Path) -> None:
    """Dropout is on in this run, in base model and decoder: a monitor that drew from the run's dice would show."""
    drops = {
        "name": "sim_cot",
        "inner": COCONUT,
        "decoder": {"kind": "layers", "dropout": True},
    }
    train(make(drops), tmp_path / "without")
    train(make(drops, stability_limit=4, stability_every=1), tmp_path / "watched")
    a, b = weights(tmp_path / "without"), weights(tmp_path / "watched")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert rows(tmp_path / "without") == []


def test_a_resumed_run_logs_the_same(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(stability_limit=4, stability_every=3)
    train(config, tmp_path / "whole")
    step = Training._train_step

    def dying(self: Training) -> None:
        if self.step == 7:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(Training, "_train_step", step)
    train(config, tmp_path / "parts")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


@pytest.mark.parametrize("given", [{"stability_every": 0}, {"stability_limit": -1}])
def test_numbers_that_make_no_sense_are_refused(make, given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        make(**given)
