"""Reasoning steps that a language model writes, kept if its answer is right: what is kept, what goes on, what it costs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.fakes.chat_server import Server

from unspoken.core.text.example import Example
from unspoken.core.text.prompts import TEXTS
from unspoken.errors import DataError
from unspoken.tasks import make_task
from unspoken.tasks.annotate import GIVE_UP, EndpointWriter, annotate_file, rejected_file
from unspoken.tasks.appended import RowsFile
from unspoken.tasks.endpoint import Client, Completion, Endpoint
from unspoken.tasks.scoring.answers import score_number
from unspoken.tasks.solutions import Judge

EXAMPLES = [
    Example(id=f"train-{i}", question=f"Ann has {i} pens and buys 2. How many?", answer=str(i + 2)) for i in range(6)
]
JUDGE = Judge(score=score_number, steps="lines")


def number_of(prompt: str) -> int:
    """Which example a prompt is about."""
    return int(re.findall(r"Ann has (\d+)", prompt)[-1])


def right(prompt: str, usage: tuple[int, int] | None = (10, 5)) -> tuple[int, str]:
    """A solution as it should be."""
    i = number_of(prompt)
    return 200, Server.completion(f"## Step 1: She has {i} and buys 2.\n## Step 2: {i} + 2 = {i + 2}\n#### {i + 2}", usage)


def wrong(prompt: str) -> tuple[int, str]:
    """One whose answer is wrong."""
    return 200, Server.completion("## Step 1: I guess.\n#### 999", (10, 3))


def writer(server: Any, **more: Any) -> EndpointWriter:
    endpoint = Endpoint(url=server.endpoint.url, model="m", wait=0.0, **{"tries": 2, **more})
    return EndpointWriter(client=Client(endpoint), texts=TEXTS["math"], workers=3)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_rows_that_the_task_files_trains_on(serve, tmp_path):
    """Right at the first try, right at the second, never right; a row that has steps is copied; a repeated one is not."""
    asked: dict[int, int] = {}

    def says(prompt: str, _: int) -> tuple[int, str]:
        i = number_of(prompt)
        asked[i] = asked.get(i, 0) + 1
        return wrong(prompt) if i == 3 or (i == 2 and asked[i] == 1) else right(prompt)

    given = [*EXAMPLES, Example(id="told", question="Told?", steps=("<<1+1=2>>",), answer="2"), EXAMPLES[0]]
    out, seen = tmp_path / "deep" / "a.jsonl", []
    told = annotate_file(writer(serve(says)), given, JUDGE, out, tries=3, progress=lambda *n: seen.append(n))
    assert (told.rows, told.written, told.copied, told.rejected, told.reasons) == (7, 5, 1, 1, {"a wrong answer": 1})
    assert (told.tries, told.prompt_tokens, told.completion_tokens) == (9, 90, 4 * 5 + (3 + 5) + 3 * 3)
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)
    read = make_task({"name": "files", "train": str(out)}).examples("train")
    steps = {e.question: e.steps for e in read}
    assert steps["Told?"] == ("<<1+1=2>>",)
    assert steps[EXAMPLES[1].question] == ("She has 1 and buys 2.", "1 + 2 = 3")
    second = next(e.meta["annotation"] for e in read if e.question == EXAMPLES[2].question)
    assert (second["model"], second["tries"], second["prompt_tokens"], second["temperature"]) == ("m", 2, 20, 0.2)
    (row,) = rows_of(rejected_file(out))
    assert (row["id"], row["why"]) == ("train-3", ["its answer is '999'"] * 3)
    assert row["said"] == ["## Step 1: I guess.\n#### 999"] * 3


def test_it_goes_on_and_asks_again_only_if_told(serve, tmp_path):
    out = tmp_path / "a.jsonl"
    first = serve(lambda prompt, _: wrong(prompt) if number_of(prompt) < 2 else right(prompt))
    told = annotate_file(writer(first), EXAMPLES, JUDGE, out, tries=1, limit=4)
    assert (told.written, told.rejected, told.left) == (2, 2, 2)
    for file in (out, rejected_file(out)):
        with file.open("ab") as half:
            half.write('{"question": "hälf'.encode()[:-3])
    second = serve(lambda prompt, _: right(prompt, None))
    told = annotate_file(writer(second), EXAMPLES, JUDGE, out)
    assert sorted(number_of(call["messages"][0]["content"]) for call in second.calls) == [4, 5]
    assert (told.written, told.rejected, told.tries, told.uncounted, told.prompt_tokens) == (4, 2, 6, 2, 40)
    told = annotate_file(writer(second), EXAMPLES, JUDGE, out, again=True)
    assert (told.written, told.rejected, told.tries) == (6, 0, 8)
    assert len(second.calls) == 4
    assert [row["id"] for row in rows_of(out)[-2:]] in (["train-0", "train-1"], ["train-1", "train-0"])


@pytest.mark.parametrize(
    ("said", "steps", "why"),
    [
        (Completion(text=""), (), "it says nothing"),
        (Completion(text="Two and two.\n#### 4", finished=False), (), "it was cut off at the limit of tokens"),
        (Completion(text="<think>hm 4"), (), "it never ends its thinking"),
        (Completion(text="Two \ufffd.\n#### 4"), (), "it holds a broken character"),
        (Completion(text="Not known."), (), "its answer is none"),
        (Completion(text="#### 4"), (), "it has no step by the rule 'lines'"),
        (Completion(text="<think>2 and 2</think>\n#### 4"), ("2 and 2",), ""),
        (Completion(text="#### 4", reasoning="2 and 2"), ("2 and 2",), ""),
        (Completion(text="<think>5?</think>2 + 2 = 4\n#### 4<|im_end|>"), ("2 + 2 = 4",), ""),
        (Completion(text="**Step 1:** 2 is 2.\n\nStep 2) so\n3. 2 + 2 = 4\n####  4"), ("2 is 2.", "so", "2 + 2 = 4"), ""),
        (Completion(text="- two\n- 2 + 2\n#### 4"), ("two", "2 + 2"), ""),
        (Completion(text="-2 + 6 = 4\n1.5 stays\n---\n#### 4"), ("-2 + 6 = 4", "1.5 stays"), ""),
        (Completion(text="二 и 2\u2028→ ４\n#### ４"), ("二 и 2\u2028→ ４",), ""),
        (Completion(text="We add.\nThe answer is 4."), ("We add.",), ""),
        (Completion(text="We add.\nIn all 4."), ("We add.", "In all 4."), ""),
        (Completion(text="<<2+2=4>>\n### 4"), ("<<2+2=4>>",), ""),
        (Completion(text="### Step 1: add\n2 + 2\n### Step 2: so\nThe answer is 4."), ("add", "2 + 2", "so"), ""),
        (Completion(text=" 4. "), (), "it has no step by the rule 'lines'"),
    ],
)
def test_what_is_kept(said, steps, why):
    assert JUDGE.steps_of(Example(id="", question="2+2?", answer="4"), said) == (steps, why)


def test_strict_and_equations():
    example = Example(id="", question="2+2?", answer="4")
    loose = Completion(text="<<2+2=4>> So it is 4 in all, I think")
    assert Judge(score=score_number, steps="markers").steps_of(example, loose) == (("<<2+2=4>>",), "")
    assert Judge(score=score_number, steps="markers", strict=True).steps_of(example, loose)[0] == ()


def test_what_is_odd_comes_back_as_it_was(serve, tmp_path):
    """Unicode, half a surrogate pair, line separators, quotes: in questions, steps and what was rejected."""
    odd = ["Ann has 1 \u2028 \u202e“pens”?\x7f", "Ann has 2 🖊\u0000", "Ann has 3 ﷽ {question} {thoughts}"]
    examples = [Example(id=str(i), question=text, answer="1") for i, text in enumerate(odd)]

    def says(prompt: str, _: int) -> tuple[int, str]:
        body = "🖊\u2028\u0000 '\"\\" if number_of(prompt) < 3 else "\ud83d"
        return 200, Server.completion(f"{body}\n#### 1")

    out = tmp_path / "ä \u2028.jsonl"
    told = annotate_file(writer(serve(says)), examples, JUDGE, out, tries=1)
    assert (told.written, told.rejected) == (2, 1)
    read = make_task({"name": "files", "train": str(out)}).examples("train")
    assert {(e.question, e.steps) for e in read} == {(text, ("🖊\u2028\u0000 '\"\\",)) for text in odd[:2]}
    assert rows_of(rejected_file(out))[0]["why"] == ["it holds a broken character"]


def test_rate_limits_and_faults_that_pass(serve, tmp_path):
    """429 and 500 are tried again; a row that never gets an answer is left for the next call, and is not rejected."""

    def says(prompt: str, n: int) -> Any:
        if number_of(prompt) == 4:
            return 500, "it broke"
        return (429, "slow down", {"Retry-After": "0"}) if n == 0 else right(prompt)

    out = tmp_path / "a.jsonl"
    told = annotate_file(writer(serve(says)), EXAMPLES, JUDGE, out)
    assert (told.written, told.rejected, told.unanswered) == (5, 0, 1)
    assert not rejected_file(out).exists()
    assert annotate_file(writer(serve(lambda prompt, _: right(prompt))), EXAMPLES, JUDGE, out).written == 6


def test_what_the_server_refuses_of_one_row_is_rejected(serve, tmp_path):
    def says(prompt: str, _: int) -> Any:
        return (400, "too long") if number_of(prompt) == 0 else right(prompt)

    out = tmp_path / "a.jsonl"
    told = annotate_file(writer(serve(says)), EXAMPLES, JUDGE, out)
    assert (told.written, told.rejected, told.reasons) == (5, 1, {"refused by the server": 1})


@pytest.mark.parametrize(
    ("said", "message", "calls"),
    [
        ((401, "no"), "refuses the call with 401", 7),
        ((404, "no"), "refuses the call with 404", 7),
        ((400, "temperature?"), f"{GIVE_UP} rows one after the other got no answer, the last because: .*400", GIVE_UP + 7),
        ((503, "busy"), f"{GIVE_UP} rows one after the other got no answer, the last because: .*503", 2 * (GIVE_UP + 7)),
    ],
)
def test_a_server_that_takes_nothing_ends_it_and_settles_nothing(serve, tmp_path, said, message, calls):
    server = serve(lambda prompt, _: said)
    many = [Example(id=str(i), question=f"Ann has {i}", answer="1") for i in range(50)]
    with pytest.raises(DataError, match=message):
        annotate_file(writer(server), many, JUDGE, tmp_path / "a.jsonl")
    assert len(server.calls) <= calls
    assert not list(tmp_path.iterdir())


def test_none_with_steps_is_an_error_that_says_why(serve, tmp_path):
    with pytest.raises(DataError, match=r"none of 6 rows has steps now \(a wrong answer\); .*a\.rejected\.jsonl says what"):
        annotate_file(writer(serve(lambda prompt, _: wrong(prompt))), EXAMPLES, JUDGE, tmp_path / "a.jsonl", tries=1)
    assert len(rows_of(tmp_path / "a.rejected.jsonl")) == 6


def test_other_files_are_not_touched(serve, tmp_path):
    server = serve(lambda prompt, _: right(prompt))
    mine = tmp_path / "mine.jsonl"
    for text in (
        '{"text": "not yours"}\n',
        "no newline at its end",
        '{"question": "?", "steps": ["a"], "answer": "other"}\n',
    ):
        mine.write_text(text)
        with pytest.raises(DataError, match=r"mine\.jsonl:1: is .*give another --out"):
            annotate_file(writer(server), EXAMPLES, JUDGE, mine)
        assert mine.read_text() == text
    assert not server.calls
    with RowsFile(tmp_path / "b.jsonl", "steps"), pytest.raises(DataError, match="being written by another process"):
        annotate_file(writer(server), EXAMPLES, JUDGE, tmp_path / "b.jsonl")


def test_killed_and_gone_on(serve, tmp_path):
    """kill -9 in the middle: every row that was settled is whole, none is asked for twice, and the costs add up."""

    def says(prompt: str, _: int) -> tuple[int, str]:
        time.sleep(0.05)
        return right(prompt)

    server, out = serve(says), tmp_path / "a.jsonl"
    data = tmp_path / "data.jsonl"
    many = [{"question": f"Ann has {i} pens. How many with 2 more?", "answer": i + 2} for i in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in many))
    words = ["annotate", "files", f"train={data}", "--url", server.endpoint.url, "--model", "m", "--out", str(out)]
    command = [sys.executable, "-m", "unspoken", *words, "--workers", "2", "--price", "1,2"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 5):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    settled = rows_of(out)
    assert 5 <= len(settled) < 40
    before = len(server.calls)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert len(server.calls) - before == 40 - len(settled)
    assert len({row["id"] for row in rows_of(out)}) == len(rows_of(out)) == 40
    assert "40 rows got steps" in done.stdout
    assert "cost so far: 40 solutions, 400 tokens read, 200 written" in done.stdout
    assert "money: 0.0008" in done.stdout


def test_a_model_on_this_machine(tmp_path, monkeypatch, capsys):
    """The model of the package that writes its steps; what it writes does not depend on batches, nor on a stop between."""
    from unspoken.cli import main

    def run(out: Path, *more: str) -> dict[str, list[str]]:
        words = ["annotate", "tiny", "train_size=12", "min_steps=4", "max_steps=4", "--rewrite", "--steps", "markers"]
        monkeypatch.setattr("sys.argv", ["unspoken", *words, "--model", "builtin:tiny", "--out", str(out), *more])
        main()
        return {row["question"]: row["steps"] for row in rows_of(out)}

    whole = run(tmp_path / "a.jsonl", "--batch-size", "5")
    said = capsys.readouterr()
    assert "12 rows got steps" in said.out
    assert "task.name=files task.train=" in said.err
    run(tmp_path / "b.jsonl", "--limit", "7")
    assert run(tmp_path / "b.jsonl") == whole
    task = make_task({"name": "tiny", "train_size": 12, "min_steps": 4, "max_steps": 4})
    true = {e.question: list(e.steps) for e in task.examples("train")}
    assert sum(whole[question] == steps for question, steps in true.items()) >= 10


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--temperature", "0"], "at --temperature 0 all 3 tries write the same"),
        (["--price", "1"], "--price needs two numbers"),
        (["--price", "nan,1"], "--price needs two numbers"),
        (["--steps", "linez"], "unknown rule 'linez'"),
        (["--texts", "nope"], "unknown texts 'nope'"),
        (["--tries", "0"], "--tries"),
        (["--url", "localhost"], "url must be the base URL"),
    ],
)
def test_options_that_are_none(tmp_path, monkeypatch, capsys, more, message):
    from unspoken.cli import main

    words = [
        "annotate",
        "tiny",
        "train_size=3",
        "--url",
        "http://localhost:9/v1",
        "--model",
        "m",
        "--out",
        str(tmp_path / "a"),
    ]
    monkeypatch.setattr("sys.argv", ["unspoken", *words, *more])
    with pytest.raises(SystemExit):
        main()
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
