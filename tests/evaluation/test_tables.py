"""Tables and paired comparisons."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.fakes.evaluation import record, report

from unspoken.causal.control_report import ControlsReport
from unspoken.causal.scaling import ScalingReport
from unspoken.core.text.table import Table
from unspoken.errors import DataError, RunError
from unspoken.evaluation.card import Card
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.several import Completion
from unspoken.evaluation.statistics import mcnemar
from unspoken.evaluation.tables import (
    compare,
    comparison_table,
    p_value,
    percent,
    table,
    to_json,
)

FIRST = [True] * 9 + [False] * 11
SECOND = [True] * 8 + [False] * 2 + [True] * 10


def shown(value: Table) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(value)
    return console.export_text()


def test_markdown_holds_every_column() -> None:
    text = table({"CoT": report(FIRST), "a|b\nc": report(SECOND)}).markdown()
    head, rule, first, second, *_ = text.splitlines()
    assert head.startswith(
        "| method | accuracy % (95%) | flexible % | latents | visible tokens | forward passes | ms/question |"
    )
    assert first == "| CoT | 45.0 (25.8–65.8) | 45.0 | 6.0 | 3.0 | 9.0 | 100 | 20 |"
    assert second.startswith("| a\\|b c | 90.0 (69.9–97.2) |")
    assert rule.count("---") == 8
    assert "ms/question: wall-clock time of the evaluation / n, batch size 8, Abacus, 1 thread, float32." in text
    assert "fingerprint 00112233" in text


def test_terminal_table_keeps_brackets() -> None:
    text = shown(table({"[red]run[/red]": report(FIRST)}))
    assert "[red]run[/red]" in text
    assert "45.0 (25.8–65.8)" in text


def test_what_cannot_be_compared_is_said() -> None:
    text = table({"x": report(FIRST), "y": report(FIRST, batch_size=1, fingerprint="ff")}).markdown()
    assert "evaluated on different problems, so accuracies cannot be compared" in text
    assert "under different conditions, so it cannot be compared" in text


def test_time_that_includes_explaining_is_marked() -> None:
    explained = report([True], records=(record(0, True, thoughts=("<<0>>",)),))
    text = table({"plain": report([True]), "sim": explained}).markdown()
    assert "| 2000† |" in text
    assert "† includes decoding the thoughts into words; without it: sim 1000.0 ms." in text


def test_json_has_figures_and_sources() -> None:
    data = json.loads(to_json({"CoT": report(FIRST)}))
    assert data["CoT"]["accuracy"]["value"] == 0.45
    assert data["CoT"]["fingerprint"] == "00112233"
    assert data["CoT"]["environment"]["versions"] == {"torch": "2"}
    assert "records" not in data["CoT"]


def test_compare_pairs_by_id_whatever_the_order() -> None:
    second = report(SECOND)
    turned = report([], records=tuple(reversed(second.records)))
    result = compare({"a": report(FIRST), "b": turned})
    (pair,) = result.pairs
    assert (pair.only_a, pair.only_b) == (1, 10)
    assert pair.p == mcnemar(FIRST, SECOND).p
    assert pair.difference == pytest.approx(0.45)
    assert not pair.overlap
    assert result.n == 20


def test_compare_makes_all_pairs_and_those_of_the_first() -> None:
    result = compare({"a": report(FIRST), "b": report(SECOND), "c": report(FIRST)})
    assert [(p.a, p.b) for p in result.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(p.a, p.b) for p in result.against_first] == [("a", "b"), ("a", "c")]
    assert (result.pairs[1].p, result.pairs[1].overlap) == (1.0, True)
    text = comparison_table(result).markdown()
    assert "| a | b | +45.0 | 1 | 10 | 0.012 | apart |" in text
    assert "| b | c | -45.0 | 10 | 1 | 0.012 | apart |" in text
    assert "20 problems paired by id" in text
    assert "not adjusted for the 3 pairs" in text
    assert "0.012" in shown(comparison_table(result))
    assert json.loads(result.to_json())["pairs"][0]["only_b"] == 10


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (report(FIRST, fingerprint="ff"), "'a' and 'b' cannot be paired: the task fingerprint differs, '00112233'.*'ff'"),
        (report(FIRST, split="validation"), "cannot be paired: the split differs, 'test'.*'validation'"),
        (report(FIRST[:18]), r"the problems differ, 2 only in 'a' and 0 only in 'b' \(e\.g\. 'test-18'\)"),
    ],
)
def test_compare_says_what_differs(other: EvalReport, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare({"a": report(FIRST), "b": other})


def test_compare_needs_two() -> None:
    with pytest.raises(DataError, match="at least two reports, got 1"):
        compare({"a": report(FIRST)})


def test_numbers_as_text() -> None:
    assert percent(float("nan")) == "–"
    assert [p_value(p) for p in (0.0, 0.0214, 0.5, 1.0)] == ["< 0.001", "= 0.021", "= 0.50", "= 1.00"]


def test_answers_cut_at_the_limit_are_told():
    """45 of 60 that were still being written: a figure of the report, and a line under every table."""
    cut = report(FIRST, speaking={"max_new_tokens": 12})
    cut = replace(cut, records=tuple(replace(r, finished=i % 4 == 0) for i, r in enumerate(cut.records)))
    line = "15 of 20 answers reached max_new_tokens=12 without ending; raise --max-new-tokens"
    assert (cut.cut_off, cut.answers) == (15, 20)
    assert cut.summary()["cut_off"] == 15
    assert line in table({"x": cut}).markdown()
    assert f"y: {line}" in table({"x": report(FIRST), "y": cut}).markdown()
    assert "without ending" not in table({"x": report(FIRST)}).markdown()
    assert line in " ".join(shown(table({"x": cut})).split())
    voted = replace(cut.records[0], said=tuple(said(finished) for finished in (True, False, False)))
    assert (report([True], records=(voted,)).cut_off, report([True], records=(voted,)).answers) == (2, 3)


def said(finished: bool) -> Completion:
    return Completion(
        chain=0, sample=0, text="", strict=False, flexible=False, extracted=None, visible_tokens=1, finished=finished
    )


def changed(**fields: Any) -> dict[str, Any]:
    """A saved report's JSON, changed: `records__0__id` is a path."""
    data = json.loads(report([True, False]).to_json())
    for path, value in fields.items():
        *parents, last = [int(p) if p.isdecimal() else p for p in path.split("__")]
        node = data
        for parent in parents:
            node = node[parent]
        node[last] = value
    return data


