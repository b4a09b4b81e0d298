"""Condensed reasoning: by rule, and from an endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unspoken.core.text.condense import condense
from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.tasks import make_task
from unspoken.tasks.condense import condense_file
from unspoken.tasks.endpoint import Endpoint

EXAMPLES = [
    Example(id=f"train-{i}", question=f"Ann has {i} pens and buys 2 more. How many?", steps=(f"<<{i}+2={i + 2}>>",),
            answer=str(i + 2))
    for i in range(6)
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "words", "want"),
    [
        (("<<3+4=7>>", "<<7*2=14>>"), 10, "3+4=7; 7*2=14"),
        (("He sold 48 / 2 = 24 clips in May.", "Altogether 48 + 24 = 72."), 10, "48/2=24; 48+24=72"),
        (("It costs $1,200 - $150.50 = $1,049.50 now",), 10, "$1,200-$150.50=$1,049.50"),
        (("The coin is heads up.", "Bob does not flip the coin."), 6, "coin heads up; Bob not flip"),
        (("The bank is where you keep money, so a revolving door serves security there",), 4, "bank keep money revolving"),
        (("Then there are 12 of them and also some 13", "<<12+13=25>>"), 2, "12 13; 12+13=25"),
        (("and then", "so it is"), 10, "and then; so it is"),
        (("  ", ""), 10, ""),
        ((), 10, ""),
        (("x = y, so nothing is counted",), 3, "x y nothing"),
    ],
)
def test_condensed_by_rule(steps, words, want):
    assert condense(steps, words) == want


def test_every_step_keeps_a_word():
    steps = [f"Alice{i} walks home" for i in range(5)]
    assert condense(steps, 3) == "; ".join(f"Alice{i}" for i in range(5))


def number_of(prompt: str) -> int:
    """Which example a prompt is about."""
    return int(prompt.split("Ann has ")[1].split()[0])


def test_rows_in_order_that_the_task_files_reads(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    server = serve(lambda prompt, _: f" {number_of(prompt)}+2,\n thus {number_of(prompt) + 2}")
    endpoint = Endpoint(url=server.endpoint.url + "/", model="some-model", key="SOME_KEY")
    out = tmp_path / "deep" / "train.jsonl"
    seen: list[tuple[int, int]] = []
    assert condense_file(endpoint, EXAMPLES, out, words=7, workers=3, progress=lambda *n: seen.append(n)) == 6
    assert seen == [(n, 6) for n in range(1, 7)]
    call = server.calls[0]
    assert (call["path"], call["auth"], call["model"], call["temperature"]) == (
        "/v1/chat/completions", "Bearer secret", "some-model", 0.2,
    )  # fmt: skip
    assert "at most 7 words" in call["messages"][0]["content"]
    assert "secret" not in out.read_text()
    read = make_task({"name": "files", "train": str(out)}).examples("train")
    assert [(e.question, e.steps, e.answer) for e in read] == [(e.question, e.steps, e.answer) for e in EXAMPLES]
    assert [e.meta["condensed_reasoning"] for e in read] == [f"{i}+2, thus {i + 2}" for i in range(6)]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", r"train-0: http://.* gave no usable answer in 5 tries; the last time its answer is empty"),
        ("word " * 40, r"its answer has 40 words, where 10 were asked for: 'word word"),
        ((500, "it\nbroke"), r"the last time it answered 500: it broke"),
    ],
)
def test_what_stays_wrong_is_never_written(serve, tmp_path, said, message):
    server = serve(lambda prompt, _: said)
    with pytest.raises(DataError, match=message):
        condense_file(server.endpoint, EXAMPLES, tmp_path / "out.jsonl", workers=1)
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_it_goes_on_where_it_stopped(serve, tmp_path):
    out = tmp_path / "out.jsonl"
    failing = serve(lambda prompt, _: (400, "no") if number_of(prompt) == 3 else "first")
    with pytest.raises(DataError, match=r"train-3: .*refuses the call with 400"):
        condense_file(failing.endpoint, EXAMPLES, out, workers=2)
    assert len(out.read_text().splitlines()) == 3
    with out.open("a") as file:
        file.write('{"question": "half a r')
    again = serve(lambda prompt, _: "second")
    assert condense_file(again.endpoint, EXAMPLES, out) == 3
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [e.id for e in EXAMPLES]
    assert [row["condensed_reasoning"] for row in rows] == ["first"] * 3 + ["second"] * 3
    assert condense_file(again.endpoint, EXAMPLES, out) == 0
    assert len(again.calls) == 3


def test_other_data_are_not_mixed_in(serve, tmp_path):
    out = tmp_path / "out.jsonl"
    server = serve(lambda prompt, _: "ok")
    condense_file(server.endpoint, EXAMPLES[:2], out)
    with pytest.raises(DataError, match=r"out.jsonl:1: is of other data: not the question of 'train-2'; give another --out"):
        condense_file(server.endpoint, EXAMPLES[2:], out)
    with pytest.raises(DataError, match=r"has 2 rows, the data 1; it is of other data"):
        condense_file(server.endpoint, EXAMPLES[:1], out)
    (tmp_path / "rows.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1: is no row with 'condensed_reasoning'"):
        condense_file(server.endpoint, EXAMPLES, tmp_path / "rows.jsonl")


def test_a_row_without_reasoning_is_named(serve, tmp_path):
    server = serve(lambda prompt, _: "ok")
    with pytest.raises(DataError, match=r"bare has no reasoning to condense; drop the row"):
        condense_file(server.endpoint, [Example(id="bare", question="?", answer="1")], tmp_path / "out.jsonl")


def test_the_command(serve, tmp_path: Path, monkeypatch, capsys):
    from unspoken.cli import main

    server = serve(lambda prompt, _: "short")
    out = tmp_path / "tiny.jsonl"
    words = ["condense", "tiny", "train_size=3", "--url", server.endpoint.url, "--model", "m", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["unspoken", *words])
    main()
    said = capsys.readouterr()
    assert "3 rows in " in said.out
    assert "warning: steps that are equations without words" in said.err
    assert len(out.read_text().splitlines()) == 3
