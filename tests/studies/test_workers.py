"""Jobs side by side, with processes that only pretend to work: order, failures, locks, being stopped."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from unspoken.errors import ConfigError
from unspoken.runs.lock import Lock
from unspoken.studies import workers
from unspoken.studies.places import BUSY, JobPlaces
from unspoken.studies.plan import Job
from unspoken.studies.run import planned, run_study
from unspoken.studies.workers import Workers, environment, places_to_run

PRETENDS = """
import json, os, signal, sys, time
job = json.loads(sys.stdin.readline())
name = os.path.basename(job["folder"])
log = open(os.path.join(os.path.dirname(job["folder"]), "order"), "a")
print(name, "begins", time.monotonic(), os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], file=log, flush=True)
print("a library says something", flush=True)
print(json.dumps({"doing": "training", "step": 1, "of": 2}), flush=True)
if "slow" in name: time.sleep(0.8)
if "sleeps" in name: sys.stdin.read()
if "dies" in name: os.kill(os.getpid(), signal.SIGKILL)
if "busy" in name and not os.path.exists(job["folder"] + ".seen"):
    open(job["folder"] + ".seen", "w").close()
    sys.exit(75)
if "bad" in name:
    print("error: it is\\nerror: no good", file=sys.stderr)
    sys.exit(2)
print(name, "ends", time.monotonic(), file=log, flush=True)
"""


def job(folder: Path, name: str, *needs: str) -> Job:
    config: Any = {"train": {}}  # no process of these tests reads it
    return Job(
        name=name, cell=name, combination={}, seed=1, config=config, fingerprint="", folder=folder / name,
        needs=needs, evaluations=(),
    )  # fmt: skip


class Run:
    """Workers over pretended jobs, and what they have told."""

    def __init__(self, folder: Path, jobs: list[Job], places: list[str]) -> None:
        self.folder, self.said = folder, []
        script = folder / "pretends.py"
        script.write_text(PRETENDS, encoding="utf-8")
        self.workers = Workers(jobs=jobs, places=places, tell=self.tell, command=(sys.executable, str(script)))

    def tell(self, name: str, what: Any) -> None:
        self.said.append((name, what["doing"]))

    def order(self) -> list[list[str]]:
        return [line.split() for line in (self.folder / "order").read_text().splitlines()]

    def names(self, what: str) -> list[str]:
        return [line[0] for line in self.order() if line[1] == what]


def test_a_job_begins_when_what_it_needs_is_done(tmp_path: Path):
    run = Run(tmp_path, [job(tmp_path, "slow"), job(tmp_path, "b", "slow"), job(tmp_path, "c")], ["cpu", "cpu"])
    run.workers.go()
    at = {(line[0], line[1]): float(line[2]) for line in run.order()}
    assert at["b", "begins"] > at["slow", "ends"]
    assert at["c", "begins"] < at["slow", "ends"]  # meanwhile
    assert sorted(run.workers.ended) == ["b", "c", "slow"]
    assert ("slow", "training") in run.said
    assert ("slow", "done") in run.said


def test_one_that_fails_stops_no_other_but_those_that_start_from_it(tmp_path: Path):
    names = [
        job(tmp_path, "bad"),
        job(tmp_path, "dies"),
        job(tmp_path, "x", "bad"),
        job(tmp_path, "y", "x"),
        job(tmp_path, "z"),
    ]
    run = Run(tmp_path, names, ["cpu"])
    run.workers.go()
    assert run.workers.ended == ["z"]
    assert run.workers.failed["bad"] == "no good"
    assert "signal 9" in run.workers.failed["dies"]
    assert run.workers.failed["x"] == "it starts from bad, which failed"
    assert run.workers.failed["y"] == "it starts from x, which failed"
    assert str(JobPlaces(tmp_path / "dies").log) in run.workers.failed["dies"]


def test_a_job_of_somebody_else_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "WAIT", 0.3)
    taken = Lock(JobPlaces(tmp_path / "taken").claim)
    taken.take()
    run = Run(tmp_path, [job(tmp_path, "taken"), job(tmp_path, "busy"), job(tmp_path, "a")], ["cpu"])
    threading.Timer(1.0, taken.release).start()
    run.workers.go()
    assert run.names("ends") == ["a", "busy", "taken"] or run.names("ends")[0] == "a"
    assert run.names("begins").count("busy") == 2
    assert run.names("begins").count("taken") == 1  # no process is started for a job that is held
    assert sorted(run.workers.ended) == ["a", "busy", "taken"]
    assert BUSY == 75


def test_processes_are_asked_to_stop_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run(tmp_path, [job(tmp_path, "sleeps"), job(tmp_path, "later")], ["cpu"])
    real = threading.Thread.join

    def join(self: threading.Thread, timeout: float | None = None) -> None:
        if (tmp_path / "order").exists() and not run.workers._stopped:
            raise KeyboardInterrupt
        real(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt):
        run.workers.go()
    assert run.names("begins") == ["sleeps"]
    pid = int(run.order()[0][3])
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_places(monkeypatch: pytest.MonkeyPatch):
    assert places_to_run(None, None) == ["cpu"]
    assert places_to_run(3, None) == ["cpu"] * 3
    assert places_to_run(None, ["cuda:0", "cuda:0", "cuda"]) == ["cuda:0", "cuda:0", "cuda"]
    for jobs, devices in ((0, None), (-1, None), (1, ["cpu"]), (None, ["gpu:0"]), (None, ["cuda:x"]), (None, [""])):
        with pytest.raises(ConfigError, match=r"--jobs|--devices"):
            places_to_run(jobs, devices)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment("cpu")["CUDA_VISIBLE_DEVICES"] == ""
    assert environment("cuda:3")["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment("cuda")["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert environment("cuda:1")["CUDA_VISIBLE_DEVICES"] == "7"


def test_a_line_is_a_whole_job(small: Path):
    made = planned(small, runs="runs").every[0]
    data = json.loads(made.line())
    assert made.line().count("\n") == 1
    assert data["config"]["method"]["name"] == "coconut"
    assert data["folder"] == str(made.folder)
    assert [one["name"] for one in data["evaluations"]] == ["test"]


def test_a_gpu_that_is_not_there_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    made = planned(small, runs="runs")
    with pytest.raises(ConfigError, match=r"cuda:1 is not there; this machine has 1 GPUs"):
        run_study(made, devices=["cuda:0", "cuda:1"], tell=lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"give --jobs for the CPU"):
        run_study(made, devices=["cuda"], tell=lambda *_: None)


def test_a_process_that_cannot_be_started_is_that_job_s_failure(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").mkdir()  # where its log would go
    run = Run(tmp_path, [job(tmp_path, "a"), job(tmp_path, "b")], ["cpu"])
    run.workers.go()
    assert run.workers.ended == ["b"]
    assert "a.log" in run.workers.failed["a"]
