"""Models kept on the way: each is a run directory that every command takes, and a resumed run has the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import unspoken as command

import unspoken
from unspoken.errors import RunError
from unspoken.runs.directory import RunDir
from unspoken.training.loop import Training, train
from unspoken.training.progress import Quiet

COCONUT = {"name": "coconut", "curriculum": "staged", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 2}


def steps(run: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in (run / "models").iterdir())


@pytest.mark.parametrize(
    ("every", "want"), [("stages", [3, 6, 9, 13]), ("epochs", [6, 12, 13]), (5, [5, 10]), (13, [13]), (None, None)]
)
def test_which_models_are_kept(make, tmp_path, every, want):
    """24 examples, 4 rows a step: an epoch has 6 steps, a stage 3."""
    run = train(make(COCONUT, steps=13, keep_every=every, validate_limit=0), tmp_path / "run").path
    assert (steps(run) if want else (run / "models").exists()) == (want or False)


def test_a_kept_model_is_a_run(make, tmp_path):
    method = {"name": "sim_cot", "inner": COCONUT, "decoder": {"kind": "layers"}}
    training = make(method, keep_every=6, validate_every=4)
    run = train(training, tmp_path / "run").path
    kept = run / "models" / "step-6"
    with pytest.warns(UserWarning, match="of stage 1 of a curriculum that ends in stage 3: it thinks 2 latents"):
        model = unspoken.load(kept)
    again = train(make(method, steps=6, validate_every=6), tmp_path / "again").path  # the same six steps
    a, b = load_file(kept / "model" / "model.safetensors"), load_file(again / "model" / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert model.explain(model.think(["Ann has 3 pens."]))
    for words in (("eval", kept, "--limit", "2"), ("inspect", kept, "-n", "2", "--counts", "none"), ("ask", kept, "Ann?")):
        done = command(*words)
        assert done.returncode == 0, done.stderr
        assert "it thinks 2 latents" in done.stderr
    report = json.loads(next(kept.glob("eval-files-test*.json")).read_text())
    assert {record["latents"] for record in report["records"]} == {2}
    unspoken.export(kept, tmp_path / "exported")
    with pytest.warns(UserWarning, match="of stage 1"):
        assert unspoken.load(tmp_path / "exported").latents == 2


def test_another_run_starts_from_a_kept_model(make, tmp_path):
    codi = {"name": "codi", "latents": 2, "marker_init": "pens"}
    run = train(make(codi, keep_every=6, validate_limit=0), tmp_path / "run").path
    kept = run / "models" / "step-6"
    from dataclasses import replace

    config = replace(make(codi, backbone={"path": str(kept)}, steps=1, validate_limit=0), start=str(kept))
    begun = Training(config, tmp_path / "next", Quiet())
    mine = dict(begun.method.named_parameters())
    for name, tensor in load_file(kept / "model" / "method.safetensors").items():
        assert torch.equal(mine[name], tensor), name
    with pytest.raises(RunError, match=r"is a model that a run has kept: no training can go on here"):
        train(make(codi, keep_every=6, validate_limit=0), kept)


@pytest.mark.parametrize("dies_at", [5, 7, 9, 10])
def test_a_resumed_run_keeps_the_same_models(make, tmp_path, monkeypatch, dies_at):
    train(make(COCONUT, keep_every=3), tmp_path / "whole")
    step = Training._train_step

    def dying(self: Training) -> None:
        if self.step == dies_at:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(make(COCONUT, keep_every=3), tmp_path / "parts")
    # what lies beyond the state is dropped before it is made again, so that nothing stale can be taken for a result
    monkeypatch.setattr(Training, "_steps", lambda self: None)
    monkeypatch.setattr(Training, "_finish", lambda self: None)
    train(make(COCONUT, keep_every=3), tmp_path / "parts")
    state = RunDir(tmp_path / "parts").latest_step()
    assert state is not None
    assert steps(tmp_path / "parts") == [s for s in (3, 6, 9) if s <= state]
    monkeypatch.undo()
    train(make(COCONUT, keep_every=3), tmp_path / "parts")
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole") == [3, 6, 9, 12]
    for number in steps(tmp_path / "whole"):
        a, b = (
            load_file(tmp_path / name / "models" / f"step-{number}" / "model" / "model.safetensors")
            for name in ("whole", "parts")
        )
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_keeping_changes_nothing_else(make, tmp_path):
    def losses(run: Any) -> list[float]:
        return [row["loss"] for row in run.metrics()]

    assert losses(train(make(keep_every=1), tmp_path / "a")) == losses(train(make(), tmp_path / "b"))
