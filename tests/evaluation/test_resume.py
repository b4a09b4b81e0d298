"""An evaluation that is stopped and goes on, or is shared by processes, leaves the records of one in one go."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fakes.evaluation import FakeTask
from support.forks import Forked, forked, in_two
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.errors import ConfigError, RunError
from unspoken.evaluation import claim
from unspoken.evaluation.evaluator import evaluate, weights_of
from unspoken.evaluation.processes import Processes, processes
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.resume import PartialReport
from unspoken.tasks import make_task

LIMIT = 22
HOW: dict[str, Any] = {"limit": LIMIT, "batch_size": 4, "temperature": 1.3, "seed": 5, "max_new_tokens": 16}
TIMES = ("seconds", "loop_seconds", "ms_per_question", "loop_ms_per_question", "tokens_per_second", "time")


@pytest.fixture(scope="module")
def model() -> Any:
    return unspoken.load("builtin:tiny", device="cpu")


@pytest.fixture(scope="module")
def task() -> Any:
    return make_task("tiny")


def timeless(data: Any) -> Any:
    """A report's JSON without what a clock says."""
    if isinstance(data, dict):
        return {name: timeless(value) for name, value in data.items() if name not in TIMES}
    return [timeless(value) for value in data] if isinstance(data, list) else data


def plain(report: EvalReport) -> Any:
    return timeless(json.loads(report.to_json()))


def stopping(after: int) -> Any:
    """A progress that stops the evaluation once so many questions are answered."""

    def progress(done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def whole(model: Any, task: Any, tmp_path_factory: pytest.TempPathFactory) -> EvalReport:
    return evaluate(model, task, keep=PartialReport(tmp_path_factory.mktemp("whole") / "r.json"), **HOW)


def test_kept_batches_are_what_one_call_answers(model: Any, task: Any, whole: EvalReport):
    """Sampled answers too: they depend on the place in the split, not on the call."""
    assert evaluate(model, task, **HOW).records == whole.records
    assert len({record.text for record in whole.records}) > 5


@pytest.mark.parametrize("after", [1, 8, 21])
def test_interrupted_and_resumed_is_the_same_json(model: Any, task: Any, whole: EvalReport, tmp_path: Path, after: int):
    keep = PartialReport(tmp_path / "r.json")
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, task, keep=keep, progress=stopping(after), **HOW)
    (file,) = keep.files()
    lines = file.read_text().count("\n") - 1
    assert lines == -(-after // 4)  # batches of 4, all of which are kept
    with file.open("a") as out:
        out.write('{"batch": 5, "rec')  # a kill in the middle of a line
    seen: list[int] = []
    report = evaluate(model, task, keep=keep, progress=lambda done, _: seen.append(done), **HOW)
    assert plain(report) == plain(whole)
    assert seen[0] == min(4 * lines, LIMIT)
    assert file.read_text().count('"batch": ') == 6  # what was kept is not answered again
    assert report.seconds > 0
    report.save(tmp_path / "r.json")
    keep.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_shares_of_processes_make_the_whole(model: Any, task: Any, whole: EvalReport, tmp_path: Path):
    """One after the other here, so the first finds batches missing; each answers its own, and none twice."""
    first, second = (PartialReport(tmp_path / "r.json", Processes(index, 2)) for index in (0, 1))
    with pytest.raises(RunError, match="3 of 6 batches are missing beside"):
        evaluate(model, task, keep=first, **HOW)
    with pytest.raises(RunError, match="2 of 6 batches are missing"):  # of the 3 that are left it takes every second
        evaluate(model, task, keep=second, **HOW)
    alone = PartialReport(tmp_path / "r.json")
    assert plain(evaluate(model, task, keep=alone, **HOW)) == plain(whole)
    batches = [json.loads(line).get("batch") for file in alone.files() for line in file.read_text().splitlines()]
    assert sorted(b for b in batches if b is not None) == list(range(6))


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"temperature": 1.0}, "speaking"), ({"seed": 6}, "speaking"), ({"batch_size": 5}, "plan, batch_size"),
     ({"limit": 21}, "plan, limit"), ({"samples": 2}, "plan, samples")],
)  # fmt: skip
def test_other_settings_do_not_go_on(model: Any, task: Any, tmp_path: Path, changed: dict[str, Any], named: str):
    keep = PartialReport(tmp_path / "r.json")
    other = dict[str, Any](HOW, **changed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, task, keep=keep, progress=stopping(4), **HOW)
    with pytest.raises(RunError, match=rf"other settings \({named}\); give the same settings .* or --restart"):
        evaluate(model, task, keep=keep, **other)
    again = evaluate(model, task, keep=PartialReport(tmp_path / "r.json", restart=True), **other)
    assert again.n == changed.get("limit", LIMIT)


