"""What lies in a folder of runs, and what of it can go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command_line import FAST, refused, unspoken

from unspoken.evaluation.listing import find_runs, listed, size_text
from unspoken.runs.lock import Lock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run that was evaluated, one that was stopped, a broken one, and other things."""
    where = tmp_path_factory.mktemp("runs")
    assert unspoken("train", "tiny/no_cot", *FAST, "--out", where / "done").returncode == 0
    assert unspoken("eval", where / "done", "test_size=8").returncode == 0
    (where / "deep" / "stopped" / "state" / "step-00000002").mkdir(parents=True)
    about = json.loads((where / "done" / "run.json").read_text())
    del about["finished"]
    (where / "deep" / "stopped" / "run.json").write_text(json.dumps(about))
    (where / "deep" / "stopped" / "state" / "step-00000002" / "state.safetensors").write_bytes(b"x" * 5000)
    (where / "bröken run").mkdir()
    (where / "bröken run" / "run.json").write_text("{")
    (where / "notes").mkdir()
    return where


def test_runs_are_found_and_described(folder: Path):
    found = {path.name: listed(path) for path in find_runs(folder)}
    assert set(found) == {"done", "stopped", "bröken run"}
    done = found["done"]
    assert (done.state, done.method, done.task, done.step, done.steps) == ("finished", "cot", "tiny", 3, 3)
    assert done.scores["tiny"][1] == 8
    assert 0 < done.states < done.size
    assert (found["stopped"].state, found["stopped"].states) == ("stopped", 5000)
    assert found["bröken run"].state == "broken"
    assert "run.json" in (found["bröken run"].fault or "")


def test_the_command_lists_them(folder: Path):
    said = unspoken("runs", folder).stdout
    assert "finished" in said
    assert "stopped" in said
    assert {row["state"] for row in json.loads(unspoken("runs", folder, "--json").stdout)} == {
        "finished",
        "stopped",
        "broken",
    }
    refused(unspoken("runs", folder / "notes"), "no runs in")
    refused(unspoken("runs", folder / "missing"), "no such folder")


def test_clean_takes_states_of_finished_runs_only(folder: Path):
    refused(unspoken("clean", folder / "missing"), "no such folder")
    lock = Lock(folder / "done")
    lock.take()  # somebody trains there
    try:
        assert "nothing to remove" in unspoken("clean", folder, "--yes").stdout
    finally:
        lock.release()
    assert (folder / "done" / "state").is_dir()
    done = unspoken("clean", folder, "--yes")
    assert done.returncode == 0, done.stderr
    assert not (folder / "done" / "state").exists()
    assert (folder / "deep" / "stopped" / "state").is_dir()
    assert "kept" in done.stdout
    assert unspoken("ask", folder / "done", "Ann has 7 figs. How many figs has Ann?").returncode == 0


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (7.8e6, "7.8 MB"), (1.9e9, "1.9 GB")]
)
def test_sizes(count: float, said: str):
    assert size_text(count) == said
