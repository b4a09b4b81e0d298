"""pass@k, votes and distinct answers."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes.evaluation import record, report
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.errors import ConfigError, DataError
from unspoken.evaluation.records import EvalReport, pooled_over_seeds
from unspoken.evaluation.several import Completion, pass_at, several
from unspoken.evaluation.statistics import Rate, wilson

THREE = [  # the votes: right; wrong; a tie, which the first answer wins
    [("1", True), ("1", True), ("2", False), ("3", False)],
    [("1", False), ("1", False), (None, False), (None, False)],
    [("1", False), ("2", True), ("3", False), ("4", False)],
]


def test_figures_by_hand():
    made = several(THREE)
    assert made.answers == 4
    assert list(made.pass_at) == [1, 2, 4]
    assert made.pass_at[1].value == pytest.approx((2 / 4 + 0 + 1 / 4) / 3)
    assert made.pass_at[2].value == pytest.approx((5 / 6 + 0 + 1 / 2) / 3)
    assert made.pass_at[4].value == pytest.approx(2 / 3)
    assert made.pass_at[4].interval == pytest.approx(wilson(2, 3))
    assert made.vote == Rate(correct=1, n=3)
    assert made.distinct == (3 + 2 + 4) / 3


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_counts_the_draws_that_hold_a_right_answer(n: int, data: st.DataObject):
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations(range(n), k))
    assert pass_at(n, right, k) == pytest.approx(sum(any(i < right for i in draw) for draw in draws) / len(draws))


@given(
    st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=8))
)
def test_more_tries_never_lose(rows: list[list[bool]]):
    made = several([[(str(i), right) for i, right in enumerate(row)] for row in rows])
    values = [share.value for share in made.pass_at.values()]
    assert values == sorted(values)
    for share in made.pass_at.values():
        assert 0 <= share.interval[0] <= share.value + 1e-12
        assert share.value - 1e-12 <= share.interval[1] <= 1


def test_of_reports():
    first = report([True, True, False])
    second = report([True, False, False])
    together = pooled_over_seeds([first, second])
    assert (together.answers, together.pass_at[1].value, together.pass_at[2].value) == (2, 0.5, 2 / 3)
    assert first.several is None
    assert first.summary()["several"] is None
    said = tuple(
        Completion(
            chain=0, sample=s, text="", strict=s == 1, flexible=False, extracted=str(s), visible_tokens=1, finished=True
        )
        for s in range(3)
    )
    voted = replace(first, records=(record(0, False, said=said), record(1, True, said=said)), samples=3)
    assert voted.several == several([[(str(s), s == 1) for s in range(3)]] * 2)
    assert voted.summary()["several"]["pass_at"]["3"]["value"] == 1.0
    assert pooled_over_seeds([voted, voted]).answers == 6


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(DataError, match=r"the same number of answers, got \[1, 2\]"):
        several([[("1", True)], [("1", True), ("2", False)]])
    with pytest.raises(DataError, match="same problems only"):
        pooled_over_seeds([report([True]), report([True, False])])


def test_the_command_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A count of seeds, cost, difficulty; on the model in the package."""
    monkeypatch.chdir(tmp_path)
    words = ["eval", "builtin:tiny", "--limit", "6", "--temperature", "2", "--seeds", "2"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"builtin-tiny-eval-tiny-test-limit-6-temperature-2.0-seed-{seed}.json" for seed in (0, 1)]
    reports = [EvalReport.from_json(tmp_path / name) for name in names]
    assert [r.speaking["seed"] for r in reports] == [0, 1]
    made = pooled_over_seeds(reports)
    assert made.lines()[0] in done.output
    assert made.lines()[0].startswith("2 answers per question: pass@1 ")
    assert "by number of true steps: " in done.output
    assert "visible tokens/s at batch size 32" in done.output
    assert not list(tmp_path.glob("*.partial-*"))


def test_the_command_over_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "data" / "svamp"
    folder.mkdir(parents=True)
    svamp = [{"ID": str(k), "Body": f"Ann has {k} figs.", "Question": "How many?", "Equation": f"{k} + 5", "Answer": k + 5.0,
              "Type": "Addition"} for k in range(3)]  # fmt: skip
    (folder / "SVAMP.json").write_text(json.dumps(svamp))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNSPOKEN_DATA", str(tmp_path / "data"))
    words = ["eval", "builtin:tiny", "--limit", "2", "--tasks", "tiny,svamp", "--extractors", "flexible,paper:codi"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    made = [EvalReport.from_json(tmp_path / f"builtin-tiny-eval-{name}-test-limit-2.json") for name in ("tiny", "svamp")]
    assert [r.task["name"] for r in made] == ["tiny", "svamp"]
    assert all(r.model["weights"] and r.environment["versions"]["torch"] for r in made)
    assert done.output.count("by paper:codi: ") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds needs how many, e.g. 5 for 0 to 4"),
        (["--seeds", "1,1"], "different numbers with commas"),
        (["--seeds", "x"], "got 'x'"),
        (["--tasks", "tiny,tiny"], "--tasks needs different names"),
        (["--tasks", "tiny", "--task", "tiny"], "--tasks goes without --task and --out"),
        (["--tasks", "tiny,tynee"], "unknown task 'tynee'; known: "),
        (["--extractors", "strict,lm-eval"], "unknown extractor 'lm-eval'"),
        (["--seeds", "2", "--card", "c.json"], "--card is of one report"),
    ],
)
def test_what_the_command_refuses(words: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["eval", "builtin:tiny", *words], catch_exceptions=False)
