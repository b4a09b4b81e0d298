"""From finished runs to figures: statistics by hand, what is missing or damaged, tables, the page, cards."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fakes.evaluation import record, report
from support.small_study import RIGHT, changed, finish, finished

from unspoken.evaluation.card import Card
from unspoken.evaluation.statistics import paired_seeds
from unspoken.studies.places import JobPlaces
from unspoken.studies.report import rows_csv, tables
from unspoken.studies.results import read_results
from unspoken.studies.run import Planned, planned, write_results
from unspoken.studies.state import done


@pytest.fixture
def made(small: Path, tmp_path: Path) -> Planned:
    return finished(small, tmp_path / "runs")


def cell(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in results["cells"] if one["name"] == name)["evaluations"]["test"]


def test_statistics_over_seeds_by_hand(made: Planned):
    results = write_results(made).results
    assert results["missing"] == []
    found = cell(results, "coconut-1")["accuracy"]
    values = np.array([4 / 8, 6 / 8])
    half = 12.706204736 * values.std(ddof=1) / math.sqrt(2)  # Student's t, one degree of freedom
    assert found["mean"] == values.mean()
    assert found["each"] == list(values)
    assert found["interval"] == [max(0.0, values.mean() - half), min(1.0, values.mean() + half)]

    (pair,) = results["contrasts"]  # by default against the first method, the latents being equal
    assert (pair["a"], pair["b"]) == ("coconut-1", "codi-1")
    differences = np.array([(1 - 4) / 8, (2 - 6) / 8])
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(2))
    assert pair["mean"] == differences.mean()
    assert pair["p"] == pytest.approx(1 - 2 / math.pi * math.atan(abs(t)))  # Cauchy, as one degree of freedom is
    first, second = pair["seeds"]
    assert (first["only_a"], first["only_b"], first["p"]) == (3, 0, pytest.approx(2 / 2**3))  # McNemar: three heads in a row
    assert (second["only_a"], second["only_b"], second["p"]) == (4, 0, pytest.approx(2 / 2**4))


def test_paired_seeds_with_more_degrees_of_freedom():
    a, b = [0.5, 0.6, 0.7], [0.55, 0.72, 0.74]
    d = np.subtract(b, a)
    t = d.mean() / (d.std(ddof=1) / math.sqrt(3))
    made = paired_seeds(a, b)
    assert made.p == pytest.approx(1 - t / math.sqrt(t * t + 2))  # two degrees of freedom have a closed form
    half = 4.302652729749 * d.std(ddof=1) / 3**0.5  # printed tables: two degrees of freedom, 0.975
    assert made.interval == pytest.approx([d.mean() - half, d.mean() + half])
    a, b = [0.1, 0.2, 0.4, 0.3, 0.5, 0.2], [0.2, 0.25, 0.35, 0.5, 0.6, 0.3]
    d = np.subtract(b, a)
    t = d.mean() / (d.std(ddof=1) / math.sqrt(6))
    x = np.linspace(-t, t, 200_001)
    density = math.gamma(3) / (math.sqrt(5 * math.pi) * math.gamma(2.5)) * (1 + x * x / 5) ** -3
    assert paired_seeds(a, b).p == pytest.approx(1 - np.trapezoid(density, x), abs=1e-8)
    assert paired_seeds([0.5], [0.7]).p is None
    assert paired_seeds([0.5, 0.6], [0.5, 0.6]).interval is None


def test_budgets_cards_and_files(made: Planned):
    outcome = write_results(made)
    run = outcome.results["runs"]["codi-1-2"]
    assert (run["updates"], run["examples"], run["positions"], run["passes"], run["flops"]) == (4, 20, 1_000_000, 3, 2e12)
    names = {file.name for file in outcome.files}
    assert {"results.json", "table.md", "table.tex", "table.csv", "index.html", "chart.svg"} <= names
    card = Card.from_json(made.places.card("codi-1-2"))
    assert (card.score.correct, card.score.n, len(card.records)) == (2, 8, 8)
    text = (made.places.out / "table.md").read_text(encoding="utf-8")
    assert "| coconut | 1 | 62.5 (0.0–100.0) | 50.0, 75.0 |" in text
    assert "−" not in text  # a minus that spreadsheets do not take
    assert "\\begin{tabular}{llrr" in (made.places.out / "table.tex").read_text(encoding="utf-8")
    lines = list(csv.DictReader((made.places.out / "table.csv").open(encoding="utf-8")))
    assert len(lines) == 6
    assert lines[0]["accuracy"] == "0.5"
    assert {line["seed"] for line in lines} == {"1", "2"}
    again = read_results(made.places.results)
    assert rows_csv(again) == rows_csv(outcome.results)
    assert [t.markdown() for t in tables(again)["test"]] == [t.markdown() for t in tables(outcome.results)["test"]]
    page = (made.places.out / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "62.5" in page


def test_pdf_is_a_pdf(made: Planned):
    pytest.importorskip("matplotlib")
    file = next(file for file in write_results(made).files if file.suffix == ".pdf")
    assert file.read_bytes()[:5] == b"%PDF-"


def test_what_is_not_finished_is_named_and_the_rest_is_written(small: Path, tmp_path: Path):
    made = planned(small, runs=tmp_path / "runs")
    jobs = {job.name: job for job in made.every}
    finish(jobs["coconut-1-1"], 4)
    finish(jobs["coconut-1-2"], None)  # trained, not asked
    finish(jobs["codi-1-1"], 3, trained=False)
    results = write_results(made, {"codi-1-2": "no memory"}).results
    assert results["missing"] == ["coconut-2-1", "codi-1-1", "coconut-1-2", "coconut-2-2"]
    assert results["failed"] == {"codi-1-2": "no memory"}
    assert "Unfinished: 5 runs, which are not in all of these tables." in (made.places.out / "table.md").read_text(
        encoding="utf-8"
    )
    assert cell(results, "coconut-1")["seeds"] == [1]
    assert cell(results, "coconut-1")["accuracy"]["interval"] is None
    assert "no memory" in (made.places.out / "index.html").read_text(encoding="utf-8")


def test_nothing_finished_is_a_table_of_nothing(small: Path, tmp_path: Path):
    made = planned(small, runs=tmp_path / "runs")
    outcome = write_results(made)
    assert outcome.results["cells"] == []
    assert len(outcome.results["missing"]) == 6


def test_damaged_files_count_as_missing(made: Planned):
    job = made.every[0]
    places = JobPlaces(job.folder)
    assert done(job)
    for file in (places.report(job.evaluations[0]), places.costs, job.folder / "run.json"):
        whole = file.read_bytes()
        for broken in (whole[: len(whole) // 2], b"", b"[]", b'{"a": 1}', b"\xff\xfe"):
            file.write_bytes(broken)
            assert not done(job), (file, broken)
        file.write_bytes(whole)
    assert done(job)


def test_a_changed_evaluation_is_another_one(small: Path, made: Planned):
    changed(small, 'name = "test"', 'name = "test"\nlimit = 5')
    again = planned(small, runs=made.places.runs)
    assert [job.folder for job in again.every] == [job.folder for job in made.every]
    assert not any(done(job) for job in again.every)


def test_other_problems_are_not_paired(small: Path, tmp_path: Path):
    made = planned(small, runs=tmp_path / "runs")
    for job in made.every:
        finish(job, None)
        outcomes = [k < RIGHT[job.name] for k in range(8)]
        mark = "aa" if job.name.startswith("codi") else "bb"
        report(outcomes, fingerprint=mark).save(JobPlaces(job.folder).report(job.evaluations[0]))
    (pair,) = write_results(made).results["contrasts"]
    assert all(one["problems"] == "not the same" for one in pair["seeds"])
    assert pair["mean"] == pytest.approx(-3.5 / 8)


def test_decoded_steps_and_odd_texts_reach_the_tables(small: Path, tmp_path: Path):
    changed(small, 'title = "Small"', 'title = "A <b> & \\u202e | title"\nlabels = { coconut = "Co<co>|nut & $x_1$ 思" }')
    made = planned(small, runs=tmp_path / "runs")
    job = made.every[0]
    finish(job, None)
    records = tuple(record(i, True, thoughts=("<<0+0=0>>",)) for i in range(8))
    report([True] * 8, records=records).save(JobPlaces(job.folder).report(job.evaluations[0]))
    (table, *_) = tables(write_results(made).results)["test"]
    assert "decoded steps %" in table.headings
    assert r"Co\textless{}co\textgreater{}\textbar{}nut \& \$x\_1\$ 思" in table.latex()
    page = (made.places.out / "index.html").read_text(encoding="utf-8")
    assert "<b> &" not in page
    assert "Co&lt;co&gt;|nut" in page


def test_markdown_is_of_the_usual_width(small: Path, tmp_path: Path):
    changed(small, 'title = "Small"', 'title = "Small"\nabout = "' + "b - a 1. # > " * 40 + '"')
    made = planned(small, runs=tmp_path / "runs")
    finish(made.every[0], 3)
    write_results(made)
    lines = (made.places.out / "table.md").read_text(encoding="utf-8").split("\n")
    about = lines[2 : lines.index("", 2)]
    assert len(about) > 2
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]
    assert not [line for line in about if line.startswith(("- ", "# ", "> ", "1. "))]
    assert " ".join(about).replace("\\", "") == ("b - a 1. # > " * 40).strip()
