"""The quickstart's whole path with a handful of updates: every product is there and says what it should."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import unspoken
from unspoken.recipes import tiny
from unspoken.recipes.quickstart import START, quickstart


@pytest.fixture
def short(monkeypatch):
    """Four updates per method on few problems."""
    from dataclasses import replace

    def quick(make):
        def config(seed):
            full = make(seed)
            train = replace(full.train, steps=4, validate_every=4, validate_limit=4, threads=1)
            return replace(full, train=train, task=replace(full.task, train_size=100, validation_size=10))

        return config

    monkeypatch.setattr(tiny, "QUICKSTART", {label: quick(make) for label, make in tiny.QUICKSTART.items()})


def test_quickstart_writes_runs_reports_and_a_page(short, tmp_path):
    said = io.StringIO()
    reports = quickstart(tmp_path, 0, Console(file=said, width=120), problems=20)
    text = said.getvalue()
    assert list(reports) == [START, "No-CoT", "Coconut", "SIM-CoT"]
    assert reports[START].accuracy.value > 0.9  # the model in the package reasons well in words
    assert reports["SIM-CoT"].mean_latents == reports["Coconut"].mean_latents == 4
    for word in (*reports, "thought", "unspoken ask"):
        assert word in text
    page = (tmp_path / "index.html").read_text()
    assert all(label in page for label in reports)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    model = unspoken.load(tmp_path / "sim_cot")
    assert len(model.answer(["Ann has 7 figs. She finds 5. How many figs has Ann?"], explain=True)[0].thoughts or ()) == 4


def test_quickstart_goes_on_where_it_was(short, tmp_path):
    console = Console(file=io.StringIO())
    quickstart(tmp_path, 0, console, problems=5)
    before = (tmp_path / "coconut" / "metrics.jsonl").read_text()
    quickstart(tmp_path, 0, console, problems=5)
    assert (tmp_path / "coconut" / "metrics.jsonl").read_text() == before
