"""Stored answers scored again by other rules."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.fakes.evaluation import FakeModel, FakeTask, record, report
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, RunError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.rescore import agreements, mark_of, rescore, several_marks
from unspoken.evaluation.several import Completion
from unspoken.evaluation.statistics import Rate
from unspoken.evaluation.tables import notes
from unspoken.tasks.scoring.answers import score_number

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT.parent / "shared" / "data" / "gsm8k" / "example_model_solutions.jsonl"
TINY = {"name": "tiny"}
TEXTS = ("### 0", "### 2.0", "so it is 4", "### -6")  # the answers are 0, 2, 4, 6


def made() -> EvalReport:
    model = FakeModel(lambda i, q: (TEXTS[i], {}))
    return replace(evaluate(model, FakeTask(4)), task=TINY)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("strict", [True, True, False, False]),
        ("flexible", [True, True, True, False]),
        ("paper:coconut", [True, False, False, False]),
        ("paper:codi", [True, True, True, False]),
        ("paper:softcot", [True, True, True, True]),
        ("lm-eval:strict", [False, False, False, False]),
        ("lm-eval:flexible", [True, False, True, False]),
    ],
)
def test_every_figure_follows_the_rule(name: str, right: list[bool]):
    again = rescore(made(), name)
    assert [r.strict for r in again.records] == right
    assert again.accuracy == Rate(correct=sum(right), n=4)
    assert again.extractor == name
    assert again.flexible == Rate(correct=3, n=4)  # stays the task's second rule
    assert [r.text for r in again.records] == list(TEXTS)
    assert f"Accuracy: {name} rule" in notes({"a": again})[0]


def test_the_way_back_is_exact(tmp_path: Path):
    first = made()
    other = rescore(first, "paper:softcot")
    other.save(tmp_path / "other.json")
    again = EvalReport.from_json(tmp_path / "other.json")
    assert again.extractor == "paper:softcot"
    assert rescore(again, "strict") == first


def test_a_vote_is_held_again():
    def said(chain: int, text: str) -> Completion:
        score = score_number(Example(question="?", answer="2"), text)
        return Completion(chain=chain, sample=0, text=text, strict=score.strict, flexible=score.flexible,
                    extracted=score.extracted, visible_tokens=2, finished=chain != 1)  # fmt: skip

    # By number 3 has two votes ("3" and "3.0"); as strings the first, "2", wins a tie of three.
    every = (said(0, "### 2"), said(1, "### 3"), said(2, "### 3.0"))
    voted = record(1, False, text="### 3", extracted="3", thoughts=("a",), finished=False, said=every)
    first = report([], records=(voted,), task=TINY, chains=3)
    assert not first.accuracy.correct
    again = rescore(first, "paper:coconut").records[0]
    assert (again.text, again.strict, again.extracted, again.finished) == ("### 2", True, "2", True)
    assert again.thoughts is None  # those in the record were of another set of thoughts
    assert rescore(first, "strict").records[0] == voted


def test_agreements_list_every_problem_that_differs():
    found, left_out = agreements(made())
    by = {one.name: one for one in found}
    assert [r.id for r in by["paper:coconut"].only_own] == ["test-1"]
    assert [r.id for r in by["paper:softcot"].only_this] == ["test-2", "test-3"]
    assert by["lm-eval:strict"].extracted == 0
    assert set(left_out) <= {"math-verify"}


def test_what_cannot_be_scored_again_is_refused():
    with pytest.raises(ConfigError, match="unknown extractor 'papers'"):
        rescore(made(), "papers")
    with pytest.raises(RunError, match="task that cannot be made again: unknown task 'fake'"):
        rescore(report([True]), "strict")
    words = report([], records=(record(1, True, answer="Tom is a lempus."),), task=TINY)
    with pytest.raises(ConfigError, match=r"'paper:codi' reads answers of kind number or letter"):
        rescore(words, "paper:codi")
    assert "paper:codi" in agreements(words)[1]


def test_the_command(tmp_path: Path):
    made().save(tmp_path / "eval-tiny-test.json")
    done = CliRunner().invoke(app, ["rescore", str(tmp_path), "--list", "1"], catch_exceptions=False)
    assert done.exit_code == 0
    row = next(line for line in done.stdout.splitlines() if line.strip().startswith("paper:coconut "))
    assert row.split()[1:] == ["25.0", "(4.6–69.9)", "3", "1", "0"]
    assert "paper:coconut: test-1: right by strict alone; answer '2', found '2.0' in '### 2.0'" in done.stdout
    out = tmp_path / "again.json"
    options = ["rescore", str(tmp_path / "eval-tiny-test.json"), "--extractor", "paper:codi", "--out", str(out)]
    assert CliRunner().invoke(app, options, catch_exceptions=False).exit_code == 0
    assert EvalReport.from_json(out) == rescore(made_at(tmp_path), "paper:codi")
    with pytest.raises(ConfigError, match=r"give one --extractor, got 0"):
        CliRunner().invoke(app, ["rescore", str(out), "--out", "x.json"], catch_exceptions=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no reports; run `unspoken eval"):
        CliRunner().invoke(app, ["rescore", str(tmp_path / "empty")], catch_exceptions=False)


def made_at(folder: Path) -> EvalReport:
    return EvalReport.from_json(folder / "eval-tiny-test.json")


@pytest.mark.skipif(not OUTPUTS.is_file(), reason=f"no benchmark data: {OUTPUTS} is not there")
def test_recorded_verdicts_of_gsm8k_s_authors(monkeypatch: pytest.MonkeyPatch):
    """Strict and flexible agree with all of them; SoftCoT's rule on all but those where a sign decides."""
    spec = importlib.util.spec_from_file_location("extractor_table", ROOT / "comparison" / "extractors" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, command)  # where dataclasses look for it
    spec.loader.exec_module(command)
    every = list(command.outputs(OUTPUTS))
    assert len(every) > 4000
    assert 0.3 < sum(one.right for one in every) / len(every) < 0.5
    for name in ("strict", "flexible", "paper:coconut", "paper:codi", "lm-eval:strict", "lm-eval:flexible"):
        assert [one for one in every if one.said_by(name).right != one.right] == []
    odd = [one for one in every if one.said_by("paper:softcot").right != one.right]
    assert all("-" in one.answer + one.text.splitlines()[-1] for one in odd)
    assert 0 < len(odd) < 20


def test_texts_that_go_on_after_their_answer_are_told() -> None:
    """First and last mark differ in one of three texts; `first` scores it by the first."""
    texts = ("### 0", "### 2\nQ: And then?\n### 5", "### 4\n### 4")
    long = report([True, False, True])
    long = replace(long, records=tuple(replace(r, text=text) for r, text in zip(long.records, texts, strict=True)))
    assert several_marks(long, score_number) == 1
    assert [r.strict for r in rescore(long, "strict", score_number).records] == [True, False, True]
    assert [r.strict for r in rescore(long, "first", score_number).records] == [True, True, True]


def test_the_mark_is_that_of_the_template() -> None:
    inner = {"name": "coconut", "template": {"answer": "#### {answer}"}}
    for method, mark in ((inner, "####"), ({"name": "sim_cot", "inner": inner}, "####"), (None, None), ({"inner": 3}, None)):
        assert mark_of(report([True], model={"method": method})) == mark
