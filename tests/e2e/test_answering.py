"""Options of answering on the command line: stop rules, an expected beginning, precisions, and learning when to stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.command_line import FAST
from support.command_line import said as command

import unspoken
from unspoken.core.precision import slow_in_bf16
from unspoken.errors import ConfigError, DataError, RunError
from unspoken.experimental.stop_head import learn_stop
from unspoken.experimental.stopping import STOP_HEAD, read_head
from unspoken.runs.directory import RunDir
from unspoken.tasks import make_task


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("answering") / "run"
    code, _, err = command("train", "tiny/sim_cot", *FAST, "task.validation_size=40", "--out", out)
    assert code == 0, err
    return out


def said(run: Path, *options: str, warns: str = "") -> list[dict]:
    """The records of an evaluation that says nothing else, or a warning with these words."""
    report = run.parent / "report.json"
    code, _, err = command("eval", run, "--limit", "12", "--max-new-tokens", "12", "--out", report, *options)
    assert code == 0, err
    assert err.startswith("warning: ") and warns in err if warns else err == ""
    return json.loads(report.read_text())["records"]


def test_eval_with_a_stop_rule(run: Path):
    plain, two, fixed = said(run), said(run, "--stop", "fixed:2"), said(run, "--latents", "2")
    assert {r["latents"] for r in plain} == {4}
    assert {r["latents"] for r in two} == {2}
    assert [r["text"] for r in two] == [r["text"] for r in fixed]
    sure = said(run, "--stop", "confidence:0")
    assert {r["latents"] for r in sure} == {1}
    assert [r["text"] for r in said(run, "--stop", "convergence:0")] == [r["text"] for r in plain]


def test_a_stop_rule_stands_in_the_name_of_its_report(run: Path):
    code, out, _ = command("eval", run, "--limit", "3", "--max-new-tokens", "3", "--stop", "confidence:0.5")
    assert code == 0
    assert (run / "eval-tiny-test-limit-3-max_new_tokens-3-stop-confidence-0.5.json").is_file(), out


def test_an_expected_beginning_saves_passes_and_changes_nothing(run: Path):
    plain = said(run)
    begin = plain[0]["text"][:4]
    drafted = said(run, "--expect", begin)
    assert [r["text"] for r in drafted] == [r["text"] for r in plain]
    assert sum(r["passes"] for r in drafted) < sum(r["passes"] for r in plain)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_eval_in_another_precision(run: Path, dtype: str):
    slow = dtype == "bfloat16" and slow_in_bf16("cpu")
    assert len(said(run, "--dtype", dtype, warns="this CPU has no instructions for bf16" if slow else "")) == 12
    model = unspoken.load(run, device="cpu", dtype=dtype)
    kinds = {type(m).__name__ for m in model.method.backbone.lm.modules()}
    assert ("_Linear8" if dtype == "int8" else "_FastLinear") in kinds


def test_thoughts_are_explained_after_an_early_stop(run: Path):
    """One thought for each group that was thought."""
    model = unspoken.load(run, device="cpu")
    (answer,) = model.answer(["Ann has 3 pens."], stop="fixed:2", explain=True, max_new_tokens=4)
    assert len(answer.thoughts or ()) == 2


def test_learn_stop(run: Path):
    """A head is learned from validation problems, kept in the run, and used."""
    code, out, err = command("learn-stop", run, "--limit", "40")
    if code != 0:  # three updates may leave nothing right anywhere: then it says so
        assert "stopping early is always right" in err
        return
    assert "places to stop; it judges" in out
    assert read_head(run / STOP_HEAD) is not None
    assert {r["latents"] for r in said(run, "--stop", "head:0")} == {1}
    (run / STOP_HEAD).write_bytes(b"no tensors")
    with pytest.raises(RunError, match="is damaged"):
        unspoken.load(run, device="cpu").answer(["Ann has 3 pens."], stop="head:0")
    (run / STOP_HEAD).unlink()


def test_a_head_learns_where_stopping_loses_nothing(run: Path, monkeypatch: pytest.MonkeyPatch):
    """On latents that tell it, every place is judged rightly, those held back too."""
    model, task = unspoken.load(run, device="cpu"), make_task(RunDir(run).config().task)
    examples = task.examples("validation")[:40]
    wanted = [int(example.id.encode()[-1]) % 3 + 1 if example.id else i % 3 + 1 for i, example in enumerate(examples)]
    width = model.method.backbone.width

    class Thought:
        latents_BKD = torch.zeros(32, 4, width)

    def think(questions: list[str]) -> Thought:
        thought = Thought()
        thought.latents_BKD = torch.randn(len(questions), 4, width) * 0.1
        for b, question in enumerate(questions):
            i = [example.question for example in examples].index(question)
            thought.latents_BKD[b, wanted[i] - 1 :, 0] += 5
        return thought

    class Said:
        def __init__(self, text: str) -> None:
            self.text, self.latents = text, 4

    def answer(questions: list[str], latents: int = 4) -> list[Said]:
        return [Said(f"### {e.answer}" if latents >= w else "") for e, w in zip(examples, wanted, strict=True)]

    monkeypatch.setattr(model, "think", think)
    monkeypatch.setattr(model, "answer", answer)
    learned = learn_stop(model, task, examples)
    assert learned.held == learned.fit == 1.0
    assert learned.usual < 1.0
    assert learned.places == 3 * 40


def test_what_is_refused(run: Path):
    for words, part in [
        (("eval", run, "--stop", "soon"), "a stop rule is written RULE:NUMBER"),
        (("eval", run, "--stop", "head:0.5"), "needs a trained head, which this model lacks"),
        (("eval", run, "--dtype", "int4"), "unknown dtype 'int4'; known: float32, bfloat16, int8"),
        (("ask", run, "How many?", "--stop", "fixed:0"), "needs a number of latents, at least 1, got 0"),
        (("learn-stop", run, "--split", "test"), "never from a test split; got 'test'"),
        (("learn-stop", run, "--limit", "3"), "needs at least 10 problems to learn from, got 3"),
        (("learn-stop", "builtin:tiny"), "builtin:tiny is not a folder of yours to write to"),
    ]:
        code, _, err = command(*words)
        assert code == 2
        assert err.count("\n") == 1
        assert part in err


def test_thoughts_in_the_prompt_cannot_stop():
    model = unspoken.load("builtin:tiny", device="cpu")
    with pytest.raises(ConfigError, match="a stop rule needs a method that makes its latents one by one"):
        model.answer(["How many?"], stop="fixed:1")
    with pytest.raises((ConfigError, DataError), match="a stop head needs a method that makes its latents one by one"):
        learn_stop(model, make_task("tiny"), [])


def test_eight_bits_go_through_the_queue(run: Path):
    plain = said(run, "--dtype", "int8")
    stopped = said(run, "--dtype", "int8", "--stop", "fixed:2")
    assert {r["latents"] for r in plain} == {4}
    assert {r["latents"] for r in stopped} == {2}
