"""A mixture of tasks: weights, names, whose rule scores, what is never trained on; and a run on one, resumed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unspoken.core.config import dump, override
from unspoken.errors import ConfigError, DataError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.tables import details
from unspoken.runs.directory import RunDir, load
from unspoken.tasks import make_task, task_config
from unspoken.training.loop import Training, train


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    """Numbers with three splits, and words with two, of which one question is a test question of the numbers."""
    numbers = {
        split: write(
            tmp_path / f"n-{split}.jsonl", [{"question": f"{k}+1?", "steps": [], "answer": k + 1} for k in range(*ks)]
        )
        for split, ks in {"train": (0, 10), "validation": (20, 24), "test": (30, 36)}.items()
    }
    words = [{"question": "30+1?", "steps": [], "answer": "no"}]
    words += [{"question": f"Is {k} odd?", "steps": [], "answer": "yes" if k % 2 else "no"} for k in range(5)]
    told = {
        "train": write(tmp_path / "w.jsonl", words),
        "validation": write(tmp_path / "v.jsonl", [words[1] | {"question": "?"}]),
    }
    return {
        "numbers": {"task": {"name": "files", **numbers}},
        "words": {"task": {"name": "files", "answer": "text", **told}, "weight": 2.5},
    }


def test_rows_by_weight_named_and_scored_by_their_own_task(parts):
    task: Any = make_task({"name": "mixture", "parts": parts})
    rows = task.examples("train")
    # 5 words are left, since one is a test question of the numbers; 6 x 2.5 = 15 before
    counts = Counter(row.id.partition("/")[0] for row in rows)
    assert counts["numbers"] == 10
    assert counts["words"] in (12, 13)
    assert len({row.id for row in rows}) == len(rows)
    assert not any(row.question == "30+1?" for row in rows)
    assert {row.id for row in rows} >= {"words/train-1", "words/train-1#2"}
    assert [row.id for row in rows[:3]] == ["numbers/train-0", "numbers/train-1", "words/train-1"]
    assert task.examples("train") == rows == make_task({"name": "mixture", "parts": parts}).examples("train")
    checked = task.examples("validation")
    assert [row.id for row in checked[:3]] == ["numbers/validation-0", "words/validation-0", "numbers/validation-1"]
    assert {task.part_of(row) for row in task.examples("test")} == {"numbers"}
    number, word = checked[0], checked[1]
    assert task.score(number, "### 21.0").strict
    assert task.score(word, "### No").strict
    assert not task.score(word, "### 21").strict


def test_weights_below_one_and_none(parts):
    parts["numbers"]["weight"], parts["words"]["weight"] = 0.3, 0
    task: Any = make_task({"name": "mixture", "parts": parts})
    assert len(task.examples("train")) == 3
    assert {task.part_of(row) for row in task.examples("validation")} == {"numbers", "words"}
    other = make_task({"name": "mixture", "parts": parts, "seed": 1})
    assert task.fingerprint("train") != other.fingerprint("train")


def test_a_weight_is_overridden_by_its_path(parts):
    config = task_config({"name": "mixture", "parts": parts})
    changed = task_config(override(dump(config), ["parts.words.weight=1", "parts.words.task.limit=2"]))
    assert Counter(e.id.split("/")[0] for e in make_task(changed).examples("train"))["words"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": {}}, "a mixture needs parts, e.g. task.parts="),
        ({"parts": {"a/b": {"task": "tiny"}}}, "a part's name must be letters.*'a/b'"),
        ({"parts": {"a": {"task": "tiny", "weight": -1}}}, "weight of part 'a' must be from 0 to 1000, got -1"),
        ({"parts": {"a": {"task": "tiny", "weight": float("nan")}}}, "weight"),
        ({"parts": {"a": {"task": "gsm_hard"}}}, r"part 'a' \(gsm_hard\) has no training rows; weight=0"),
        ({"parts": {"a": {"task": {"name": "mixture"}}}}, "part 'a' is itself a mixture"),
        ({"parts": {"a": {"task": "tinny"}}}, "did you mean 'tiny'"),
        ({"parts": {"a": {"weight": 1}}}, "task"),
    ],
)
def test_mixtures_that_are_none(change, message):
    with pytest.raises(ConfigError, match=message):
        make_task({"name": "mixture", **change}).examples("train")


def test_a_split_that_no_part_has(parts):
    del parts["numbers"]
    with pytest.raises(DataError, match=r"task 'mixture' has no test split; it has: train, validation"):
        make_task({"name": "mixture", "parts": parts}).examples("test")


def test_a_run_on_a_mixture_resumes_exactly_and_says_how_each_part_does(make, files, tmp_path, monkeypatch):
    halves = {}
    for half, keep in (("even", 0), ("odd", 1)):
        splits = {}
        for split in ("train", "validation", "test"):
            lines = (files / f"{split}.jsonl").read_text().splitlines(keepends=True)[keep::2]
            (tmp_path / f"{half}-{split}.jsonl").write_text("".join(lines))
            splits[split] = str(tmp_path / f"{half}-{split}.jsonl")
        halves[half] = {"task": {"name": "files", **splits}, "weight": 1.5 if keep else 1}
    method = {"name": "coconut", "curriculum": "progressive", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 2}
    config = replace(make(method, steps=8, validate_limit=6), task=task_config({"name": "mixture", "parts": halves}))
    whole = train(config, tmp_path / "whole")
    step = Training._train_step

    def dying(self: Any) -> None:
        if self.step == 6:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(Training, "_train_step", step)
    resumed = train(config, tmp_path / "parts")
    a, b = (load_file(next((run.path / "state").glob("step-*")) / "state.safetensors") for run in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [row for row in RunDir(whole.path).metrics() if row["kind"] == "validation"]
    assert all(set(row["parts"]) == {"even", "odd"} for row in rows)
    assert all(sum(row["parts"].values()) / 2 == pytest.approx(row["accuracy"]) for row in rows)
    report = evaluate(load(whole.path), make_task(RunDir(whole.path).config().task), "test")
    assert {name: rate.n for name, rate in report.by_part.items()} == {"even": 3, "odd": 3}
    assert any(line.startswith("even: ") and "; odd: " in line for line in details(report))
    assert set(report.summary()["by_part"]) == {"even", "odd"}