def test_settings_that_were_refused_leave_nothing_in_the_way(model: Any, task: Any, tmp_path: Path):
    keep = PartialReport(tmp_path / "eval.json")
    refused: dict[str, Any] = {**HOW, "samples": 3, "temperature": 0.0}
    with pytest.raises(ConfigError):
        evaluate(model, task, keep=keep, **refused)
    assert keep.files()
    evaluate(model, task, keep=keep, **HOW)  # other settings, and nothing had been answered


def test_the_command_says_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ["eval", "builtin:tiny", "--limit", "18", "--batch-size", "2", "--no-controls", "--max-new-tokens", "8"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0
    assert "going on" not in first.output
    seen: list[int] = []
    append = PartialReport.open

    def open_and_stop(self: PartialReport, settings: Any) -> Any:
        write = append(self, settings)

        def one(line: Any) -> None:
            write(line)
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt

        return one

    with monkeypatch.context() as patched:
        patched.setattr(PartialReport, "open", open_and_stop)
        assert CliRunner().invoke(app, words).exit_code == 130
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    assert "going on: 4 of 18 problems were answered before" in again.output


def test_other_weights_do_not_go_on(task: Any, tmp_path: Path):
    changed = unspoken.load("builtin:tiny", device="cpu")
    keep = PartialReport(tmp_path / "r.json")
    with pytest.raises(KeyboardInterrupt):
        evaluate(changed, task, keep=keep, progress=stopping(4), **HOW)
    before = weights_of(changed)
    next(changed.method.backbone.parameters()).data[0, 0] += 1e-3
    assert weights_of(changed) != before
    with pytest.raises(RunError, match=r"other settings \(model\)"):
        evaluate(changed, task, keep=keep, **HOW)


def test_a_file_that_is_no_such_file_is_named(model: Any, task: Any, tmp_path: Path):
    (tmp_path / "r.partial-0.jsonl").write_text("nothing\n")
    with pytest.raises(RunError, match=r"r.partial-0.jsonl cannot be read .* --restart"):
        evaluate(model, task, keep=PartialReport(tmp_path / "r.json"), **HOW)


def test_one_process_asks_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() == Processes(index=0, count=1)
    assert processes().main
    processes().wait()


def test_a_launcher_whose_processes_are_not_seen_is_refused(monkeypatch: pytest.MonkeyPatch):
    alone = SimpleNamespace(num_processes=1, process_index=0)
    monkeypatch.setattr("accelerate.PartialState", lambda **how: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but accelerate sees 1 processes"):
        processes()


def test_nothing_is_taken_for_granted_of_a_model_without_weights():
    assert weights_of(FakeTask()) is None


@pytest.mark.slow
def test_two_processes_give_the_records_of_one(tmp_path: Path):
    """As a user runs it; sampled, so that a problem's place must decide, and not its share."""
    options = ["--limit", str(LIMIT), "--batch-size", "4", "--temperature", "1.3", "--seed", "5", "--max-new-tokens", "16"]
    done = in_two("eval", "builtin:tiny", *options, "--out", tmp_path / "two.json", env={"ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1  # one process speaks
    one = CliRunner().invoke(app, ["eval", "builtin:tiny", *options, "--out", str(tmp_path / "one.json")])
    assert one.exit_code == 0, one.output
    reports = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert timeless(reports[0]) == timeless(reports[1])
    assert len({record["id"] for record in reports[1]["records"]}) == LIMIT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


HELD = """
import sys, time
from pathlib import Path
from unspoken.evaluation import claim
claim.claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_evaluation_leaves_the_first_be(model: Any, task: Any, tmp_path: Path, whole: EvalReport, restart: bool):
    """It is refused in one line, in another process and in this one, and what the first has kept is not touched."""
    keep, met = PartialReport(tmp_path / "r.json"), []

    def meanwhile(done: int, total: int) -> None:
        if done and not met:
            before = [file.read_bytes() for file in keep.files()]
            met.append(forked("eval", "builtin:tiny", "--limit", "4", "--batch-size", "2", "--out", tmp_path / "r.json"))
            with pytest.raises(RunError, match="another evaluation"):
                evaluate(model, task, keep=PartialReport(tmp_path / "r.json", restart=restart), **HOW)
            assert [file.read_bytes() for file in keep.files()] == before

    report = evaluate(model, task, keep=keep, progress=meanwhile, **HOW)
    assert report.records == whole.records
    (second,) = met
    assert second.returncode == 2
    assert f"another evaluation (pid {os.getpid()}) is writing {tmp_path / 'r.json'}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    keep.forget()
    assert list(tmp_path.iterdir()) == []
    evaluate(model, task, keep=PartialReport(tmp_path / "r.json"), **HOW)  # the place is free again


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    """The system gives it back, whatever is left of its file; a living one keeps it."""
    lock = PartialReport(tmp_path / "r.json").lock
    held = Forked(lock, script=HELD)
    held.until(lambda: held.stdout() == "held\n")
    with pytest.raises(RunError, match=f"pid {held.pid}"):
        claim.claim(lock)
    held.kill()
    held.wait()
    assert lock.exists()
    claim.claim(lock)
    claim.release(lock)
    assert not lock.exists()
