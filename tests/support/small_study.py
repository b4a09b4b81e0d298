"""A study of four runs that train in a second each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fakes.evaluation import report

from unspoken.core.config import dump
from unspoken.studies.places import JobPlaces
from unspoken.studies.plan import Job
from unspoken.studies.run import Planned, planned

SMALL = """
title = "Small"
seeds = [1, 2]
chart = "latents"

[factors]
method = ["coconut", "codi"]
latents = [1, 2]

[[exclude]]
method = "codi"
latents = 2

[[runs]]
set = { "train.steps" = 4, "train.validate_every" = 4, "train.validate_limit" = 2, "train.save_every" = 2, \
"train.log_every" = 1, "train.threads" = 1, "train.warmup_steps" = 0, "speaking.max_new_tokens" = 8, \
"task.train_size" = 64, "task.validation_size" = 4, "task.test_size" = 8 }

[[runs]]
when = { method = "coconut" }
config = "tiny/coconut"
set = { method = { max_stage = "{latents}", epochs_per_stage = 0.5 } }

[[runs]]
when = { method = "codi" }
config = "tiny/codi"
set = { method = { latents = "{latents}" } }

[[evaluations]]
name = "test"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with the study's file."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "study.toml").write_text(SMALL, encoding="utf-8")
    return folder


def changed(folder: Path, old: str, new: str) -> Path:
    """The study's folder, with a text in its file replaced."""
    file = folder / "study.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder


RIGHT = {  # of 8 problems, by job
    "coconut-1-1": 4, "coconut-1-2": 6, "coconut-2-1": 5, "coconut-2-2": 8, "codi-1-1": 1, "codi-1-2": 2,
}  # fmt: skip


def finish(job: Job, right: int | None, trained: bool = True, name: str = "x") -> None:
    """Leave behind what a job does; `name` is the run's id."""
    places = JobPlaces(job.folder)
    job.folder.mkdir(parents=True)
    about = {"id": name, "config": dump(job.config), "parameters": {"trained": 7, "all": 9}}
    if trained:
        about["finished"] = {"steps": 4, "seconds": 90.0, "passes": 3, "positions_per_example": 2.0}
    (job.folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    rows = [{"kind": "train", "step": k, "examples": 10, "tokens": 500_000} for k in (2, 4)]
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    places.costs.write_text(json.dumps({"updates": 4, "seconds": None, "flops": 5e11}), encoding="utf-8")
    if right is not None:
        report([k < right for k in range(8)]).save(places.report(job.evaluations[0]))


def finished(folder: Path, runs: Path) -> Planned:
    """The study with all its jobs done."""
    found = planned(folder, runs=runs)
    for job in found.every:
        finish(job, RIGHT[job.name])
    return found
