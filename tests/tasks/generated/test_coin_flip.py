"""Coin flips: the file, the generator, length generalisation."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, make_task
from unspoken.tasks.generated.coin_flip import followed, generate

PERSON = r"[^.]+ (?:flips|does not flip) the coin\. "
FORM = r'A coin is heads up\. (?:{}){{{}}}Is the coin still heads up\? Note that "flip" here means "reverse"\.'


def right(question: str) -> str:
    """Whether the number of flips is even."""
    return "yes" if question.count(" flips the coin.") % 2 == 0 else "no"


def test_every_generated_problem_is_right() -> None:
    for people in (1, 2, 4, 9):
        for row in islice(generate("x", people, people), 500):
            assert re.fullmatch(FORM.format(PERSON, people), row["question"])
            assert row["answer"] == right(row["question"])
            named = re.findall(r"(\w+) (?:flips|does not)", row["question"])
            assert len(set(named)) == len(row["steps"]) == people
            assert row["steps"][-1].endswith("heads up." if row["answer"] == "yes" else "tails up.")


def test_steps_follow_from_the_question() -> None:
    question = "A coin is heads up. Jose A flips the coin. Tj does not flip the coin. Is the coin still heads up?"
    assert followed(question) == (["Jose A flips the coin: tails up.", "Tj does not flip the coin: tails up."], False)


def test_the_file(shared_data: Path) -> None:
    task = make_task({"name": "coin_flip", "root": str(shared_data / "coin_flip"), "train_size": 2000})
    test = task.examples("test")
    assert len(test) == 500
    assert Counter(e.answer for e in test) == {"yes": 253, "no": 247}
    for example in test:
        assert re.fullmatch(FORM.format(PERSON, 4), example.question), "the generator's form is the file's"
        assert example.answer == right(example.question)
        assert len(example.steps) == 4
        assert example.steps[-1].endswith("heads up." if example.answer == "yes" else "tails up.")
    train = task.examples("train")
    flips = [Counter(e.question.count(" flips the coin.") for e in rows) for rows in (train, test)]
    assert max(abs(flips[0][n] / 2000 - flips[1][n] / 500) for n in range(5)) < 0.06
    assert len(task.examples("validation")) == 500


def test_length_generalisation(shared_data: Path) -> None:
    config = {
        "name": "coin_flip",
        "root": str(shared_data / "coin_flip"),
        "min_people": 1,
        "max_people": 3,
        "train_size": 600,
    }
    task = make_task(config)
    people = Counter(len(e.steps) for e in task.examples("train"))
    assert set(people) == {1, 2, 3}
    assert {len(e.steps) for e in task.examples("test")} == {4}
    made = make_task({**config, "source": "generated", "test_people": 8, "test_size": 20})
    assert {len(e.steps) for e in made.examples("test")} == {8}


def test_splits_and_errors(tmp_path: Path) -> None:
    sizes = {"train_size": 300, "validation_size": 100, "test_size": 100}
    alone = make_task({"name": "coin_flip", "source": "generated", **sizes})
    questions = [{e.question for e in alone.examples(split)} for split in SPLITS]
    assert len(set.union(*questions)) == 500
    assert make_task({"name": "coin_flip", "source": "generated", "seed": 1, **sizes}).fingerprint(
        "train"
    ) != alone.fingerprint("train")
    stolen = alone.examples("train")[5]
    (tmp_path / "coin_flip.json").write_text(
        json.dumps({"examples": [{"question": stolen.question, "answer": stolen.answer}]})
    )
    beside = make_task({"name": "coin_flip", "root": str(tmp_path), **sizes | {"train_size": 299}}).examples("train")
    assert [e.question for e in beside] == [e.question for i, e in enumerate(alone.examples("train")) if i != 5]
    for fields, message in (
        ({"min_people": 0}, r"coin_flip: need 1 <= min_people <= max_people"),
        ({"min_people": 5}, r"got 5, 4 and 4"),
        ({"test_size": 0}, r"coin_flip: test_size must be 1 or more, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_task({"name": "coin_flip", **fields})
    sizes |= {"train_size": 900, "validation_size": 5, "min_people": 1, "max_people": 1}
    with pytest.raises(ConfigError, match=r"coin_flip: found only \d+ different problems for train_size=900"):
        make_task({"name": "coin_flip", "source": "generated", **sizes}).examples("train")
    with pytest.raises(DataError, match=r"task 'coin_flip' has no data: root is not set; .*; or set source=generated"):
        make_task("coin_flip").examples("test")


def test_answers() -> None:
    task = make_task({"name": "coin_flip", "source": "generated", "train_size": 20})
    example = next(e for e in task.examples("train") if e.answer == "no")
    assert task.score(example, "#### no").strict
    assert task.score(example, "In the end the coin is tails up").flexible
    assert task.score(example, "The coin is tails up, so: yes").extracted == "yes"
