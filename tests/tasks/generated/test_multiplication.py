"""Multiplication: the files line by line from the generator, and every generated problem by integer arithmetic."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, make_task
from unspoken.tasks.base import Split
from unspoken.tasks.generated.generated import Problem
from unspoken.tasks.generated.multiplication import generate, pair_key, problem

DIGITS = (4, 5, 7, 9, 11)


def number(text: str) -> int:
    """Digits least significant first."""
    return int("".join(reversed(text.split())))


def check(row: Problem, digits: int) -> None:
    """Every partial product, every running sum and the answer, by integers."""
    a, b = map(number, row["question"].split(" * "))
    assert all(len(factor.split()) == digits for factor in row["question"].split(" * "))
    assert len(row["answer"].split()) == 2 * digits
    assert number(row["answer"]) == a * b
    assert len(row["steps"]) == digits
    total = 0
    for place, step in enumerate(row["steps"]):
        found = re.fullmatch(r"(?:\+ )?([\d ]+?)(?: \( ([\d ]+) \))?", step)
        assert found is not None
        partial, running = found.groups()
        assert number(partial) == a * (b // 10**place % 10) * 10**place
        total += number(partial)
        assert (running is None) == (place in (0, digits - 1))
        assert running is None or number(running) == total
        assert len(partial.split()) == digits + 1 + place
    assert total == a * b


@pytest.mark.parametrize("digits", [1, 2, 4, 11, 20])
def test_every_generated_problem_is_right(digits: int) -> None:
    rows = list(islice(generate("x", digits), 300))
    for row in rows:
        check(row, digits)
    first = [factor.split()[-1] for row in rows for factor in row["question"].split(" * ")]
    assert "0" not in first, "the most significant digit"
    if digits > 1:
        low = [factor.split()[0] for row in rows for factor in row["question"].split(" * ")]
        assert set(low) == set("0123456789")


@pytest.mark.parametrize("digits", DIGITS)
def test_the_files_are_what_the_generator_would_write(shared_data: Path, digits: int) -> None:
    folder = shared_data / "multiplication"
    task = make_task({"name": "multiplication", "root": str(folder), "digits": digits, "train_size": 200})
    published: tuple[tuple[Split, str], ...] = (("validation", "valid"), ("test", "test_bigbench"))
    for split, name in published:
        lines = (folder / f"{digits}_by_{digits}_mult" / f"{name}.txt").read_text().split("\n")[:-1]
        examples = task.examples(split)
        assert len(lines) == len(examples) == 1000
        for line, example in zip(lines, examples, strict=True):
            a, b = map(number, example.question.split(" * "))
            row = problem(a, b, digits)
            assert f"{row['question']}||{' '.join(row['steps'])} #### {row['answer']}" == line
            assert (example.question, list(example.steps), example.answer) == (row["question"], row["steps"], row["answer"])
    held_out = {pair_key(e.question) for split in ("validation", "test") for e in task.examples(split)}
    assert not held_out & {pair_key(e.question) for e in task.examples("train")}


def test_the_example_of_the_module() -> None:
    row = problem(2365, 4347, 4)
    assert row["question"] == "5 6 3 2 * 7 4 3 4"
    assert row["steps"][:2] == ["5 5 5 6 1", "+ 0 0 6 4 9 0 ( 5 5 1 1 1 1 )"]
    assert row["answer"] == "5 5 6 0 8 2 0 1"


def test_pairs_of_the_files_are_not_generated_in_either_order(tmp_path: Path) -> None:
    config: Any = {"name": "multiplication", "digits": 4, "train_size": 40}
    alone = make_task(config | {"source": "generated"}).examples("train")
    folder = tmp_path / "4_by_4_mult"
    folder.mkdir()
    for name, example in (("valid", alone[3]), ("test_bigbench", alone[8])):
        a, b = (number(factor) for factor in example.question.split(" * "))
        row = problem(b, a, 4)
        (folder / f"{name}.txt").write_text(f"{row['question']}||{' '.join(row['steps'])} #### {row['answer']}\n")
    beside = make_task(config | {"root": str(tmp_path), "train_size": 38}).examples("train")
    assert [e.question for e in beside] == [e.question for i, e in enumerate(alone) if i not in (3, 8)]
    (folder / "valid.txt").write_text("5 6 3 2 x 7 4 3 4||5 #### 5\n")
    with pytest.raises(DataError, match=r"valid\.txt:1: field 'question' must be two factors with '\*' between them"):
        make_task(config | {"root": str(tmp_path)}).examples("validation")


def test_without_files() -> None:
    sizes = {"train_size": 100, "validation_size": 40, "test_size": 40}
    task = make_task({"name": "multiplication", "source": "generated", "digits": 3, **sizes})
    pairs = [{pair_key(e.question) for e in task.examples(split)} for split in SPLITS]
    assert len(set.union(*pairs)) == 180
    other = make_task({"name": "multiplication", "source": "generated", "digits": 3, "seed": 1, **sizes})
    assert not {pair_key(e.question) for e in other.examples("train")} & (pairs[1] | pairs[2])
    with pytest.raises(
        DataError, match=r"'multiplication' has no data: root is not set; .*4_by_4_mult/valid\.txt.* set source=gen"
    ):
        make_task("multiplication").examples("train")
    with pytest.raises(ConfigError, match=r"multiplication: found only \d+ different problems for train_size=50000"):
        make_task(
            {"name": "multiplication", "source": "generated", "digits": 1, "validation_size": 1, "test_size": 1}
        ).examples("train")
    with pytest.raises(ConfigError, match=r"multiplication: digits must be 1 to 20, got 21"):
        make_task({"name": "multiplication", "digits": 21})


def test_answers() -> None:
    task = make_task(
        {"name": "multiplication", "source": "generated", "train_size": 1, "validation_size": 1, "test_size": 1}
    )
    (example,) = task.examples("train")
    assert task.score(example, f"{' '.join(example.steps)} #### {example.answer}").strict
    assert task.score(example, f"#### {example.answer.replace(' ', '')}").strict
    assert not task.score(example, f"#### {example.answer[::-1]}").flexible
