"""What goes to a machine with a GPU: jobs end in time, results come back, runs are planned by measured speed."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks.gpu_pack import results, runs
from benchmarks.gpu_pack.jobs import ROOT, Board, Job
from benchmarks.gpu_pack.prepare import split
from unspoken.recipes import recipe

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
FAILS = [sys.executable, "-c", "import sys; print('so far'); sys.exit('no such thing')"]


def board(folder: Path, seconds: float, **more) -> Board:
    return Board(folder / "work", folder / "out", seconds, {"FROM_THE_CALL": "yes"}, **more)


def ends(name: str, **more) -> Job:
    return Job(name=name, command=lambda: [sys.executable, "-c", "pass"], until=30, **more)


def test_a_job_is_ended_in_time_and_with_all_that_it_has_started(tmp_path):
    stays = "import subprocess, sys; print(subprocess.Popen(['sleep', '61']).pid, flush=True); import time; time.sleep(61)"
    jobs = board(tmp_path, 20)
    jobs.add(Job(name="long", command=lambda: [sys.executable, "-c", stays], until=1.5))
    jobs.run()
    assert jobs.jobs["long"].ended == "out of time"
    assert jobs.clock < 10
    started = int((jobs.logs / "long.out").read_text())
    said = Path(f"/proc/{started}/stat")
    assert not said.exists() or said.read_text().split()[2] == "Z"


def test_jobs_begin_after_others_however_those_end(tmp_path):
    jobs = board(tmp_path, 30)
    order: list[str] = []

    def noted(name: str, command: list[str] | None):
        return lambda: order.append(name) or command

    jobs.add(Job(name="last", command=noted("last", None), until=30, after=["fails", "none"]))
    jobs.add(Job(name="fails", command=noted("fails", FAILS), until=30))
    jobs.add(Job(name="none", command=noted("none", None), until=30, after=["fails"]))
    jobs.run()
    assert order == ["fails", "none", "last"]
    assert [jobs.jobs[name].ended for name in order] == ["failed with 1", "nothing to do", "nothing to do"]
    assert "no such thing" in (tmp_path / "out" / "progress.log").read_text()
    assert (jobs.logs / "fails.out").read_text() == "so far\n"


def test_what_only_watches_keeps_no_call_open(tmp_path):
    jobs = board(tmp_path, 30)
    jobs.add(Job(name="watch", command=lambda: SLEEPS, until=30, aside=True), ends("short"))
    jobs.run()
    assert jobs.clock < 15
    assert (jobs.jobs["short"].ended, jobs.jobs["watch"].ended) == ("done", None)
    assert jobs.jobs["watch"].process is not None
    jobs.jobs["watch"].process.kill()


def test_a_lane_has_so_many_places(tmp_path):
    jobs = board(tmp_path, 40, lanes={"narrow": 2})
    jobs.add(*(ends(str(number), lane="narrow") for number in range(5)))
    most = 0

    def look(_: float) -> None:
        nonlocal most
        most = max(most, sum(job.process is not None and job.ended is None for job in jobs.jobs.values()))

    jobs.watchers.append(look)
    jobs.run()
    assert most == 2
    assert all(job.ended == "done" for job in jobs.jobs.values())


@pytest.mark.parametrize("odd", ["pass", "1 / 0"])
def test_a_call_leaves_before_its_time_is_over_and_brings_back_what_there_is(odd, tmp_path):
    """In a process of its own, which ends there; also where the script itself fails."""
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from benchmarks.gpu_pack.jobs import Board, Job
with Board(Path({str(tmp_path / "work")!r}), Path({str(tmp_path / "out")!r}), 5, {{}}) as board:
    board.add(Job(name="long", command=lambda: {SLEEPS!r}, until=100), Job(name="bad", command=lambda: {FAILS!r}, until=100))
    board.run(until=2)
    {odd}
"""
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-c", script], timeout=20).returncode
    assert code == (odd != "pass")
    assert time.monotonic() - began < 10
    with tarfile.open(tmp_path / "out" / "results-1.tar.gz") as archive:
        assert {"logs/bad.out", "logs/bad.err", "logs/long.command"} <= set(archive.getnames())
    told = (tmp_path / "out" / "progress.log").read_text()
    assert "long the call is over; bad failed with 1" in told
    assert ("ZeroDivisionError" in told) == (odd != "pass")


