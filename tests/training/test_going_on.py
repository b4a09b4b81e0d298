"""A run that was stopped, or has failed, goes on: with what may be changed about it, alone in its directory."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import refused, unspoken
from support.forks import Forked

from unspoken.core.config import dump
from unspoken.errors import RunError
from unspoken.runs import lock as locks
from unspoken.runs.directory import RunDir
from unspoken.runs.lock import LOCK, Lock
from unspoken.training.loop import Training, train
from unspoken.training.signals import Interrupted
from unspoken.training.validation import Validation


def same(a: Path, b: Path) -> None:
    """Two runs have the same weights, optimizer, random states and metrics rows."""
    (x,), (y,) = ((run / "state").glob("step-*") for run in (a, b))
    one, two = load_file(x / "state.safetensors"), load_file(y / "state.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert plain(a) == plain(b)


def plain(run: Path) -> list[dict[str, Any]]:
    """Metrics rows without times."""
    rows = RunDir(run).metrics()
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows]


# what may be changed


def test_a_run_that_fails_in_validation_goes_on_without_it(make, tmp_path, monkeypatch):
    train(make(validate_limit=0), tmp_path / "whole")

    def failing(*_: Any) -> None:
        raise RuntimeError("expected m1 and m2 to have the same dtype")

    with monkeypatch.context() as patched:
        patched.setattr(Validation, "score", failing)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="same dtype"):
                train(make(save_every=2), tmp_path / "run")
    assert RunDir(tmp_path / "run").latest_step() == 2
    train(make(validate_limit=0, save_every=4), tmp_path / "run")
    a, b = (load_file(next((tmp_path / n / "state").glob("step-*")) / "state.safetensors") for n in ("whole", "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    about = RunDir(tmp_path / "run").read()
    assert about["history"] == [{"step": 2, "changed": {"train.save_every": [2, 4], "train.validate_limit": [4, 0]}}]
    assert about["config"]["train"]["validate_limit"] == 0


FREE: list[dict[str, Any]] = [
    {
        "validate_every": 3, "validate_limit": 2, "select": "loss", "stability_limit": 1, "save_every": 3, "log_every": 2,
        "threads": 1, "keep_every": 6,
    },
    {"micro_batch_size": 2},
    {"micro_batch_tokens": 90},
]  # fmt: skip
BOUND = {
    "lr": 1e-5, "steps": 20, "batch_size": 3, "weight_decay": 0.5, "seed": 1, "precision": "bf16", "schedule": "cosine",
    "clip": None, "warmup_steps": 2, "length_window": 1, "max_positions": 400,
}  # fmt: skip


def stopped_at_six(make: Any, out: Path, monkeypatch: Any, **how: Any) -> None:
    step = Training._train_step

    def dying(self: Training) -> None:
        if self.step == 6:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(make(**how), out)


@pytest.mark.parametrize("changed", FREE, ids=lambda changed: next(iter(changed)))
def test_what_is_watched_and_kept_may_change(make, tmp_path, monkeypatch, changed):
    """All at once: weights are the same to the bit, but for other micro-batches, which draw other dropout."""
    stopped_at_six(make, tmp_path / "run", monkeypatch)
    train(make(**changed), tmp_path / "run")
    (history,) = RunDir(tmp_path / "run").read()["history"]
    assert set(history["changed"]) == {f"train.{name}" for name in changed}
    assert RunDir(tmp_path / "run").latest_step() == 12
    if any(name.startswith("micro") for name in changed):
        return
    train(make(), tmp_path / "whole")
    a, b = (load_file(next((tmp_path / n / "state").glob("step-*")) / "state.safetensors") for n in ("whole", "run"))
    assert all(torch.equal(a[key], b[key]) for key in a if key.startswith("weights/"))


def test_what_is_trained_may_not(make, tmp_path):
    train(make(steps=2), tmp_path / "run")
    for name in BOUND:
        with pytest.raises(RunError, match=rf"another config \(train.{name}\)"):
            train(make(**{"steps": 2, name: BOUND[name]}), tmp_path / "run")
        with pytest.raises(RunError, match=rf"another config \(train.{name}\)"):  # also beside what may change
            train(make(**{"steps": 2, "log_every": 5, name: BOUND[name]}), tmp_path / "run")
    assert "history" not in RunDir(tmp_path / "run").read()


def test_scores_measured_otherwise_are_not_compared(make, tmp_path, monkeypatch):
    """The best model so far had its score from other problems: the next one takes its place, whatever its score."""
    found = iter([0.9, 0.9, 0.1])
    score = Validation.score
    monkeypatch.setattr(Validation, "score", lambda *given: {**score(*given), "accuracy": next(found)})
    method = {"name": "cot"}
    stopped_at_six(make, tmp_path / "run", monkeypatch, method=method)
    run = train(make(method, validate_limit=3, validate_every=6), tmp_path / "run")  # validates at 6 and 12
    assert [row["kept"] for row in run.metrics() if row["kind"] == "validation"] == [True, True, False]


def test_a_finished_run_is_not_changed(make, tmp_path):
    train(make(steps=2), tmp_path / "run")
    with pytest.warns(UserWarning, match=r"is finished: train.log_every changes nothing any more"):
        train(make(steps=2, log_every=7), tmp_path / "run")
    assert RunDir(tmp_path / "run").config().train.log_every == 1


# being stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_training_behind_the_step_with_a_state(make, tmp_path, monkeypatch, number, request):
    how = {"save_every": 500, "log_every": 3, "validate_every": 5}
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, or in the background, a shell has it ignored
    request.addfinalizer(lambda: signal.signal(number, before))
    train(make(**how), tmp_path / "whole")
    step = Training._train_step

    def hit(self: Training) -> None:
        step(self)
        if self.step == 4:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_step", hit)
        with pytest.raises(Interrupted) as stop:
            train(make(**how), tmp_path / "run")
    assert (stop.value.number, stop.value.step) == (number, 4)
    assert RunDir(tmp_path / "run").latest_step() == 4
    assert not (tmp_path / "run" / LOCK).exists()
    train(make(**how), tmp_path / "run")
    same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("behind", [False, True])
def test_a_signal_in_validation_does_not_wait_for_its_end(make, tmp_path, monkeypatch, behind):
    """The state that is saved knows that its step is still to be validated; be it hit before or after the row is written."""
    how = {"save_every": 500, "log_every": 3, "validate_every": 4, "stability_limit": 2}
    train(make(**how), tmp_path / "whole")
    score, watch = Validation.score, Training._watch

    def hit(self: Any, *given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(self, *given)

    def hit_later(self: Training) -> None:
        if self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        watch(self)

    with monkeypatch.context() as patched:
        if behind:
            patched.setattr(Training, "_watch", hit_later)
        else:
            patched.setattr(Validation, "score", hit)
        with pytest.raises(Interrupted):
            train(make(**how), tmp_path / "run")
    assert RunDir(tmp_path / "run").latest_step() == 4
    train(make(**how), tmp_path / "run")
    same(tmp_path / "whole", tmp_path / "run")


def test_signals_are_nobody_elses_business_afterwards(make, tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    train(make(steps=1, validate_limit=0), tmp_path / "run")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def started(make: Any, tmp_path: Path, out: str, **how: Any) -> Forked:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(dump(make(**{"steps": 4000, "validate_limit": 0, **how}))))
    process = Forked("train", recipe, "--out", tmp_path / out, "--quiet")
    metrics = tmp_path / out / "metrics.jsonl"
    process.until(lambda: metrics.exists() and metrics.stat().st_size > 0)  # a step is done
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_where_it_goes_on(make, tmp_path, number, code):
    process = started(make, tmp_path, "run", save_every=1000, log_every=1)
    process.send_signal(number)
    said = process.done(timeout=60)
    assert said.returncode == code
    step = RunDir(tmp_path / "run").latest_step()
    assert f"interrupted; the same command goes on from step {step}\n" in said.stderr
    assert step


# alone in the directory


@pytest.mark.slow
def test_a_second_training_is_refused_and_a_killed_one_holds_nobody_up(make, tmp_path):
    process = started(make, tmp_path, "run", log_every=1)
    try:
        words = (tmp_path / "recipe.json", "--out", tmp_path / "run", "--quiet")
        refused(unspoken("train", *words), f"is being trained by process {process.pid} on ", "give another --out")
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "run" / LOCK).exists()
    Lock(tmp_path / "run").check()


def test_the_lock_is_taken_once_and_leaves_nothing(make, tmp_path):
    first, second = Lock(tmp_path / "run"), Lock(tmp_path / "run")
    first.take()
    with pytest.raises(RunError, match=rf"is being trained by process {os.getpid()} on "):
        second.take()
    with pytest.raises(RunError, match="is being trained"):
        train(make(), tmp_path / "run")
    first.release()
    train(make(steps=1), tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_that_fails_lets_go_of_the_lock(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "_train_step", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(make(), tmp_path / "run")
    Lock(tmp_path / "run").take()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def none(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with pytest.warns(UserWarning, match=r"cannot be locked \(Operation not supported\)"):
        Lock(tmp_path / "run").take()
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.warns(UserWarning, match="this system has no file locks"):
        Lock(tmp_path / "other").take()


def test_somebodys_folder_gets_no_lock_file(make, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="exists and is no run directory"):
        train(make(), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
