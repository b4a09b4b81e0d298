"""Places and clocks that fail during a training; benchmarks/faults.py has real disks that fill up, break and go away."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.kills import contents, differing
from unspoken.errors import TrainingError
from unspoken.runs.directory import RunDir
from unspoken.training.callbacks import Callback
from unspoken.training.loop import train

METHOD = {"name": "coconut", "curriculum": "none"}


class At(Callback):
    """Does something once, at a step."""

    def __init__(self, step, fault):
        self.step, self.fault = step, fault

    def on_step(self, run, row):
        if row["step"] == self.step:
            self.step = None
            self.fault(run.path)


def move(run: Path) -> None:
    run.rename(f"{run}-away")


def replace(run: Path) -> None:
    """Somebody has moved it, and started the same command again."""
    shutil.copytree(run, f"{run}-away")
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace(RunDir(run).read()["id"], "another"))


@pytest.mark.parametrize(
    ("fault", "why"), [(move, "No such file"), (replace, "another run"), (shutil.rmtree, "No such file")]
)
def test_a_run_that_is_taken_away_ends_its_training_and_is_not_made_anew(make, tmp_path, fault, why):
    config = make(METHOD, steps=6, save_every=2, validate_limit=0)
    whole, run = train(config, tmp_path / "whole").path, tmp_path / "run"
    with pytest.raises(TrainingError, match=rf"run was taken away while it was trained \(.*{why}.*the same command again"):
        train(config, run, callbacks=[At(3, fault)])
    assert run.exists() == (fault is replace)
    if (away := Path(f"{run}-away")).exists():
        shutil.rmtree(run, ignore_errors=True)
        away.rename(run)
        assert RunDir(run).latest_step() == 2
    train(config, run)
    assert differing(contents(whole), contents(run)) == []


def test_a_clock_that_jumps_changes_nothing(make, tmp_path, monkeypatch):
    config = make(METHOD, steps=4, save_every=2, validate_every=2)
    whole = train(config, tmp_path / "whole").path
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", time.time)  # what stood there comes back in the end
        patched.setattr(time, "time_ns", time.time_ns)
        faults.jump(-3.2e7)
        train(config, tmp_path / "run")
    assert differing(contents(whole), contents(tmp_path / "run")) == []


@pytest.mark.slow
@pytest.mark.skipif(not faults.mountable(), reason="a disk of its own takes root on Linux, with loop devices")
def test_a_disk_that_is_full_is_told_and_the_run_goes_on_when_it_is_not(tmp_path):
    found = faults.trial("full", tmp_path / "full", random.Random(0))
    assert found["different"] == []
