"""Studies that really train: what is there is only read, what was killed goes on, what fails is told."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import said
from support.forks import Forked, Popen
from support.small_study import changed

from unspoken.causal.control_report import ControlsReport
from unspoken.runs.directory import RunDir
from unspoken.studies import work as work_of
from unspoken.studies import workers
from unspoken.studies.places import JobPlaces
from unspoken.studies.run import Planned, planned, write_results
from unspoken.studies.state import done, missing, report_of
from unspoken.studies.study import Evaluation
from unspoken.studies.work import work

pytestmark = pytest.mark.slow

PREPARED = """
[[prepare]]
name = "start"
config = "tiny/cot"
set = { "train.steps" = 2, "train.validate_limit" = 0, "task.train_size" = 64, "task.validation_size" = 4 }

[[runs]]
set = { "backbone.path" = "run:start", """

VOTES = """

[[evaluations]]
name = "votes"
limit = 4
samples = 3
speaking = { temperature = 1.0 }

[[evaluations]]
name = "early"
when = { method = "coconut" }
limit = 4
stop = "fixed:1"
"""

DIVERGES = """
when = { method = "coconut", latents = 2 }
set = { "train.lr" = 1e30 }

[[runs]]
when = { method = "codi" }
"""


def do(made: Planned) -> None:
    """Every chosen job in this process."""
    for job in made.chosen:
        work(job.config, JobPlaces(job.folder), list(job.evaluations))


def test_a_study_trains_asks_looks_and_verifies(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    changed(small, 'name = "test"', 'name = "test"\nexplain = true\ncontrols = 4\ninspect = 4\ninterchange = 4' + VOTES)
    changed(small, "[[runs]]\nset = { ", PREPARED)
    runs = tmp_path / "runs"
    made = planned(small, runs=runs, only=["seed=1", "latents=1"])
    assert [job.name for job in made.chosen] == ["start", "coconut-1-1", "codi-1-1"]
    do(made)
    assert all(done(job) for job in made.chosen)
    results = write_results(made).results
    (cell, _) = results["cells"]
    (figures,) = cell["evaluations"]["test"]["each"]
    assert figures["n"] == 8
    assert figures["latents"]["geometry"]["latents"] == 1.0
    assert {"shuffled", "zero", "unmodified"} <= set(figures["controls"])
    assert figures.get("interchange") is None  # nothing was right
    assert [told["each"][0]["answers"] for told in cell["evaluations"].values()] == [8, 12, 4]
    run = results["runs"]["coconut-1-1"]
    assert (run["updates"], run["examples"]) == (4, 4 * 32)
    assert run["flops"] > 4 * 32 * 2 * run["parameters"]["all"]  # a pass forward over one position of each row alone

    monkeypatch.setattr(work_of, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(work_of, "Campaign", lambda **_: pytest.fail("asked again"))
    do(made)

    code, out, _ = said("study", small, "--runs", runs, "--verify", "--only", "seed=1", "--only", "latents=1")
    assert (code, out.strip().splitlines()[-1]) == (0, "2 of 2 runs say what their cards say")
    weights = made.chosen[1].folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    code, out, _ = said("study", small, "--runs", runs, "--verify", "--only", "seed=1", "--only", "latents=1")
    assert code == 1
    assert "was changed since it was saved" in out
    code, out, _ = said("study", small, "--runs", runs, "--plan", "--only", "seed=1", "--only", "latents=1")
    assert (code, "3 runs, 3 done; about 0.0 hours left" in out) == (0, True)


def test_soft_thinking_is_asked_beside_ordinary_thinking(tmp_path: Path):
    """An evaluation of a finished run, and its controls."""
    folder = tmp_path / "run"
    shutil.copytree(RunDir("builtin:tiny").path, folder)
    places, one = JobPlaces(folder), Evaluation(name="soft", soft="soft", limit=4, controls=2, set={"max_steps": 2})
    work_of.ask(places.run, places, one)
    report = report_of(places, one)
    assert report is not None
    assert report.speaking["soft"] == "soft"
    assert report.mean_latents > 0, "mixtures"
    controls = ControlsReport.from_json(places.controls(one))
    assert [(control.label, len(control.outcomes)) for control in controls.controls] == [
        ("likeliest token", 2), ("greedy chain", 2), ("sampled chain", 2),
    ]  # fmt: skip
    assert not missing(places, one), "and nothing else is looked for"


def test_a_damaged_folder_and_a_bad_run_are_told_and_the_rest_is_done(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The command itself, with processes: one folder is no run, one run cannot be trained; the third is."""
    monkeypatch.setattr(workers.subprocess, "Popen", Popen)
    changed(small, 'when = { method = "codi" }', DIVERGES)
    runs = tmp_path / "runs"
    made = planned(small, runs=runs, only=["seed=1"])
    (bad,) = [job for job in made.chosen if job.cell == "codi-1"]
    bad.folder.mkdir(parents=True)
    (bad.folder / "run.json").write_text('{"id": "x", "conf', encoding="utf-8")
    code, out, err = said("study", small, "--runs", runs, "--only", "seed=1", "--jobs", "2")
    assert code == 1, out + err
    assert f"failed: codi-1-1: {bad.folder / 'run.json'} is truncated or broken" in err
    assert "failed: coconut-2-1: loss is not finite" in err
    assert "error: 2 runs failed" in err
    results = json.loads((small / "results.json").read_text(encoding="utf-8"))
    assert [cell["name"] for cell in results["cells"]] == ["coconut-1"]
    assert set(results["failed"]) == {"codi-1-1", "coconut-2-1"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_killed_in_the_middle_it_goes_on_to_the_same_weights(small: Path, tmp_path: Path):
    """Only the command is killed, as a system short of memory does it: the run's process notices, saves, and ends."""
    changed(small, '"train.steps" = 4', '"train.steps" = 24')
    runs = tmp_path / "runs"
    (job,) = planned(small, runs=runs, only=["seed=1", "method=codi"]).chosen
    process = Forked("study", small, "--runs", runs, "--only", "seed=1", "--only", "method=codi")
    _until(lambda: (JobPlaces(job.folder).run.latest_step() or 0) >= 2)
    process.kill()
    process.wait()
    _until(lambda: not _held(job.folder))
    step = JobPlaces(job.folder).run.latest_step()
    assert step is not None
    assert 2 <= step < 24
    again = planned(small, runs=runs, only=["seed=1", "method=codi"])
    do(again)
    do(whole := planned(small, runs=tmp_path / "whole", only=["seed=1", "method=codi"]))
    a, b = (load_file(made.chosen[0].folder / "model" / "model.safetensors") for made in (again, whole))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def _held(folder: Path) -> bool:
    """Whether a process still works on a run."""
    from unspoken.errors import RunError
    from unspoken.runs.lock import Lock

    try:
        Lock(JobPlaces(folder).claim).check()
    except RunError:
        return True
    return False


def _until(holds) -> None:
    until = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
