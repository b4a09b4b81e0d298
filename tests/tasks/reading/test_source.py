"""Folders, the hub and splits, as every task with data has them; and what must hold for all tasks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unspoken.core.config import build, dump, lookup
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, TASKS, Task, make_task
from unspoken.tasks.generated.generated import Problem, take
from unspoken.tasks.reading.readers import listed_rows, read_rows
from unspoken.tasks.reading.source import DATA_VARIABLE, DataSource, Splits, converted

pytestmark = pytest.mark.slow

FILES: Any = {"train": ("a.jsonl", "b*.jsonl"), "test": ("t.jsonl",)}


def source(**fields: Any) -> DataSource:
    return DataSource(**{"task": "toy", "files": FILES, **fields})


def rows(*questions: str) -> str:
    return "".join(json.dumps({"question": question, "answer": "1"}) + "\n" for question in questions)


# Folders


def test_root_goes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert source().folder() is None
    (tmp_path / "second").mkdir()
    assert source(folders=("first", "second")).folder() == tmp_path / "second"
    (tmp_path / "toy").mkdir()
    assert source().folder() == tmp_path / "toy"
    assert source(root=str(tmp_path / "second")).folder() == tmp_path / "second"
    with pytest.raises(DataError, match=r"elsewhere: no such folder \(root of task 'toy'\)"):
        source(root=str(tmp_path / "elsewhere")).folder()


def test_files_are_found_by_preference(tmp_path: Path) -> None:
    here = source(root=str(tmp_path))
    assert here.find("train") is None
    with pytest.raises(DataError, match=r"no train file for task 'toy'; expected a\.jsonl or b\*\.jsonl"):
        here.path("train")
    for name in ("b2.jsonl", "b1.jsonl"):
        (tmp_path / name).write_text(rows(name))
    assert here.path("train").name == "b1.jsonl"
    (tmp_path / "a.jsonl").write_text(rows("a"))
    assert here.path("train").name == "a.jsonl"
    assert here.examples("train", lambda row, where: {**row, "steps": [where]})[0].steps == (f"{tmp_path / 'a.jsonl'}:1",)


def test_a_row_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: a row must be an object, got list"):
        converted(read_rows(path), lambda row, where: row, "train", str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"x\.json:1: must be an object with a list 'examples', got list"),
        ('{"examples": {}}', r"x\.json:1: must be an object with a list 'examples', got dict"),
        ('{\n"examples": [}', r"x\.json:2: invalid JSON .*; expected one object with a list 'examples'"),
    ],
)
def test_listed_rows(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        listed_rows(path)
    path.write_text('{"canary": "no", "examples": [{"a": 1}, 2]}')
    assert list(listed_rows(path)) == [(f"{path}: item 0", {"a": 1}), (f"{path}: item 1", 2)]


# The hub


def test_hub_splits_are_found_joined_and_named(hub: dict[Any, Any]) -> None:
    hub["h", None] = {"train": [{"n": 1}], "valid": [{"n": 2}], "test": [{"n": 3}]}
    assert list(source(hub="h").hub_rows("validation")[0]) == [("h/valid: item 0", {"n": 2})]
    both, where = source(hub="h", hub_splits={"test": ("train", "other", "test")}).hub_rows("test")
    assert ([row for _, row in both], where) == ([{"n": 1}, {"n": 3}], "h/train+test")
    with pytest.raises(DataError, match=r"hub 'h' has no train split; it has: train, valid, test; either set root"):
        source(hub="h", hub_splits={"test": ("test",)}).hub_rows("train")


def test_no_data_says_every_way_on_one_line(hub: dict[Any, Any]) -> None:
    with pytest.raises(DataError) as caught:
        source(hub="h", instead="wait").rows("test")
    assert str(caught.value) == (
        "task 'toy' has no data: root is not set, and hub 'h' could not be loaded (ConnectionError: Couldn't reach 'h' on "
        f"the Hub); either set root=FOLDER (or {DATA_VARIABLE}=FOLDER, with a subfolder toy) to a folder with "
        "train: a.jsonl or b*.jsonl; test: t.jsonl; or wait"
    )
    with pytest.raises(DataError, match=r"task 'toy' has no data: its hub is not set; wait$"):
        source(files={}, instead="wait").hub_rows("train")


# Splits


@dataclass
class Config:
    name: str = "toy"
    limit_train: int | None = None


def split_of(**questions: str) -> Splits:
    def read(split: str) -> list[Example]:
        return [Example(question=question, answer="1") for question in questions[split].split()]

    there: Any = tuple(split for split in SPLITS if split in questions)
    return Splits(config=Config(), read=read, there=there, absent={"validation": "look elsewhere"})


def names(splits: Splits, split: Any) -> str:
    return " ".join(example.question for example in splits.examples(split))


def test_held_out_questions_are_dropped_and_counted() -> None:
    splits = split_of(train="a b C d", validation="B e T", test="t c")
    assert [names(splits, split) for split in SPLITS] == ["a d", "B e", "t c"]
    assert splits.dropped == {"test": 0, "validation": 1, "train": 2}
    splits.config.limit_train = 1
    assert names(splits, "train") == "a"
    splits.examples("test").clear()
    assert names(splits, "test") == "t c", "the list is the caller's own"


def test_a_split_that_does_not_exist() -> None:
    splits = split_of(train="a", test="b")
    with pytest.raises(DataError, match=r"^task 'toy' has no validation split; it has: train, test; look elsewhere$"):
        splits.examples("validation")
    with pytest.raises(DataError, match=r"no split 'tests'; did you mean 'test'"):
        splits.examples("tests")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"has no train split; it has: test; it is not part of the data set"):
        split_of(test="b").examples("train")


def test_take_says_where_it_ends() -> None:
    def problems(different: int) -> Iterator[Problem]:
        return ({"question": str(i % different), "steps": [], "answer": ""} for i in range(10**9))

    with pytest.raises(
        ConfigError, match=r"toy: found only \d+ different problems for test_size=40; make the split smaller"
    ):
        take(problems(50), 40, task="toy", split="test", key=str)
    few = take(problems(10**9), 5, task="toy", split="test", key=str, taken={"3"})
    assert len({str(row) for _, row in few}) == 5


# All tasks


@pytest.mark.parametrize("name", TASKS)
def test_a_config_survives_json_and_names_what_it_does_not_know(name: str) -> None:
    cls = lookup(TASKS, name, "task")
    assert cls.name == name
    config = build(cls.Config, {})
    assert build(cls.Config, json.loads(json.dumps(dump(config)))) == config
    assert isinstance(make_task(name), Task)
    with pytest.raises(ConfigError, match=f"unknown field 'rooot' of {cls.Config.__name__}"):
        build(cls.Config, {"rooot": "x"})
    for field in vars(config):
        if field.startswith("limit"):
            with pytest.raises(ConfigError, match=rf"field '{field}' must be 1 or more"):
                build(cls.Config, {field: 0})


def test_no_task_imports_what_is_heavy() -> None:
    modules = sorted({place.split(":")[0] for place in TASKS.values()})
    code = (
        f"import sys, {', '.join(modules)}\nassert not {{'torch', 'datasets', 'transformers', 'pandas'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_generated_rows_are_the_same_in_every_process() -> None:
    code = """
