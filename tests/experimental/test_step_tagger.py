"""A step tagger finds, in texts without marks, what it was shown the borders of."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from unspoken.cli import app
from unspoken.core.text.finders import finder
from unspoken.errors import ConfigError, DataError
from unspoken.experimental.step_tagger import fit, joined, learn, span_f1


def problems(count: int, seed: int) -> list[tuple[str, ...]]:
    """Chains whose steps have no mark and no full stop between them."""
    rng, made = Random(seed), []
    for _ in range(count):
        steps = []
        for _ in range(rng.randint(1, 4)):
            a, b = rng.randint(2, 99), rng.randint(2, 99)
            verb = rng.choice(["first add", "then take", "now we get", "next compute"])
            steps.append(f"{verb} {a} + {b} = {a + b}")
        made.append(tuple(steps))
    return made


def test_it_finds_steps_in_text_that_it_has_not_seen() -> None:
    tagger, f1 = learn(problems(60, 0))
    assert f1 is not None
    assert f1 > 0.95
    text, bounds = joined(problems(1, 99)[0])
    assert [(s.start, s.end) for s in tagger.find(text)] == bounds
    assert [text[slice(*s.result)] for s in tagger.find(text) if s.result] == [text[a:b].split()[-1] for a, b in bounds]
    # As many borders, drawn without looking at the words, find next to nothing.
    rng, held = Random(1), [joined(p) for p in problems(40, 5)]
    two = lambda text: sorted(rng.sample(range(len(text)), 2))  # noqa: E731
    drawn = [[(a, b) for a, b in (two(text) for _ in bounds)] for text, bounds in held]
    assert span_f1(drawn, [bounds for _, bounds in held]) < 0.2


def test_words_outside_of_steps_stay_outside() -> None:
    known = []
    for a in range(2, 60):
        text = f"Well, so then <{a}+{a}={2 * a}> I think."
        known.append((text, [(text.index("<"), text.index(">") + 1)]))
    text = "Well, so then <3+77=80> I think."
    assert [text[s.start : s.end] for s in fit(known).find(text)] == ["<3+77=80>"]


def test_the_same_data_and_seed_give_the_same_file_and_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    for name in ("one", "two"):
        learn(problems(30, 0), seed=3)[0].save(tmp_path / "rules" / f"{name}.json")
    assert (tmp_path / "rules" / "one.json").read_bytes() == (tmp_path / "rules" / "two.json").read_bytes()
    assert [p.name for p in sorted((tmp_path / "rules").iterdir())] == ["one.json", "two.json"]
    text, _ = joined(problems(1, 7)[0])
    assert finder(f"learned:{tmp_path}/rules/one.json")(text) == learn(problems(30, 0), seed=3)[0].find(text) != []


def test_span_f1() -> None:
    assert span_f1([[(0, 2), (3, 5)]], [[(0, 2), (3, 6)]]) == 0.5
    assert span_f1([[]], [[]]) == 1.0
    assert span_f1([[]], [[(0, 1)]]) == 0.0


def test_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match=r"none of 2 texts has one; give texts with known steps"):
        fit([("no step", []), ("none", [])])
    assert learn(problems(9, 0))[1] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "is no step tagger"), ('{"format": "x"}', "its format is 'x'"), ("{", "is no step tagger"),
     ('{"format": "unspoken step tagger 1", "moves": [[NaN,0,0],[0,0,0],[0,0,0]], "weights": {}}', "not finite")],
)  # fmt: skip
def test_files_that_are_no_tagger(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        finder(f"learned:{tmp_path}/t.json")("text")


def test_the_command_learns_from_a_task(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "steps": list(steps), "answer": "1"} for steps in problems(40, 0)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "steps.json"
    done = CliRunner().invoke(app, ["learn-steps", "files", f"train={tmp_path}/train.jsonl", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "learned from 40 problems" in done.output
    assert f"learned:{out}" in done.output.replace("\n", "")
    # As a rule of a task it splits reasoning that comes as one text.
    flat = {"question": "How many?", "cot": " ".join(problems(1, 5)[0]), "answer": "1"}
    (tmp_path / "flat.jsonl").write_text(json.dumps(flat) + "\n")
    shown = CliRunner().invoke(app, ["data", "files", f"train={tmp_path}/flat.jsonl", f"steps=learned:{out}"])
    assert json.loads(shown.output.splitlines()[0])["steps"] == list(problems(1, 5)[0])


def test_equations_without_words_are_said_to_teach_little(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["learn-steps", "tiny", "train_size=20", "--out", str(tmp_path / "s.json")])
    assert done.exit_code == 0
    assert "warning: steps that are equations without words" in done.output
