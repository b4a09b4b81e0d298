"""`unspoken inspect` and `unspoken probe` as a user meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.command_line import FAST, refused, unspoken


@pytest.fixture(scope="module")
def coconut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspect") / "coconut"
    done = unspoken("train", "tiny/coconut", *FAST, "train.stability_limit=3", "train.steps=4", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_inspect_writes_a_page_and_json(coconut: Path, tmp_path: Path) -> None:
    how = ("test_size=5", "-n", "3", "--counts", "2,4", "--figures", "PNG, pdf")
    done = unspoken("inspect", coconut, *how, "--out", tmp_path / "seen")
    assert done.returncode == 0, done.stderr
    assert "3 test problems of tiny" in " ".join(done.stdout.split())
    files = {file.name for file in (tmp_path / "seen").iterdir()}
    figures = ("training", "stability", "by-number-of-latents", "attention", "similarity", "attention-by-layer")
    drawn = {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert files == {"index.html", "inspect.json", "latents.npz", *drawn}
    data = json.loads((tmp_path / "seen" / "inspect.json").read_text())
    assert data["n"] == len(data["problems"]) == 3
    assert [told["latents"] for told in data["counts"]] == [2, 4]
    assert [row["step"] for row in data["history"]] == [0, 4]
    assert data["problems"][0]["thoughts"][0]["decoded"] is None
    assert data["figures"].get("chaining") is None


def test_two_runs_side_by_side(coconut: Path, tmp_path: Path) -> None:
    """Their names are in the files' names; what has a `=` is an override, unless it is a folder."""
    other = tmp_path / "lr=1"
    shutil.copytree(coconut, other)
    done = unspoken("inspect", coconut, other, "test_size=5", "-n", "2", "--counts", "none")
    assert done.returncode == 0, done.stderr
    folder = coconut / "inspect-tiny-test-beside-lr=1"
    names = {"index.html", "inspect-coconut.json", "latents-coconut.npz", "inspect-lr=1.json", "latents-lr=1.npz"}
    assert {file.name for file in folder.iterdir()} == names
    said = " ".join(done.stdout.split())
    assert "coconut: " in said
    assert "lr=1: " in said
    refused(unspoken("inspect", coconut, other, other), "one run, or at two side by side", "got a third")
    refused(unspoken("inspect", coconut, tmp_path / "none"), "no such folder")


def test_inspect_has_a_place_of_its_own(coconut: Path) -> None:
    done = unspoken("inspect", coconut, "test_size=5", "-n", "1", "--counts", "none", "--latents", "2")
    assert done.returncode == 0, done.stderr
    data = json.loads((coconut / "inspect-tiny-test" / "inspect.json").read_text())
    assert data["latents"] == 2
    assert data["counts"] == []


def test_probe_then_ask_and_inspect(coconut: Path, tmp_path: Path) -> None:
    done = unspoken("probe", coconut, "train.steps=2", "train.validate_limit=2", "task.train_size=40", "--quiet")
    assert done.returncode == 0, done.stderr
    probe = Path(done.stdout.strip())
    assert probe == coconut.with_name("coconut-probe")
    asked = unspoken("ask", probe, "Ann has 7 figs. She finds 5. How many figs has Ann?", "--show-thoughts")
    assert asked.stdout.count("thought ") == 4
    seen = unspoken("inspect", probe, "test_size=5", "-n", "2", "--counts", "none", "--out", tmp_path)
    assert seen.returncode == 0, seen.stderr
    data = json.loads((tmp_path / "inspect.json").read_text())
    assert data["figures"]["chaining"]["is_the_true_answer"]["n"] == 2
    assert all(thought["decoded"] is not None for thought in data["problems"][0]["thoughts"])


def test_a_collapsed_run_is_told_on_the_console(coconut: Path, tmp_path: Path) -> None:
    """The run's own history is what it is measured against."""
    run = tmp_path / "run"
    shutil.copytree(coconut, run)
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "stability":
            row["within"] = 50.0
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = unspoken("inspect", run, "test_size=5", "-n", "2", "--counts", "none", "--out", tmp_path / "seen")
    assert "collapsed: latents of one question have become alike" in " ".join(done.stdout.split())
    assert "50.00 at its highest" in (tmp_path / "seen" / "index.html").read_text()


def test_what_inspect_and_probe_refuse(coconut: Path, tmp_path: Path) -> None:
    refused(unspoken("inspect", "builtin:tiny"), "'cot' makes no latents", "nothing to inspect", "unspoken eval")
    refused(unspoken("probe", "builtin:tiny", "--out", tmp_path / "x"), "'cot' makes no latents")
    refused(unspoken("probe", "builtin:tiny"), "give --out")
    refused(unspoken("inspect", tmp_path), "is no run directory")
    refused(unspoken("inspect", coconut, "--split", "dev"), "unknown split 'dev'")
    refused(unspoken("inspect", coconut, "--counts", "1;2"), "--counts needs whole numbers", "got '1;2'")
    refused(unspoken("inspect", coconut, "--figures", "svg,jpg"), "--figures takes svg, pdf and png", "got 'jpg'")
    refused(unspoken("inspect", coconut, "--latents", "0"), "with 0 latents there is nothing to inspect")
    refused(unspoken("probe", coconut, "method.trains=both"), "a probe trains the decoder alone")
    refused(unspoken("train", "tiny/codi", f"start={coconut}", *FAST, "--out", tmp_path / "y"), "cannot be the start")