from unspoken.tasks import SPLITS, make_task
sizes = {"source": "generated", "train_size": 20, "validation_size": 5, "test_size": 5}
for name in ("prosqa", "prontoqa", "coin_flip", "multiplication"):
    task = make_task({"name": name, **sizes})
    print(*(task.fingerprint(split) for split in SPLITS))
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **seed}
        ).stdout
        for seed in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 12


EVERY_SPLIT = [
    ({"name": "gsm8k"}, SPLITS),
    ({"name": "gsm8k_aug"}, SPLITS),
    ({"name": "gsm8k_aug_nl"}, SPLITS),
    ({"name": "svamp"}, SPLITS),
    ({"name": "multiarith"}, ("test",)),
    ({"name": "asdiv"}, ("test",)),
    ({"name": "asdiv", "fold": 1}, SPLITS),
    ({"name": "gsm_hard"}, ("test",)),
    ({"name": "aqua"}, ("validation", "test")),
    ({"name": "commonsenseqa"}, SPLITS),
    ({"name": "strategyqa"}, SPLITS),
    ({"name": "strategyqa", "form": "bigbench"}, ("test",)),
    ({"name": "date_understanding"}, ("test",)),
    ({"name": "date_understanding", "source": "bbh", "form": "options"}, ("test",)),
    ({"name": "prosqa", "train_size": 300}, SPLITS),
    ({"name": "prontoqa", "train_size": 300}, SPLITS),
    ({"name": "coin_flip", "train_size": 300}, SPLITS),
    ({"name": "multiplication", "train_size": 300}, SPLITS),
    *(({"name": "semcot", "subset": s}, SPLITS) for s in ("gsm8k", "svamp", "multiarith", "commonsense_qa", "coin_flip")),
]


@pytest.mark.parametrize(
    ("config", "splits"), EVERY_SPLIT, ids=lambda value: "-".join(map(str, getattr(value, "values", tuple)()))
)
def test_real_rows_are_disjoint_scored_right_and_do_not_show_their_answer(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], splits: Any
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(shared_data))
    task = make_task(config)
    seen: dict[str, str] = {}
    for split in splits:
        examples = task.examples(split)
        ids = [example.id for example in examples]
        assert len(set(ids)) == len(ids)
        for example in examples:
            question = re.sub(r"\W+", " ", example.question).casefold()
            assert seen.setdefault(question, split) == split, "a question stands in two splits"
            assert "####" not in example.question
            assert all(step.strip() for step in example.steps)
        for example in examples[:300]:
            for mark in ("#### ", "### ", "The answer is: "):
                score = task.score(example, f"{mark}{example.answer}<|endoftext|>")
                assert score.strict
                assert score.flexible
            assert not task.score(example, "").flexible
            assert not task.score(example, "I do not know").flexible
    assert task.fingerprint(splits[-1]) == make_task(config).fingerprint(splits[-1])
