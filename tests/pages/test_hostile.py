"""Pages, charts and tables of what a stranger wrote: every text hostile, every number odd. Nothing leaves its place."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from balance import parsed
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes.evaluation import record, report
from support.fakes.inspection import Problems, model

from unspoken.causal import control_report
from unspoken.causal.control_report import Control, ControlsReport, Outcome
from unspoken.causal.scaling import ScalingReport
from unspoken.cli import _streams
from unspoken.cli._options import new_console
from unspoken.core.text.markup import cell, escape, metric_rows, number
from unspoken.evaluation import groups
from unspoken.evaluation.several import Completion
from unspoken.evaluation.tables import compare, comparison_table, table
from unspoken.inspector.look import inspect
from unspoken.pages import comparison, formats
from unspoken.pages.inspection import page as inspector_page
from unspoken.pages.runs import PageRun, page, thoughts_of
from unspoken.pages.svg import sheet
from unspoken.pages.templating import script

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)> | [b](javascript:a) [/x] \\ \x00\x08\x1b[31m\ud800 & &lt;"


def poisoned(value: Any, keep: frozenset[str] = frozenset({"kind"})) -> Any:
    """The same with every text made hostile, names in dicts too where they are data."""
    if isinstance(value, str):
        return f"{EVIL}{value}"
    if isinstance(value, dict):
        return {k: v if k in keep else poisoned(v, keep) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(poisoned(v, keep) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: poisoned(getattr(value, f.name), keep) for f in dataclasses.fields(value)})
    return value


def metrics() -> list[Any]:
    """Rows of metrics.jsonl with something odd in every place."""
    odd = [EVIL, None, [], {}, True, -1, 1e308, -1e308, 10**400, math.nan, math.inf, 5e-324]
    rows: list[Any] = [EVIL, None, 3, [], {}]
    for place, value in enumerate(odd):
        rows.append({"kind": "train", "step": value, "loss": 1.0, "terms": {EVIL: 1.0}, "stage": EVIL})
        rows.append({"kind": "train", "step": place, "loss": value, "terms": {EVIL: value, "a": 1.0}, "stage": value})
        rows.append({"kind": "train", "step": 50 + place, "loss": 2.0, "terms": value, "stage": place})
        rows.append({"kind": "validation", "step": place, "accuracy": value})
        rows.append({"kind": "stability", "step": value, "collapse": EVIL, "within": 1.0, "across": 1.0})
        rows.append(
            {"kind": "stability", "step": place, "collapse": value, "within": value, "across": value, "recovery": value}
        )
        rows.append({"kind": "stability", "step": 50 + place, "recovery": {"words": value, "steps": {"numbers": value}}})
        rows.append({"kind": value, "step": 1})
    return rows


def harmless(text: str, ours: str = "") -> None:
    """Well-formed HTML in which nothing is fetched, and nothing runs but a script of ours, to which links inside belong."""
    seen = parsed(text)
    assert "".join(seen.scripts) == ours
    assert seen.tags.count("script") == bool(ours)
    assert not {"img", "iframe", "link", "object", "embed", *(() if ours else "a")} & set(seen.tags)
    names = {name for name, _ in seen.attributes}
    assert not [name for name in names if name.startswith("on") or name == "src"]
    links = [value or "" for name, value in seen.attributes if name == "href"]
    assert all(re.fullmatch("#(p[0-9]+|[a-z]+)", link) for link in links)
    assert bool(links) == bool(ours)
    assert not re.search("[\x00-\x08\x0b-\x1f]", text)


def evil_report(**fields: Any) -> Any:
    made = report([], records=tuple(record(i, i % 3 > 0, thoughts=("<<0+0=0>>", "x")) for i in range(9)))
    return replace(poisoned(made), split="test", fingerprint="1", extractor="strict", **fields)


def test_the_page_of_runs():
    evil = evil_report()
    odd = replace(evil, environment={"versions": [1], "gpu": [3], "commit": {"a": EVIL}, "cpu": EVIL, "threads": EVIL})
    thoughts = [
        *thoughts_of(evil, 3),
        {"question": 3, "steps": [1, None], "thoughts": [EVIL, 2, {}], "answer": [], "said": {}},
    ]
    runs = [
        PageRun(label=EVIL + name, metrics=metrics(), report=r, thoughts=thoughts) for name, r in (("a", evil), ("b", odd))
    ]
    text = page(EVIL, runs)
    harmless(text)
    assert "&lt;img src=x onerror" in text


def test_the_inspectors_page():
    seen = inspect(model(), Problems(), metrics=metrics())
    code, _ = script("inspection.js")
    harmless(inspector_page(seen), code)
    evil = replace(poisoned(seen, frozenset({"kind"})), figures=seen.figures, counts=seen.counts)
    harmless(inspector_page(evil), code)
    harmless(inspector_page(evil, evil), code)


def test_the_step_of_a_warning():
    """The case that ran a script: a step that is markup. A step that is no number is no row."""
    seen = inspect(model(), Problems(), metrics=[{"kind": "stability", "step": "<script>1</script>", "collapse": "x"}])
    text = inspector_page(seen)
    harmless(text, script("inspection.js")[0])
    assert "first warned" not in text


def test_charts_as_files_are_xml():
    reports = {EVIL: evil_report(), "b" + EVIL: evil_report()}
    ET.fromstring(sheet(EVIL, comparison.charts({EVIL: reports, "t": reports})))
    ET.fromstring(sheet(EVIL, [_scaling().chart]))


def test_charts_for_papers(tmp_path: Path):
    pytest.importorskip("matplotlib")
    from unspoken.pages.plots import draw

    formulas = [{"kind": "train", "step": s, "terms": {"$\\frac": 1.0}, "stage": f"$x{s}"} for s in (90, 91)]
    seen = inspect(model(), Problems(), metrics=[*metrics(), *formulas])
    assert draw(replace(seen, metrics=seen.metrics[-6:]), tmp_path)


def _scaling() -> ScalingReport:
    said = Completion(text="1", extracted="1", strict=True, flexible=True, passes=1, positions=1, **_rest(Completion))
    records = tuple(replace(r, said=(said, said)) for r in evil_report().records)
    many = replace(evil_report(), records=records)
    return ScalingReport(by=EVIL, strength=0.3, counts=(1, 2), plain=evil_report(), report=many)


def _rest(cls: Any) -> dict[str, Any]:
    given_ = {"text", "extracted", "strict", "flexible", "passes", "positions"}
    values = {"int": 1, "bool": True, "str": "1"}
    return {f.name: values[str(f.type)] for f in dataclasses.fields(cls) if f.name not in given_}


def _controls() -> ControlsReport:
    plain = evil_report()
    outcomes = tuple(Outcome.of(r) for r in plain.records)
    return ControlsReport(
        plain=plain, latents=3, seed=0, donors=tuple(range(1, 9)) + (0,), left_out={EVIL: EVIL},
        controls=(Control(name="shuffled", setting=None, outcomes=outcomes),),
    )  # fmt: skip


def tables(text: str) -> None:
    """Markdown without HTML and links, whose tables have as many cells in every line."""
    assert "<" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    counts = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    for block in re.split(r"\n\n+", text):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) <= 1
    assert counts


def test_markdown():
    reports = {f"{EVIL}{k}\n# x": evil_report() for k in range(3)}
    tables(table(reports).markdown())
    tables(comparison_table(compare(reports)).markdown())
    tables(formats.markdown(comparison.tables({EVIL: reports, "b": reports})))
    tables(formats.markdown({EVIL: groups.tables(groups.grouped(reports, dict.fromkeys(reports)))}))
    tables(control_report.to_markdown(_controls()))
    tables(_scaling().to_markdown())


def test_the_terminal_shows_marks_as_they_are(capsys: pytest.CaptureFixture[str]):
    _streams()  # as `main` does: half a surrogate pair is written as its number
    console = new_console()
    reports = {"[bold]x[/y]": evil_report(task={"name": "[/z]"}), "[/b]": evil_report(task={"name": "[/z]"})}
    for name, some in comparison.tables({"[/t]": reports, "u": reports}).items():
        for part in (name, *some):
            console.print(part)
    console.print(control_report.table(_controls()))
    console.print("[/path]/[red]file")
    said = capsys.readouterr().out
    assert "[/path]/[red]file" in said
    assert "[/b]" in said
    assert "[/z]" in said


@given(st.text())
@settings(deadline=None)
def test_text_stays_in_its_place(text: str):
    ET.fromstring(f'<a b="{escape(text)}">{escape(text)}</a>'.encode("utf-8", "strict"))
    assert "<" not in cell(text)
    assert "\n" not in cell(text)
    assert not re.search(r"(?<!\\)(\\\\)*\|", cell(text))


_VALUES = st.one_of(st.just("train"), st.integers(), st.floats(), st.text())


@given(st.lists(st.dictionaries(st.sampled_from(["kind", "step", "loss"]), _VALUES)))
@settings(deadline=None)
def test_rows_are_numbers_in_order(rows: list[Any]):
    steps = [row["step"] for row in metric_rows(rows, "train")]
    assert steps == sorted(set(steps))
    losses = [row.get("loss") for row in metric_rows(rows, "train")]
    assert all(number(loss) == loss for loss in losses if not isinstance(loss, str))
    page("x", [PageRun(label="a", metrics=rows)])
