"""Controls and scaling from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.command_line import FAST
from support.command_line import said as unspoken

from unspoken.causal.control_report import ControlsReport
from unspoken.causal.scaling import ScalingReport

START = "builtin:tiny"


def refused(done: tuple[int, str, str], message: str) -> None:
    """One line that says so."""
    assert done[0] == 2, done
    assert done[2].count("\n") == 1
    assert message in done[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("controls") / "run"
    code, _, err = unspoken("train", "tiny/codi", *FAST, "--out", out)
    assert code == 0, err
    return out


def test_eval_asks_whether_the_latents_matter(run: Path):
    code, said, err = unspoken("eval", run, "--limit", "12", "--controls-limit", "6", "--latents", "2")
    assert code == 0, err
    assert "controls: the first 6 problems again" in said
    file = run / "controls-tiny-test-limit-12-latents-2.json"
    assert str(file) in said
    report = ControlsReport.from_json(file)
    assert (report.plain.n, report.latents) == (6, 2)
    assert " ".join(report.verdict.split()) in " ".join(said.split())
    whole = json.loads((run / "eval-tiny-test-limit-12-latents-2.json").read_text())["records"]
    assert [r["text"] for r in whole[:6]] == [r.text for r in report.plain.records]

    for words in (["--no-controls"], ["--latents", "0"]):
        code, said, err = unspoken("eval", run, "--limit", "3", *words)
        assert code == 0, err
        assert "tampered" not in said
    code, said, err = unspoken("eval", START, "--limit", "2", "--out", run / "start.json")
    assert code == 0, err
    assert "tampered" not in said
    refused(unspoken("eval", run, "--limit", "2", "--controls-limit", "0"), "--controls-limit must be at least 1, got 0")
    refused(unspoken("eval", START, "--limit", "2", "--controls", "--out", run / "start.json"), "thinks without latents")


def test_controls_alone(run: Path, tmp_path: Path):
    words = ["--limit", "5", "--only", "shuffled, noise", "--noise", "1.5", "--batch-size", "2"]
    code, _, err = unspoken("controls", run, *words, "--out", tmp_path / "c.json", "--markdown", tmp_path / "c.md")
    assert code == 0, err
    report = ControlsReport.from_json(tmp_path / "c.json")
    assert [control.label for control in report.controls] == ["shuffled", "noise 1.5"]
    assert (tmp_path / "c.md").read_text().startswith(report.verdict)
    code, _, err = unspoken("controls", run, "--limit", "4", "--only", "zero", "--control-seed", "3")
    assert code == 0, err
    assert (run / "controls-tiny-test-seed_of_controls-3-limit-4.json").exists()
    refused(unspoken("controls", START), "this model thinks without latents, so there is nothing to control")
    refused(unspoken("controls", run, "--only", "magic"), "unknown control 'magic'; known: shuffled, mean, zero")
    refused(
        unspoken("controls", run, "--noise", "a"), "--noise needs numbers with commas between them, e.g. 0.5,1,2; got 'a'"
    )
    refused(unspoken("controls", run, "--limit", "-1"), "--limit must be at least 1, or 0 for the whole split, got -1")
    refused(unspoken("controls", run, "--split", "tests"), "unknown split 'tests'")


def test_scale(run: Path, tmp_path: Path):
    code, said, err = unspoken("scale", run, "--by", "dropout", "--strength", "0.4", "-n", "1,3", "--limit", "5")
    assert code == 0, err
    file = run / "scale-tiny-test-dropout-0.4-limit-5.json"
    report = ScalingReport.from_json(file)
    assert [figure.n for figure in report.curve] == [1, 3]
    assert " ".join(report.verdict.split()) in " ".join(said.split())
    assert file.with_suffix(".md").exists()
    assert file.with_suffix(".svg").exists()
    code, _, err = unspoken("scale", START, "--by", "sampling", "-n", "2", "--limit", "2", "--out", tmp_path / "s.json")
    assert code == 0, err
    assert (tmp_path / "s.svg").exists()
    refused(unspoken("scale", START), "this model thinks without latents, so noise has nothing to disturb; take sampling")
    refused(unspoken("scale", run, "--n", "1.5"), "--n needs whole numbers with commas between them")
    refused(unspoken("scale", run, "--out", "s.txt"), "--out must end in .json")


def test_scale_ranks(run: Path, tmp_path: Path):
    how = ("scale", "builtin:tiny-sim-cot", "-n", "1,3", "--limit", "5", "--strength", "1.5")
    code, said, err = unspoken(*how, "--rank", "--rank-limit", "80", "--out", tmp_path / "s.json")
    assert code == 0, err
    assert "against the answers' likelihood" in " ".join(said.split())
    ranking = ScalingReport.from_json(tmp_path / "s.json").ranking
    assert ranking is not None
    assert (ranking.lesson.split, ranking.lesson.problems) == ("train", 80)
    head = tmp_path / "s-ranker.safetensors"
    code, said, err = unspoken(*how, "--ranker", head, "--beam", "1", "--out", tmp_path / "again.json")
    assert code == 0, err
    assert "1 of 3 candidates kept after each thought" in " ".join(said.split())
    again = ScalingReport.from_json(tmp_path / "again.json").ranking
    assert again is not None
    assert replace(again, beam=None, beam_control=None) == ranking, "the saved head gives the same scores"
    refused(unspoken("scale", run, "--beam", "2"), "--beam is steered by a head on latents; add --rank")
    refused(unspoken("scale", run, "--ranker", head), "this latent ranker was taught with the latents of another model")
    refused(
        unspoken("scale", run, "--ranker", tmp_path / "none"), "cannot read the latent ranker (No such file or directory)"
    )
    refused(unspoken(*how, "--rank", "--ranker", head), "--rank teaches a head and --ranker names a saved one")
    refused(unspoken(*how, "--rank", "--rank-split", "test"), "the head must learn from another split")
    refused(unspoken(*how, "--rank", "--rank-split", "dev"), "unknown split 'dev'")
    refused(unspoken(*how, "--rank", "--rank-limit", "0"), "--rank-limit must be at least 1, got 0")
