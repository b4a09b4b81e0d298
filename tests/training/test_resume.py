"""A run that is killed goes on as if it had not been: the same losses and the same weights, bit for bit."""

from __future__ import annotations

import errno
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.backbones import ARCHS
from support.forks import Forked

import unspoken
from unspoken.core.config import dump
from unspoken.errors import ConfigError, DataError, RunError, TrainingError
from unspoken.runs import directory
from unspoken.training.loop import Training, train


def losses(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def weights(run: Path) -> dict[str, torch.Tensor]:
    (state,) = (run / "state").glob("step-*")
    return load_file(state / "state.safetensors")


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Path]:
    """Runs that went through, by name; each is trained by the first test that compares with it."""
    return {}


def test_states_written_while_training_goes_on(make, tmp_path, monkeypatch, uninterrupted):
    """A kill in the middle of writing, while steps are made, leaves the state before; the end is the same, bit for bit."""
    if "sim_cot" not in uninterrupted:
        uninterrupted["sim_cot"] = train(make(), tmp_path / "whole").path
    step, save, written = Training._train_step, directory.save_tensors, threading.Event()
    names: list[str] = []

    def slow(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        names.append(threading.current_thread().name)
        if len(names) == 2:  # of step 8: two steps are made before it is written
            assert written.wait(60)
            raise KeyboardInterrupt  # as far as the disk can see, a kill
        save(path, tensors)

    def dying(self):
        step(self)
        if self.step == 10:
            written.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(directory, "save_tensors", slow)
    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(make(async_save=True), tmp_path / "parts")
    assert names == ["state_0"] * 2
    assert [state.name for state in (tmp_path / "parts" / "state").glob("step-*")] == ["step-00000004"]
    monkeypatch.setattr(directory, "save_tensors", save)
    monkeypatch.setattr(Training, "_train_step", step)
    train(make(async_save=True), tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(uninterrupted["sim_cot"])
    a, b = weights(tmp_path / "parts"), weights(uninterrupted["sim_cot"])
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_state_that_could_not_be_written_is_told_by_the_next_save(make, tmp_path, monkeypatch):
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory, "save_tensors", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        train(make(async_save=True, validate_limit=0), tmp_path / "run")
    with pytest.raises(ConfigError, match="set async_save=false"):
        make(async_save=True, sharding="zero2")


@pytest.mark.parametrize("dies_at", [1, 4, 6, 11])
def test_resumed_run_equals_uninterrupted_one(make, tmp_path, monkeypatch, dies_at, uninterrupted):
    # 24 examples, 4 rows a step, half an epoch a stage: stage changes with optimizer restarts at steps 3, 6 and 9
    if "sim_cot" not in uninterrupted:
        uninterrupted["sim_cot"] = train(make(), tmp_path / "whole").path
    step = Training._train_step

    def dying(self):
        if self.step == dies_at:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(make(), tmp_path / "parts")
    monkeypatch.setattr(Training, "_train_step", step)
    train(make(), tmp_path / "parts")

    whole = uninterrupted["sim_cot"]
    assert losses(tmp_path / "parts") == losses(whole)
    a, b = weights(tmp_path / "parts"), weights(whole)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


ICOT = {"name": "icot_si", "remove_per_epoch": 4.0, "smoothing": 1.0, "remove_all_beyond": 6, "keep_position": True}
METHODS = {
    "icot_si": ICOT,  # 6 steps an epoch: a token every second step, all of them from step 12 on
    "icot_si without restarts": {**ICOT, "restart_optimizer": False, "side": "right", "remove_per_epoch": 6.0},
    "pause": {"name": "pause", "marker_init": "pens"},
    "pause rows": {"name": "pause", "marker_init": "pens", "trains": "pauses"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dies_at", [2, 8, 13])
def test_other_methods_resume_alike(make, tmp_path, monkeypatch, method, dies_at, uninterrupted):
    """A state is written at step 4, 8 and 12, each of which begins with a restart: the first thing a resumed run does."""
    if method not in uninterrupted:
        uninterrupted[method] = train(make(METHODS[method], steps=15), tmp_path / "whole").path
    whole = uninterrupted[method]
    step, new, begun = Training._train_step, Training._new_optimizer, []

    def dying(self):
        if self.step == dies_at:
            raise KeyboardInterrupt
        step(self)

    def counted(self):
        begun.append(self.step if hasattr(self, "step") else None)
        return new(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(make(METHODS[method], steps=15), tmp_path / "parts")
    monkeypatch.setattr(Training, "_train_step", step)
    monkeypatch.setattr(Training, "_new_optimizer", counted)
    train(make(METHODS[method], steps=15), tmp_path / "parts")

    assert losses(tmp_path / "parts") == losses(whole)
    a, b = weights(tmp_path / "parts"), weights(whole)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    last = dies_at // 4 * 4
    restarts = [s for s in (2, 4, 6, 8, 10, 12) if s >= last] if method == "icot_si" else []
    assert begun == [None, *restarts]
    asked = ["Ann has 3 pens and buys 3 more. She doubles them."]
    ends = [unspoken.load(run, device="cpu").answer(asked)[0].tokens for run in (whole, tmp_path / "parts")]
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_sigkill_and_same_command(make, tmp_path):
    config = make(steps=60, save_every=3, log_every=1)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(dump(config)))

    def command(out: str) -> Forked:
        return Forked("train", recipe, "--out", tmp_path / out, "--quiet")

    assert command("whole").wait() == 0
    first = command("parts")
    metrics = tmp_path / "parts" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and (not metrics.exists() or len(metrics.read_text().splitlines()) < 10):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    reached = len(metrics.read_text().splitlines())
    assert 10 <= reached < 60
    assert command("parts").wait() == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_finished_run_is_left_alone(make, tmp_path):
    train(make(), tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    train(make(), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_another_config_is_refused(make, tmp_path):
    train(make(steps=2), tmp_path / "run")
    with pytest.raises(RunError, match=r"another config \(train.lr\)"):
        train(make(steps=2, lr=1e-5), tmp_path / "run")
    with pytest.raises(RunError, match=r"another config \(method 'sim_cot', not 'cot'\)"):
        train(make({"name": "cot"}, steps=2), tmp_path / "run")


def test_changed_data_are_noticed(make, files, tmp_path):
    train(make(steps=2), tmp_path / "run")
    text = (files / "train.jsonl").read_text()
    (files / "train.jsonl").write_text(text.replace("pens", "cups"))
    with pytest.raises(RunError, match=r"data of the run in .* have changed"):
        train(make(steps=2), tmp_path / "run")


def test_ending_before_the_curriculum_does_is_said(make, tmp_path):
    with pytest.warns(UserWarning, match=r"training ends in stage 0 of the curriculum, before its last stage 3"):
        train(make(steps=2), tmp_path / "run")


def test_validation_questions_without_room_for_an_answer_are_named_before_training(make, files, tmp_path):
    row = {"question": "Ann has 3 pens. " * 90, "steps": ["<<1+2=3>>"], "answer": "3"}
    with (files / "validation.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"validation-6 is too long: \d+ positions \+ 6 answer tokens"):
        train(make(validate_limit=99), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_run_json_reruns_the_run(make, tmp_path):
    train(make(), tmp_path / "run")
    again = unspoken.recipe(str(tmp_path / "run" / "run.json"))
    assert again == make()
    train(again, tmp_path / "again")
    assert losses(tmp_path / "again") == losses(tmp_path / "run")


def test_micro_batches_change_nothing(make, tmp_path):
    """Normalised by true counts, 4 rows at once and 1 row at a time give the same training (no dropout here)."""
    start = {"arch": ARCHS["llama"], "tokenizer": make().backbone.tokenizer}
    train(make(backbone=start), tmp_path / "whole")
    train(make(backbone=start, micro_batch_size=1), tmp_path / "parts")
    for (step, a), (_, b) in zip(losses(tmp_path / "whole"), losses(tmp_path / "parts"), strict=True):
        assert a == pytest.approx(b, rel=2e-4), step
