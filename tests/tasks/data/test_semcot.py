"""SemCoT's five subsets, and GSM8K-Aug with rationales in sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, make_task
from unspoken.tasks.scoring.letters import options_of

COUNTS = {
    "gsm8k": (800, 161, 0),
    "svamp": (627, 183, 0),
    "multiarith": (420, 180, 6),
    "commonsense_qa": (800, 200, 0),
    "coin_flip": (800, 200, 0),
}


def row(number: int, **fields: Any) -> dict[str, Any]:
    found = {"query": f" What is {number}+1? ", "reasoning": "We add <<1+1=2>>2.\n\nSo. It is 2.", "answer": "2"}
    return found | {"full_answer": f"{found['reasoning']}\n####2", "condensed_reasoning": "Add one."} | fields


def test_rows_and_steps(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / "train_42.json").write_text(json.dumps([row(i) for i in range(40)]))
    held_out = row(3)
    del held_out["condensed_reasoning"]
    (folder / "eval_42.json").write_text(json.dumps([held_out]))
    steps = {}
    for rule in ("lines", "sentences", "markers"):
        task: Any = make_task({"name": "semcot", "root": str(tmp_path), "steps": rule})
        steps[rule] = task.examples("train")[0].steps
        assert len(task.examples("train")) + len(task.examples("validation")) == 39
    assert steps == {
        "lines": ("We add 2.", "So. It is 2."),
        "sentences": ("We add 2.", "So.", "It is 2."),
        "markers": ("<<1+1=2>>",),
    }
    example = task.examples("train")[0]
    assert example.question == "What is 0+1?"
    assert example.meta == {"condensed_reasoning": "Add one.", "reasoning": row(0)["reasoning"], "subset": "gsm8k"}
    assert "condensed_reasoning" not in task.examples("test")[0].meta
    with pytest.raises(DataError, match=r"no test file for task 'semcot'; expected svamp/eval_42\.json"):
        make_task({"name": "semcot", "root": str(tmp_path), "subset": "svamp"}).examples("test")
    with pytest.raises(ConfigError, match=r"field 'subset' of SemCotTaskConfig"):
        make_task({"name": "semcot", "subset": "aqua"})


@pytest.mark.parametrize("subset", COUNTS)
def test_semcot_counts(shared_data: Path, subset: str) -> None:
    task: Any = make_task({"name": "semcot", "root": str(shared_data / "semcot"), "subset": subset})
    train, validation, test = (task.examples(split) for split in SPLITS)
    rows, held_out, shared = COUNTS[subset]
    assert sum(task.dropped.values()) >= shared
    assert (len(train) + len(validation) + sum(task.dropped.values()), len(test)) == (rows, held_out)
    assert 30 < len(validation) < 100
    assert all(e.meta["condensed_reasoning"] and e.steps for e in (*train, *validation))
    if subset == "commonsense_qa":
        assert all(list(options_of(e.question)) == list("ABCDE") for e in (*train, *test))
        # Rationales by a language model, four in five right: what they conclude is read as a person reads it.
        closing = re.compile(r"answer(?: is)?:?\s+\**([A-E])\**\.?\s*$")
        concluded = [(e, match[1]) for e in (*train, *test) if (match := closing.search(e.meta["reasoning"]))]
        assert len(concluded) > 500
        assert all(task.score(e, e.meta["reasoning"]).extracted == letter for e, letter in concluded)
    if subset == "coin_flip":
        assert all(task.score(e, e.meta["reasoning"]).flexible for e in (*train, *test)), "rationales that are right"
        assert {e.question.count("the coin.") for e in train} <= {1, 2}
        assert {e.question.count("the coin.") for e in test} == {4}


# GSM8K-Aug-NL


def test_nl_rows_come_from_two_places(tmp_path: Path, hub: dict[Any, Any]) -> None:
    (tmp_path / "train_no_aug.txt").write_text(
        "A?||Mr. Lee has 1.5 figs. He eats 2 = $3. #### 3\nV?||He has 1. #### 1\nB?||None left #### 0\n"
    )
    (tmp_path / "valid.txt").write_text("V?||<<1+1=2>> #### 2\n")
    (tmp_path / "test.txt").write_text("T?||<<1+1=2>> #### 2\nB? ||<<1=1>> #### 1\n")
    task: Any = make_task({"name": "gsm8k_aug_nl", "root": str(tmp_path)})
    (train,) = task.examples("train")
    assert (train.question, train.steps, train.answer) == ("A?", ("Mr. Lee has 1.5 figs.", "He eats 2 = $3."), "3")
    assert task.dropped == {"train": 2, "validation": 0, "test": 0}
    assert [(e.question, e.steps, e.answer) for e in task.examples("validation")] == [("V?", (), "2")]
    rows = [
        {"question": "A?", "cot": "It is 2. It is 3.", "answer": "3"},
        {"question": "B?", "cot": "Not known.", "answer": None},
        {"question": "V?", "cot": "It is 2.", "answer": "2"},
    ]
    hub["zen-E/GSM8k-Aug-NL", None] = {"train": rows}
    with pytest.raises(DataError, match=r"hub 'whynlp/gsm8k-aug' could not be loaded .* or set evaluation_hub=NAME"):
        make_task("gsm8k_aug_nl").examples("train")
    equations = [{"question": "V?", "steps": ["<<1+1=2>>"], "answer": "2"}]
    other = [{"question": "T?", "steps": ["<<1+1=2>>"], "answer": "2"}]
    hub["whynlp/gsm8k-aug", None] = {"train": [], "validation": equations, "test": other}
    remote: Any = make_task("gsm8k_aug_nl")
    assert [(e.question, e.steps) for e in remote.examples("train")] == [("A?", ("It is 2.", "It is 3."))]
    assert remote.dropped["train"] == 2, "a held-out question, and a row without an answer"


def test_nl_counts(shared_data: Path) -> None:
    root = str(shared_data / "gsm8k_aug")
    task: Any = make_task({"name": "gsm8k_aug_nl", "root": root})
    assert [len(task.examples(split)) for split in SPLITS] == [6973, 500, 1119]
    assert task.dropped == {"train": 0, "validation": 0, "test": 0}
    assert task.examples("train")[0].steps == (
        "The annual budget for policing is 32 / 2 = $16 million.",
        "The combined budget for education and policing is 16 + 12 = $28 million.",
        "There is 32 - 28 = $4 million to manage public spaces.",
    )
    equations = make_task({"name": "gsm8k_aug", "root": root})
    for split in ("validation", "test"):
        pairs = zip(task.examples(split), equations.examples(split), strict=True)
        assert all((a.question, a.answer) == (b.question, b.answer) and not a.steps for a, b in pairs)
