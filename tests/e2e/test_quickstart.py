"""The quickstart's whole path with a handful of updates: every product is there and says what it should."""

from __future__ import annotations

import io
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.fakes.evaluation import record, report
from support.forks import Forked, server

import unspoken
from unspoken.cli._terminal import Terminal
from unspoken.recipes import quickstart as module
from unspoken.recipes import tiny
from unspoken.recipes.quickstart import START, _question, quickstart

pytestmark = pytest.mark.slow


@pytest.fixture
def short(monkeypatch):
    """Four updates per method on few problems, by processes that begin with everything imported."""

    def quick(make):
        def config(seed):
            full = make(seed)
            train = replace(full.train, steps=4, validate_every=4, validate_limit=4, threads=1)
            return replace(full, train=train, task=replace(full.task, train_size=100, validation_size=10, test_size=20))

        return config

    monkeypatch.setattr(tiny, "QUICKSTART", {label: quick(make) for label, make in tiny.QUICKSTART.items()})
    monkeypatch.setattr(module, "get_context", lambda _: server())


def test_quickstart_writes_runs_reports_and_a_page_and_goes_on_where_it_was(short, tmp_path):
    said = io.StringIO()
    reports = quickstart(tmp_path, 0, Terminal(file=said, width=120), problems=20)
    text = said.getvalue()
    assert list(reports) == [START, "No-CoT", "Coconut", "SIM-CoT"]
    assert reports[START].accuracy.value > 0.9  # the model in the package reasons well in words
    assert reports["SIM-CoT"].mean_latents == 4
    assert reports["Coconut"].mean_latents == 3  # four updates end in stage 3, and a model is asked as its stage trained it
    for word in (*reports, "thought", "unspoken ask"):
        assert word in text
    assert text.startswith("Three steps, about ")
    assert "4 updates each" in text.split("\n\n")[0]
    page = (tmp_path / "index.html").read_text()
    assert f"SIM-CoT answers {100 * reports['SIM-CoT'].accuracy.value:.1f}% of 20 problems" in page.replace("\n", " ")
    assert all(label in page for label in reports)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    model = unspoken.load(tmp_path / "sim_cot")
    assert len(model.answer(["Ann has 7 figs. She finds 5. How many figs has Ann?"], explain=True)[0].thoughts or ()) == 4
    before = (tmp_path / "coconut" / "metrics.jsonl").read_text()
    quickstart(tmp_path, 0, Terminal(file=io.StringIO()), problems=5)
    assert (tmp_path / "coconut" / "metrics.jsonl").read_text() == before


def test_the_question_to_ask_is_one_that_is_answered_rightly():
    wrong, lucky, right = (
        record(i, strict, thoughts=record(i, True).steps if true else ("<<0+0=5>>",))
        for i, (strict, true) in enumerate([(False, True), (True, False), (True, True)])
    )
    for records, best in (((wrong, lucky, right), right), ((wrong, lucky), lucky), ((wrong,), wrong)):
        assert _question(report([True], records=records)) == best.question


PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unspoken.recipes.quickstart import end_with_parent
with ProcessPoolExecutor(1, get_context("fork"), end_with_parent) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""


def test_workers_end_when_their_parent_is_killed():
    """They would train on for minutes, unseen, beside the run that the user starts next."""
    parent = Forked(script=PARENT)
    parent.until(lambda: parent.stdout().endswith("\n"))
    worker = int(parent.stdout())
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def alive(pid: int) -> bool:
    """A process is there, and is no zombie that nobody has waited for."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc").is_dir():
        return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