@pytest.mark.parametrize(
    "fields",
    [
        {"records__1__id": "test-0"},  # counted twice
        {"records": {}},
        {"records": "none"},
        {"records__0": None},
        {"records__0__strict": "maybe"},
        {"records__0__passes": -1},
        {"records__0__visible_tokens": 10**400},
        {"records__0__steps": 3},
        {"records__0__said": 5},
        {"task": []},
        {"task": None},
        {"model": "m"},
        {"environment": [1]},
        {"speaking": 3},
        {"seconds": "soon"},
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"batch_size": 0},
        {"batch_size": True},
        {"samples": 0},
        {"split": 7},
        {"fingerprint": None},
        {"format": 99},
    ],
    ids=str,
)
def test_a_changed_report_is_refused_in_a_line(tmp_path: Path, fields: dict[str, Any]):
    file = tmp_path / "r.json"
    file.write_text(json.dumps(changed(**fields)))
    with pytest.raises(RunError) as caught:
        EvalReport.from_json(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format":' * 5000, '{"format": ' + "9" * 5000 + "}", "null", "[]", '"x"', "\ud800"]
)
def test_what_is_no_report_is_refused_in_a_line(tmp_path: Path, text: str):
    file = tmp_path / "r.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    for cls in (EvalReport, Card, ControlsReport, ScalingReport):
        with pytest.raises(RunError, match=re.escape(str(file))):
            cls.from_json(file)


@pytest.mark.parametrize(
    "fields",
    [
        {"environment": {"gpu": 5}, "model": {"device": "cuda:0"}},
        {"task": {"name": ["x"]}},
        {"model": {}},
        {"environment": {}},
    ],
    ids=str,
)
def test_what_is_only_odd_is_shown(tmp_path: Path, fields: dict[str, Any]):
    file = tmp_path / "r.json"
    file.write_text(json.dumps(changed(**fields)))
    made = EvalReport.from_json(file)
    assert "| x |" in table({"x": made}).markdown()
    compare({"x": made, "y": made})
