"""Figures that pages quote from a study are those of its results, and a study's files are made from its results.

A page marks a table with a comment above it, `<!-- study STUDY: EVALUATION -->`; its first columns are then the combination
in the study's words, the mean over seeds with its interval, and every seed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.small_study import finished

from unspoken.core.config import dump
from unspoken.evaluation.card import Card
from unspoken.studies.report import page, quoted, write_report
from unspoken.studies.results import read_results
from unspoken.studies.run import planned, write_results
from unspoken.studies.study import read_study

ROOT = Path(__file__).resolve().parents[2]
DONE = sorted(file.parent.name for file in (ROOT / "studies").glob("*/results.json"))
MARK = re.compile(r"<!-- study (?P<study>[\w.-]+): (?P<evaluation>[^>]+?) -->\n(?P<table>(?:\|[^\n]*\n)+)")


def wrong(text: str, results: Mapping[str, Any], study: str) -> list[str]:
    """Rows of a page that quote a study otherwise than its results have it."""
    found = []
    for block in MARK.finditer(text):
        if block["study"] != study:
            continue
        known = quoted(results, block["evaluation"])
        for line in block["table"].splitlines()[2:]:
            label, *cells = [cell.strip().replace("**", "") for cell in line.strip("|").split("|")]
            if label not in known or cells[:2] != list(known[label]):
                found.append(f"{label}: {cells[:2]}, not {known.get(label)}")
    return found


def test_a_wrong_figure_is_found(small: Path, tmp_path: Path):
    results = write_results(finished(small, tmp_path / "runs")).results
    head = "<!-- study small: test -->\n| run | mean | seeds | more |\n|---|---|---|---|\n"
    right = "| coconut, 1 | **62.5 (0.0–100.0)** | 50.0, 75.0 | x |\n"
    assert wrong(head + right, results, "small") == []
    assert wrong(head + right.replace("75.0", "75.1"), results, "small")
    assert wrong(head + right.replace("62.5", "62.6"), results, "small")
    assert wrong(head + right.replace("coconut, 1", "coconut, 3"), results, "small")
    assert wrong(head.replace("small", "other") + "| a | 1 | 2 |\n", results, "small") == []


@pytest.mark.parametrize("study", DONE)
def test_pages_quote_what_the_study_found(study: str):
    results = read_results(ROOT / "studies" / study / "results.json")
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        assert not wrong((ROOT / name).read_text(encoding="utf-8"), results, study), name


@pytest.mark.filterwarnings("error:constrained_layout")  # a chart that has no room for its names
@pytest.mark.parametrize("study", DONE)
def test_the_files_of_a_study_are_made_from_its_results(study: str, tmp_path: Path):
    folder = ROOT / "studies" / study
    results = read_results(folder / "results.json")
    assert results["study"] == dump(read_study(folder)), "the study was changed since; run it again"
    write_report(results, tmp_path)
    for name in ("table.md", "table.tex", "table.csv"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (folder / name).read_text(encoding="utf-8"), name
    assert unstyled(page(results)) == unstyled((folder / "index.html").read_text(encoding="utf-8"))


def unstyled(html: str) -> str:
    """A page without its stylesheet, which all pages share and which may change."""
    assert html.count("<style>") == 1
    return re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


@pytest.mark.parametrize("study", DONE)
def test_cards_hold_what_the_results_say(study: str):
    made = planned(ROOT / "studies" / study)
    results = read_results(ROOT / "studies" / study / "results.json")
    cells = {cell["name"]: cell["evaluations"] for cell in results["cells"]}
    for job in made.every:
        if job.name in results["runs"] and job.cell in cells:
            told = cells[job.cell][job.evaluations[0].name]
            figures = told["each"][told["seeds"].index(job.seed)]
            card = Card.from_json(made.places.card(job.name))
            assert (card.score.correct, card.score.n) == (figures["correct"], figures["n"]), job.name
