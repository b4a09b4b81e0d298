"""Validation: with the latents that a stage trains, what is said about its figures, and which model is kept for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import unspoken
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.exporters.hf_folder import export_hf
from unspoken.inspector.probe import probe_config
from unspoken.runs.directory import RunDir
from unspoken.tasks import make_task
from unspoken.training import validation
from unspoken.training.loop import train
from unspoken.training.plan import Plan
from unspoken.training.progress import Bars

COCONUT = {"name": "coconut", "curriculum": "staged", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 2}
STAGED = {
    "coconut": COCONUT,
    "pause as thought": {**COCONUT, "thoughts": "pause"},
    "pad_to_max=false": {**COCONUT, "pad_to_max": False},
    "mixing": {**COCONUT, "mixing": "uniform"},
    "sim_cot": {"name": "sim_cot", "inner": COCONUT, "decoder": {"kind": "layers"}},
}
"""24 examples, 4 rows a step: a stage lasts 3 steps, and stage k thinks 2k latents."""


def rows(run: Path | RunDir, kind: str = "validation") -> list[dict[str, Any]]:
    return [row for row in RunDir(run.path if isinstance(run, RunDir) else run).metrics() if row["kind"] == kind]


@pytest.mark.parametrize("method", STAGED)
def test_a_stage_is_validated_with_its_own_latents(make, tmp_path, method):
    run = train(make(STAGED[method], validate_every=3, stability_limit=2), tmp_path / "run")
    assert [(row["stage"], row["latents"]) for row in rows(run)] == [(0, 0), (1, 2), (2, 4), (3, 4)]
    watched = {row["step"]: row["latents"] for row in rows(run, "stability")} if method != "pause as thought" else {}
    assert all(watched.get(step, want) == want for step, want in ((6, 2), (9, 4), (12, 4)))


def test_methods_with_one_number_of_latents_keep_it(make, tmp_path):
    progressive = {**COCONUT, "curriculum": "progressive"}
    assert {row["latents"] for row in rows(train(make(progressive, validate_every=3), tmp_path / "a"))} == {4}
    icot = {"name": "icot_si", "remove_per_epoch": 4.0, "remove_all_beyond": 6}
    assert all("latents" not in row for row in rows(train(make(icot, validate_every=3), tmp_path / "b")))


def test_select_within_a_stage_uses_the_latents_of_the_stage(make, tmp_path, monkeypatch):
    asked: list[int | None] = []
    sample = unspoken.Model.sample

    def heard(self: Any, *given: Any, **how: Any) -> Any:
        asked.append(self.latents)
        return sample(self, *given, **how)

    monkeypatch.setattr(unspoken.Model, "sample", heard)
    train(make(COCONUT, steps=6, validate_every=1), tmp_path / "run")
    assert asked == [0, 0, 0, 2, 2, 2]


def test_a_run_that_stopped_early_is_asked_with_the_latents_of_its_stage(make, tmp_path):
    with pytest.warns(UserWarning, match="asked to think as in stage 1"):
        run = train(make(STAGED["sim_cot"], steps=6), tmp_path / "run").path
    with pytest.warns(UserWarning, match=r"is of stage 1 of a curriculum that ends in stage 3: it thinks 2 latents"):
        model = unspoken.load(run)
    question = ["Ann has 3 pens and buys 4 more. She doubles them."]
    assert [a.latents for a in (model.answer(question) + model.answer(question, latents=4))] == [2, 4]
    report = evaluate(model, make_task(RunDir(run).config().task), "test", limit=2)
    assert {r.latents for r in report.records} == {2}
    assert report.model["latents"] == 2

    with pytest.warns(UserWarning, match="of stage 1"):
        told = evaluate(unspoken.load(run), make_task(RunDir(run).config().task), "test", limit=1, explain=True).records[0]
    assert told.expected == told.steps[:1]  # its one group stands for the first step, not for all of them

    unspoken.export(run, tmp_path / "exported")
    with pytest.warns(UserWarning, match="of stage 1"):
        assert unspoken.load(tmp_path / "exported").latents == 2
    with pytest.warns(UserWarning, match="of stage 1"):
        export_hf(run, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "custom_generate" / "thoughts.json").read_text())["num_latents"] == 2
    with pytest.warns(UserWarning, match="of stage 1"):
        probe_config(run)


def test_a_finished_curriculum_says_nothing(make, tmp_path, recwarn):
    run = train(make(COCONUT), tmp_path / "run").path
    assert unspoken.load(run).latents is None
    assert not [w for w in recwarn if "of stage" in str(w.message)]


def test_answers_that_are_cut_off_are_told(make, tmp_path, capsys):
    class Heard(Bars):
        def begins(self, plan: Plan) -> None:
            pass

        def row(self, row: dict[str, Any], total: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().row("run", row, total)

    run = train(make({"name": "cot"}, steps=4, validate_every=2), tmp_path / "run", Heard(["run"]))
    for row in rows(run):  # six tokens are too few for a chain
        assert (row["cut_off"], row["problems"]) == (4, 4)
    assert "validation 0.000, 4 of 4 reached max_new_tokens" in capsys.readouterr().err


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
@pytest.mark.parametrize("select", ["loss", "accuracy"])
def test_a_first_score_that_is_not_finite_does_not_hold_the_place(make, tmp_path, monkeypatch, odd, select):
    score = validation.Validation.score

    def poisoned(self: Any, *given: Any) -> dict[str, Any]:
        found = score(self, *given)
        calls.append(found)
        return {**found, select: odd} if len(calls) in (1, 3) else found

    calls: list[Any] = []
    monkeypatch.setattr(validation.Validation, "score", poisoned)
    with pytest.warns(UserWarning, match=rf"step 4: the validation {select} is {odd}"):
        run = train(make({"name": "cot"}, select=select), tmp_path / "run")
    told = rows(run)
    assert [row["kept"] for row in told] == [True, True, False]
    assert [row.get("not_finite") for row in told] == [[select], None, [select]]
    assert told[0][select] is None
    assert json.loads((run.path / "model" / "unspoken.json").read_text())["step"] == 8
    assert "NaN" not in (run.path / "metrics.jsonl").read_text()


def test_a_validation_loss_that_overflows_is_told(make, tmp_path, monkeypatch):
    """Not a stub of the score: the loss itself."""
    losses = validation.Validation._losses
    monkeypatch.setattr(validation.Validation, "_losses", lambda self, *given: (float("nan"), losses(self, *given)[1]))
    with pytest.warns(UserWarning, match="the validation loss is nan"):
        run = train(make({"name": "cot"}, steps=4), tmp_path / "run")
    (row,) = rows(run)
    assert row["loss"] is None
    assert row["accuracy"] is not None


def test_keep_every_is_checked():
    from unspoken.runs.config import TrainConfig

    with pytest.raises(ConfigError, match="keep_every must be positive, got 0"):
        TrainConfig(steps=1, keep_every=0)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1 << 32), ("threads", 99_999), ("rank_timeout", 1e300), ("epochs", 1e308)]
)
def test_numbers_that_a_library_cannot_take_are_refused(name: str, value: float):
    from unspoken.core.config import build
    from unspoken.runs.config import TrainConfig

    with pytest.raises(ConfigError, match=f"{name} must be at most "):
        build(TrainConfig, {"epochs": 1.0, name: value})
    with pytest.raises(ConfigError, match="encodings is empty"):
        TrainConfig(steps=1, encodings="")
