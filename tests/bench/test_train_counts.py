"""What a training step may cost at most, in counts that no machine changes: passes, positions, padding, logits, waits."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks import train as bench
from benchmarks.workloads import Load
from unspoken.core.fast import chunked_loss
from unspoken.errors import ConfigError

LOAD = Load(rows=4, length=60, labels=20)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """All workloads, once, on a model of two small layers."""
    return bench.measure("small-test", ["sim_cot", "codi"], rounds=1, device="cpu", load=LOAD, codi_batch=8, codi_budget=256)


def test_both_ways_agree(report: dict[str, Any]):
    """`measure` refuses to go on otherwise; here the figures themselves."""
    for found in report["workloads"].values():
        for name, side in found["sides"].items():
            if "ours" in name:
                assert side["loss_difference"] < 1e-5
                assert side["gradient_difference"] < 1e-3


def test_coconut_forwards_every_position_once_in_a_pass_per_latent(report: dict[str, Any]):
    found = report["workloads"]["sim_cot"]
    side = found["sides"]["coconut ours"]
    assert side["passes"] == 7
    assert side["positions"] == found["about"]["tokens"]
    assert side["padding_share"] < 0.04  # packed where there is more


def test_the_head_runs_where_there_is_a_label_and_once(report: dict[str, Any]):
    sides = report["workloads"]["sim_cot"]["sides"]
    about = report["workloads"]["sim_cot"]["about"]
    assert sides["coconut ours"]["head_rows"] == about["labels"] == 80
    assert sides["coconut released"]["head_rows"] == 4 * 60 > 80
    codi = report["workloads"]["codi"]
    assert codi["sides"]["codi ours"]["head_rows"] == codi["about"]["labels"]


def test_all_thought_groups_go_through_the_decoder_in_one_pass(report: dict[str, Any]):
    sides = report["workloads"]["sim_cot"]["sides"]
    assert sides["sim_cot ours"]["passes"] == sides["coconut ours"]["passes"] + 1
    assert sides["sim_cot released"]["passes"] == sides["coconut released"]["passes"] + 3


def test_codi_forwards_its_teacher_with_the_question_that_both_share(report: dict[str, Any]):
    found = report["workloads"]["codi"]
    assert found["sides"]["codi ours"]["passes"] == 7
    assert found["sides"]["codi released"]["passes"] == 10
    assert found["sides"]["codi ours"]["positions"] == found["about"]["tokens"]
    assert found["sides"]["codi released"]["positions"] > 2 * found["about"]["tokens"]
    for side in ("codi ours", "codi ours, by length"):
        assert found["sides"][side]["positions"] == found["about"]["tokens"]
        assert found["sides"][side]["padding_share"] < 0.04


def test_the_host_never_waits_for_the_device(report: dict[str, Any]):
    """No value is read back in forward and backward of any method; the released way asks in every pass."""
    for found in report["workloads"].values():
        for name, side in found["sides"].items():
            if "ours" in name:
                assert side["waits"] == 0, name
            else:
                assert side["waits"] > 0, name


def test_logits_of_a_batch_never_exist(monkeypatch: pytest.MonkeyPatch):
    """With a limit far below tokens x vocabulary no tensor of logits, in any pass or its backward, is larger."""
    monkeypatch.setattr(chunked_loss, "PIECE", 5000)
    found = bench.measure("small-test", ["sim_cot"], rounds=1, device="cpu", load=LOAD)["workloads"]["sim_cot"]["sides"]
    for name in ("coconut ours", "sim_cot ours"):
        assert 0 < found[name]["largest_logits"] <= 5000
    assert found["coconut released"]["largest_logits"] > 100_000
    assert found["coconut ours"]["head_rows"] == 80  # and in pieces it still runs once


def test_the_report_is_json_and_its_figures_are_finite(report: dict[str, Any]):
    again = json.loads(json.dumps(report))
    side = again["workloads"]["codi"]["sides"]["codi ours"]
    assert side["seconds"] > 0
    assert side["tokens_per_second"] == pytest.approx(again["workloads"]["codi"]["about"]["tokens"] / side["seconds"])
    assert all(math.isfinite(side[key]) for key in ("utilisation", "cpu_seconds", "padding_share"))
    assert set(again["workloads"]["sim_cot"]["ratios"]) == {
        "coconut released / coconut ours",
        "sim_cot released / sim_cot ours",
        "sim_cot ours / coconut ours",
    }


SMALL = ["--model", "small-test", "--what", "coconut", "--rounds", "1"]


def test_the_command_writes_json(capsys: pytest.CaptureFixture[str]):
    bench.main([*SMALL, "--no-baseline", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert list(report["workloads"]["coconut"]["sides"]) == ["coconut ours"]
    assert report["workloads"]["coconut"]["ratios"] == {}


def test_the_command_prints_a_line_per_side(capsys: pytest.CaptureFixture[str]):
    bench.main(SMALL)
    said = capsys.readouterr().out
    assert "coconut ours" in said
    assert "coconut released / coconut ours: " in said


def test_the_command_says_in_a_line_what_is_wrong():
    with pytest.raises(SystemExit, match="error: unknown workload 'codis'"):
        bench.main(["--what", "codis"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"what": ["codis"]}, "unknown workload 'codis'; known: coconut"),
        ({"precision": "fp16"}, "unknown precision 'fp16'; known: fp32, bf16"),
        ({"rounds": 0}, "rounds must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_measured_says_so(given: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        bench.measure("small-test", **given)
