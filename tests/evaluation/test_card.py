"""Cards: what is recorded, what verifies, and what is said where it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fakes.evaluation import report
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.errors import ConfigError, RunError
from unspoken.evaluation.card import Card, make_card, verify
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.rescore import rescore
from unspoken.evaluation.resume import PartialReport
from unspoken.tasks import make_task


def load() -> Any:
    return unspoken.load("builtin:tiny", device="cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    return load()


@pytest.fixture(scope="module")
def made(model: Any, tmp_path_factory: pytest.TempPathFactory) -> EvalReport:
    """Hot enough that some answers are wrong, and sampled, so that places in the split matter."""
    keep = PartialReport(tmp_path_factory.mktemp("card") / "r.json")
    return evaluate(model, make_task("tiny"), limit=30, temperature=2.0, seed=3, batch_size=8, keep=keep)


def test_a_card_is_taken_evenly_and_comes_back(made: EvalReport, tmp_path: Path):
    card = make_card(made, 7)
    assert card.places == (0, 4, 8, 12, 17, 21, 25)
    assert [r.id for r in card.records] == [made.records[place].id for place in card.places]
    assert card.score == made.accuracy
    assert card.model["weights"]
    assert "path" not in card.model
    card.save(tmp_path / "card.json")
    assert Card.from_json(tmp_path / "card.json") == card
    assert make_card(made, 99).places == tuple(range(30))
    with pytest.raises(ConfigError, match="at least one record, got n=0"):
        make_card(made, 0)


def test_the_same_model_verifies_word_for_word(model: Any, made: EvalReport):
    result = verify(model, make_card(made, 12))
    assert result.verified
    assert not result.reworded
    assert not result.costlier
    assert 0 < result.score.correct < 12  # a card of right answers alone would not see a better model
    assert result.differences == {}
    right = f"{result.score.correct} of 12 right, as recorded, word for word"
    whole = f"{made.accuracy.correct} of 30"
    assert result.lines()[0].startswith(f"verified: {right} (of the whole evaluation ")
    assert result.lines()[0].endswith(f"% were right, {whole})")


def test_places_seed_the_sampling(model: Any, made: EvalReport):
    card = make_card(made, 12)
    assert not verify(model, replace(card, places=tuple(p + 1 for p in card.places))).verified


def test_other_weights_do_not_verify(made: EvalReport):
    other = load()
    for p in other.method.backbone.parameters():
        p.data.mul_(0.9)
    result = verify(other, make_card(made, 12))
    assert not result.verified
    assert set(result.differences) == {"model.weights"}
    lines = result.lines()
    assert lines[0].startswith(f"NOT verified: {result.score.correct} of 12 right, recorded {result.recorded.correct}; ")
    assert len([line for line in lines if line.startswith("  test-")]) == len(result.changed)
    assert lines[-1].startswith('differs: model.weights: recorded "')


def test_differences_of_the_machine_are_named(model: Any, made: EvalReport):
    card = make_card(made, 3)
    elsewhere = {
        **card.environment,
        "cpu": "Abacus",
        "versions": {**card.environment["versions"], "torch": "1.0"},
        "time": "x",
    }
    result = verify(model, replace(card, environment=elsewhere, batch_size=1))
    assert result.verified
    assert set(result.differences) == {"cpu", "versions.torch"}
    assert any(line.startswith('differs: versions.torch: recorded "1.0", now "') for line in result.lines())
    unknown = replace(card, model={k: v for k, v in card.model.items() if k != "weights"})
    assert verify(model, unknown).differences == {}  # a report that knows no hash accuses nobody


def test_other_words_and_costs_are_told_apart_from_other_verdicts(model: Any, made: EvalReport):
    card = make_card(made, 4)
    first, second, *rest = card.records
    changed = (replace(first, text=first.text + " "), replace(second, passes=second.passes + 1), *rest)
    result = verify(model, replace(card, records=changed))
    assert result.verified
    assert ([old.id for old, _ in result.reworded], [old.id for old, _ in result.costlier]) == ([first.id], [second.id])
    assert "1 of them in other words" in result.lines()[0]
    assert any("1 of the same answers cost otherwise" in line for line in result.lines())


def test_a_card_names_no_folder_of_this_machine(made: EvalReport, tmp_path: Path):
    """A model inside the method (SoftCoT's, SemCoT's) is saved in the run, wherever that is."""
    parts = {"assistant": {"path": str(tmp_path / "run" / "assistant"), "dtype": "float32"}, "prompt": "/{question}"}
    held = replace(made, model={**made.model, "method": {"name": "softcot", **parts}})
    assert make_card(held, 2).model["method"] == {
        "name": "softcot", "assistant": {"path": "assistant", "dtype": "float32"}, "prompt": "/{question}"
    }  # fmt: skip
    hub = replace(made, model={**made.model, "method": {"name": "softcot", "assistant": {"path": "owner/name"}}})
    assert make_card(hub, 2).model["method"]["assistant"]["path"] == "owner/name"


def test_votes_and_other_rules_verify(model: Any, tmp_path: Path):
    voted = evaluate(model, make_task("tiny"), limit=6, temperature=2.0, samples=3, keep=PartialReport(tmp_path / "r.json"))
    assert verify(model, make_card(voted)).verified
    codi = rescore(voted, "paper:softcot")
    card = make_card(codi)
    assert card.extractor == "paper:softcot"
    assert verify(model, card).verified
    flipped = replace(card, records=tuple(replace(r, strict=not r.strict) for r in card.records))
    assert len(verify(model, flipped).changed) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the card"),
        ("{", "not a card, or cut off"),
        ("[]", "expected a card of format 'unspoken card 1', got list"),
        ('{"format": 1}', "got format 1; `unspoken card REPORT` makes one"),
        ('{"format": "unspoken card 1"}', "field 'score' of Card is missing"),
    ],
)
def test_what_is_no_card_is_refused(tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "card.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=message):
        Card.from_json(path)


def test_a_card_that_cannot_be_used_is_refused(model: Any, made: EvalReport, tmp_path: Path):
    with pytest.raises(RunError, match="cannot be made again: unknown task 'fake'"):
        verify(model, make_card(report([True])))
    data = {**json.loads(_text(make_card(made, 2), tmp_path)), "places": [1]}
    (tmp_path / "odd.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="2 records for 1 places"):
        Card.from_json(tmp_path / "odd.json")


def _text(card: Card, folder: Path) -> str:
    card.save(folder / "card.json")
    return (folder / "card.json").read_text()


def test_the_commands(tmp_path: Path):
    runner = CliRunner()
    options = ["--limit", "8", "--out", str(tmp_path / "r.json"), "--card", str(tmp_path / "a.json")]
    assert runner.invoke(app, ["eval", "builtin:tiny", *options], catch_exceptions=False).exit_code == 0
    done = runner.invoke(app, ["card", str(tmp_path / "r.json"), "--out", str(tmp_path / "b.json"), "-n", "64"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    done = runner.invoke(app, ["verify", "builtin:tiny", "--card", str(tmp_path / "a.json")])
    assert (done.exit_code, done.output.splitlines()[0][:9]) == (0, "verified:")
    card = Card.from_json(tmp_path / "a.json")
    wrong = replace(card, records=(replace(card.records[0], strict=not card.records[0].strict), *card.records[1:]))
    wrong.save(tmp_path / "c.json")
    done = runner.invoke(app, ["verify", "builtin:tiny", "--card", str(tmp_path / "c.json"), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output)["verified"] is False
    assert len(json.loads(done.output)["changed"]) == 1
