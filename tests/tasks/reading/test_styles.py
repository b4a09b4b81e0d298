"""Rows of MATH, HotpotQA and of chats, through the task `files`. The rows here have the fields of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unspoken.errors import DataError
from unspoken.tasks import make_task
from unspoken.tasks.reading.traces import boxed

MATH = {
    "problem": "Solve $x^2 = 4$ for $x > 0$.",
    "level": "Level 1",
    "type": "Algebra",
    "solution": "We factor: $x^2 - 4 = (x-2)(x+2)$. So $x = \\pm 2$.\nThe answer is $\\boxed{\\frac{4}{2}}$.",
}
HOTPOT = {
    "_id": "5a",
    "question": "Were Ann and Bob born in the same country?",
    "answer": "yes",
    "type": "comparison",
    "supporting_facts": [["Ann", 0], ["Bob", 1], ["Bob", 9]],
    "context": [["Ann", ["Ann is from Peru.", " She sings."]], ["Bob", ["Bob swims.", " He is from Peru."]]],
}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How many pens?"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "Half is "},
            {"type": "python", "text": "48/2"},
            {"type": "python_output", "text": "24"},
            {"type": "text", "text": "24.\n#### 24"},
        ]},
    ],
}  # fmt: skip


def read(folder: Path, row: Any, **config: Any) -> Any:
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    return make_task({"name": "files", "train": str(folder / "train.jsonl"), **config}).examples("train")[0]


def test_math(tmp_path: Path) -> None:
    example = read(tmp_path, MATH, style="math", steps="sentences", answer="text")
    assert (example.question, example.answer) == (MATH["problem"], "\\frac{4}{2}")
    assert len(example.steps) == 3
    assert example.meta == {"level": "Level 1", "type": "Algebra"}
    assert read(tmp_path, MATH, style="math", steps="latex").steps == ("$x^2 - 4 = (x-2)(x+2)$", "$x = \\pm 2$")
    assert read(tmp_path, {**MATH, "answer": "2"}, style="math", steps="lines").answer == "2"  # MATH-500 has the field


@pytest.mark.parametrize(
    ("text", "answer"),
    [(r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"is \boxed 5.", "5"), (r"\fbox{a{b}c} ok", "a{b}c"),
     (r"\boxed{open", None), ("none", None), (r"\boxed{ }", None)],
)  # fmt: skip
def test_boxed(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


def test_hotpotqa(tmp_path: Path) -> None:
    example = read(tmp_path, HOTPOT, style="hotpotqa", answer="text")
    assert example.steps == ("Ann is from Peru.", "He is from Peru.")  # a sentence that is not there is left out
    assert example.answer == "yes"
    assert example.question.splitlines() == [
        "Ann: Ann is from Peru. She sings.", "Bob: Bob swims. He is from Peru.", HOTPOT["question"]]  # fmt: skip
    closed = read(tmp_path, HOTPOT, style="hotpotqa_closed", answer="text")
    assert (closed.question, closed.steps) == (HOTPOT["question"], example.steps)
    hub = {
        **HOTPOT,
        "supporting_facts": {"title": ["Ann", "Bob"], "sent_id": [0, 1]},
        "context": {"title": ["Ann", "Bob"], "sentences": [part[1] for part in HOTPOT["context"]]},
    }
    assert read(tmp_path, hub, style="hotpotqa", answer="text").steps == example.steps


def test_chats(tmp_path: Path) -> None:
    example = read(tmp_path, CHAT, style="chat", steps="tool_calls")
    assert (example.question, example.answer) == ("Be brief.\n\nHow many pens?", "24")
    assert example.steps == ("<|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>",)
    bare = read(tmp_path, CHAT["messages"], style="chat", steps="lines")
    assert bare.steps == ("Half is <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24.",)


@pytest.mark.parametrize(
    ("row", "style", "message"),
    [
        ({"problem": "p", "solution": "s"}, "math", r"train.jsonl:1: field 'solution' has no \\boxed\{...\}"),
        ({"question": "p"}, "math", r"train.jsonl:1: field 'problem' is missing; the row has: question; is task.style"),
        ({**HOTPOT, "context": "x"}, "hotpotqa", "field 'context' must be pairs, or an object with 'title' and 'sentences'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "chat", "and one of the assistant, got: user"),
        ({"messages": [1]}, "chat", "messages must be a list of objects with 'role' and 'content'"),
        ({"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "x"}]}, "chat",
         "content must be text or a list of parts of type text, python, python_output"),
        ([1], "hotpotqa", "is missing; the row has: list"),
    ],
)  # fmt: skip
def test_rows_of_another_form(tmp_path: Path, row: Any, style: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, row, style=style)


def test_the_solutions_of_gsm8k_keep_their_calculations_as_the_rule_says(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "48/2 = <<48/2=24>>24 clips.\nSo 24.\n#### 24"}
    assert read(tmp_path, row, steps="annotated").steps == ("48/2 = <<48/2=24>>24 clips.", "So 24.")
    assert read(tmp_path, row, steps="lines").steps == ("48/2 = 24 clips.", "So 24.")
    assert read(tmp_path, row, steps="equations").steps == ("48/2 = 24",)
    assert read(tmp_path, row, steps="nanochat").steps == (
        "48/2 = <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24 clips.", "So 24.")  # fmt: skip