def test_results_are_reports_and_never_weights(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    for name in ("runs/cot/metrics.jsonl", "runs/cot/model/config.json", "runs/cot/weights.safetensors", "cards/a.json"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("{}")
    out.mkdir()
    (archive,) = results.pack(work, out)
    with tarfile.open(archive) as opened:
        assert sorted(opened.getnames()) == ["cards/a.json", "runs/cot/metrics.jsonl"]


def test_results_are_spread_over_archives_of_bounded_size(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    for number in range(6):
        (work / f"{number}.json").write_bytes(bytes((i * i + number) % 251 for i in range(200_000)))
    archives = results.pack(work, out, most=1)
    assert len(archives) > 1
    names = []
    for archive in archives:
        with tarfile.open(archive) as opened:
            names += opened.getnames()
    assert sorted(names) == [f"{number}.json" for number in range(6)]


def test_a_files_parts_make_the_file(tmp_path):
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(bytes(range(256)) * 10)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    about = split(whole, *folders)
    parts = [folder / name for folder, name in zip(folders, about["parts"], strict=True)]
    assert all(part.stat().st_size for part in parts)
    assert b"".join(part.read_bytes() for part in parts) == whole.read_bytes()


@pytest.mark.parametrize("rehearsed", [False, True])
@pytest.mark.parametrize("name", runs.RUNS)
def test_every_run_is_a_config(name, rehearsed, tmp_path):
    """Its overrides exist, and its last stage begins where it should."""
    command = runs.training(name, tmp_path / "cot", tmp_path / name, 600, runs.Size(), 1, rehearsed=rehearsed)
    config = recipe(command[4], command[5 : command.index("--out")])
    assert (config.train.steps, config.train.epochs, config.train.batch_size) == (600, None, runs.Size().update)
    assert config.backbone.lora is None
    inner = getattr(config.method, "inner", config.method)
    if (told := runs.RUNS[name].stages) is not None:
        stages = told[1]
        begins = inner.epochs_per_stage * stages * runs.ROWS / runs.Size().update
        assert begins == pytest.approx(3 * stages if rehearsed else 600 * runs.LAST_STAGE, abs=0.5)
        assert inner.first_stage == inner.max_stage + 1 - stages


def test_coconut_without_its_first_part_learns_to_write_steps_first(tmp_path):
    command = runs.training("coconut", tmp_path / "base", tmp_path / "coconut", 600, runs.Size(), 1)
    assert recipe(command[4], command[5 : command.index("--out")]).method.first_stage == 0


def test_a_pair_is_planned_by_the_slower_run(tmp_path):
    file = tmp_path / "speeds.json"
    file.write_text(json.dumps({"codi": 0.2, "sim_cot_codi": 0.4}))
    update = runs.speeds(file)
    assert runs.pace_of("codi", update) == 0.4
    assert runs.planned(runs.START + 100, 0.4, runs.Size()) == int(100 * runs.SAFE / 0.4)
    assert update("cot") == runs.RUNS["cot"].update  # not rehearsed
    file.write_text("[")
    assert runs.speeds(file)("codi") == runs.RUNS["codi"].update


def test_pace_is_seen_from_the_metrics_and_leaves_validations_out(tmp_path):
    pace, run = runs.Pace({"codi": tmp_path}), tmp_path / "metrics.jsonl"
    for clock, step in ((0.0, 2), (10.0, 20), (12.0, 24), (14.2, 28), (30.0, 32), (31.8, 36)):
        with run.open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
        pace.look(clock)
        pace.look(clock + 1)  # nothing new
    with run.open("a") as file:
        file.write('{"step": 5')  # cut off
    pace.look(40.0)
    assert pace.updates(20) == {"codi": pytest.approx(0.5)}
    assert pace.updates(36) == {}
