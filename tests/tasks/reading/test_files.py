"""Readers and the `files` task: every format, and every error with its file and line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unspoken.core.config import build, dump
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import SPLITS, Task
from unspoken.tasks.reading.files import Files, FilesConfig
from unspoken.tasks.reading.readers import read_rows
from unspoken.tasks.reading.rows import carve, examples_of

Write = Callable[..., str]
GOOD = {"question": "One and one?", "steps": ["<<1+1=2>>"], "answer": "2"}
NATURAL = "He has 1.5 + 2 = <<1.5+2=3.5>>3.5 pounds. Mr. Lee eats it.\nNone is left: <<3.5-3.5=0>>0.\n#### 0"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows (as JSON lines), text or bytes to a file; the path as a string."""

    def write_file(name: str, content: Any) -> str:
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def task(**fields: Any) -> Files:
    return Files(build(FilesConfig, fields))


def read_examples(path: Any, *, split: Any, steps: str = "markers", format: Any = "auto") -> list[Example]:
    """The examples of one file, as the task reads them."""
    return examples_of(read_rows(path, format, split), split=split, steps=steps, source=path)


def questions(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "steps": [], "answer": str(i + 1)} for i in range(count)]


# Formats


def test_jsonl_with_steps(write: Write) -> None:
    path = write("a.jsonl", [GOOD | {"steps": ["<<1+1=2>>", " ", ""], "id": 7, "kind": "sum"}, GOOD | {"answer": 2}])
    first, second = read_examples(path, split="train")
    assert (first.question, first.steps, first.answer) == ("One and one?", ("<<1+1=2>>",), "2")
    assert (first.id, dict(first.meta)) == ("train-0", {"id": 7, "kind": "sum"})
    assert (second.id, second.answer, dict(second.meta)) == ("train-1", "2", {})


def test_json_list_reads_as_jsonl_does(write: Write) -> None:
    rows = [GOOD, GOOD | {"idx": 1}]
    assert read_examples(write("a.json", json.dumps(rows, indent=2)), split="test") == read_examples(
        write("a.jsonl", rows), split="test"
    )


def test_icot_text(write: Write) -> None:
    text = "A?||<<1+1=2>> <<2*3=6>> #### 6\nB || or not?||#### 1,000\r\n\n  C?|| #### 15.\n"
    # Split at the first bars, as the format says: what follows them in B is reasoning without markers.
    rows = read_examples(write("a.txt", text), split="train")
    assert [(r.question, r.steps, r.answer) for r in rows] == [
        ("A?", ("<<1+1=2>>", "<<2*3=6>>"), "6"),
        ("B", (), "1,000"),
        ("C?", (), "15."),
    ]


def test_gsm8k_rows_under_each_rule(write: Write) -> None:
    path = write("a.jsonl", [{"question": "Q?", "answer": NATURAL}])
    steps = {rule: read_examples(path, split="train", steps=rule)[0] for rule in ("markers", "lines", "sentences")}
    assert steps["markers"].steps == ("<<1.5+2=3.5>>", "<<3.5-3.5=0>>")
    assert steps["lines"].steps == ("He has 1.5 + 2 = 3.5 pounds. Mr. Lee eats it.", "None is left: 0.")
    assert steps["sentences"].steps == ("He has 1.5 + 2 = 3.5 pounds.", "Mr. Lee eats it.", "None is left: 0.")
    assert {example.answer for example in steps.values()} == {"0"}


@pytest.mark.parametrize("key", ["cot", "reasoning"])
def test_reasoning_as_one_text(write: Write, key: str) -> None:
    row = {"question": "Q?", key: "<<1+1=2>> <<2+2=4>>", "answer": "#### 4", "steps": None}
    (example,) = read_examples(write("a.jsonl", [row]), split="train")
    assert (example.steps, example.answer, dict(example.meta)) == (("<<1+1=2>>", "<<2+2=4>>"), "4", {})


def test_steps_win_over_other_reasoning(write: Write) -> None:
    (example,) = read_examples(write("a.jsonl", [GOOD | {"cot": "<<9>>"}]), split="train")
    assert (example.steps, dict(example.meta)) == (("<<1+1=2>>",), {"cot": "<<9>>"})


def test_byte_order_mark_crlf_and_blank_lines(write: Write) -> None:
    line = json.dumps(GOOD)
    marked = write("a.jsonl", b"\xef\xbb\xbf" + f"\r\n{line}\r\n\r\n  \r\n{line}\r\n".encode())
    assert read_examples(marked, split="train") == read_examples(write("b.jsonl", [GOOD, GOOD]), split="train")
    assert len(read_examples(write("c.txt", b"\xef\xbb\xbfA?||#### 1\r\n\r\nB?||#### 2"), split="train")) == 2


def test_line_separator_u2028_does_not_end_a_row(write: Write) -> None:
    (example,) = read_examples(write("a.txt", "A\u2028B?||<<1=1>> #### 1"), split="train")
    assert example.question == "A\u2028B?"


@pytest.mark.parametrize(
    ("name", "format", "content"),
    [
        ("a.json", "auto", json.dumps(GOOD)),  # JSONL under another name
        ("a.data", "auto", json.dumps(GOOD)),
        ("a.data", "auto", json.dumps([GOOD])),
        ("a.data", "auto", "One and one?||<<1+1=2>> #### 2"),
        ("a.json", "txt", "One and one?||<<1+1=2>> #### 2"),
        ("a.txt", "jsonl", json.dumps(GOOD)),
        ("a.txt", "json", json.dumps([GOOD])),
    ],
)
def test_format(write: Write, name: str, format: Any, content: str) -> None:
    (example,) = read_examples(write(name, content), split="train", format=format)
    assert (example.question, example.steps, example.answer) == ("One and one?", ("<<1+1=2>>",), "2")


# Errors


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("answer"), r"field 'answer' is missing; the row has: question, steps"),
        (without("question"), r"field 'question' is missing; the row has: steps, answer"),
        (GOOD | {"answer": None}, r"field 'answer' is null; give it a text"),
        (without("answer"), r"field 'answer' is missing; the row has: "),
        (GOOD | {"question": "  "}, r"field 'question' is empty"),
        (GOOD | {"answer": ""}, r"field 'answer' is empty"),
        (GOOD | {"answer": "text #### "}, r"field 'answer' has nothing after '####'"),
        (GOOD | {"question": 3}, r"field 'question' must be a string, got int \(3\)"),
        (GOOD | {"answer": True}, r"field 'answer' must be a string, got bool"),
        (GOOD | {"answer": ["2"]}, r"field 'answer' must be a string, got list"),
        (GOOD | {"answer": float("nan")}, r"field 'answer' must be a string, got float"),
        (GOOD | {"steps": "<<1+1=2>>"}, r"field 'steps' must be a list of strings, got '<<1\+1=2>>'"),
        (GOOD | {"steps": ["a", 2]}, r"field 'steps' must be a list of strings, got \['a', 2\]"),
        (GOOD | {"steps": {"a": "b"}}, r"field 'steps' must be a list of strings"),
        (without("steps") | {"cot": ["a", 2]}, r"field 'cot' must be a string or a list of strings, got \['a', 2\]"),
        (without("steps") | {"cot": {"a": "b"}}, r"field 'cot' must be a string or a list of strings"),
        (GOOD | {"answer": float("inf")}, r"field 'answer' must be a string, got float \(inf\), which is no finite number"),
        (GOOD | {"question": "\ud800?"}, r"field 'question' holds half of a surrogate pair"),
        (GOOD | {"steps": ["\udfff"]}, r"field 'steps' holds half of a surrogate pair"),
        (["question", "answer"], r"a row must be an object with 'question' and 'answer', got list"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(write: Write, row: Any, message: str) -> None:
    path = write("bad.jsonl", [GOOD, row])
    with pytest.raises(DataError, match=rf"^{re.escape(path)}:2: {message}") as caught:
        read_examples(path, split="train")
    assert "\n" not in str(caught.value)
    path = write("bad.json", json.dumps([GOOD, GOOD, row]))
    with pytest.raises(DataError, match=rf"^{re.escape(path)}: item 2: {message}"):
        read_examples(path, split="train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", r": is empty"),
        ("a.txt", " \n\r\n", r": is empty"),
        ("a.json", "[]", r": is empty"),
        ("a.jsonl", json.dumps(GOOD) + "\n\n{'question'", r":3: invalid JSON \(Expecting property name.*one object a line"),
        ("a.jsonl", json.dumps(GOOD)[:-1], r":1: invalid JSON"),
        ("a.jsonl", "[" * 100_000, r":1: invalid JSON"),
        ("a.jsonl", '{"answer": ' + "1" * 5000 + "}", r":1: invalid JSON"),
        ("a.json", '[\n{"question": "a"},\n{"question" "b"}]', r":3: invalid JSON \(Expecting ':' delimiter\).*a list"),
        ("a.jsonl", b'{"question": "a"}\n{"question": "\xe9"}', r":2: is not UTF-8 \(byte 0xe9\)"),
        ("a.txt", "a".encode("utf-16"), r":1: is not UTF-8"),
        ("a.txt", "A?||<<1=1>> #### 1\nB? #### 2", r":2: no '\|\|' after the field 'question'"),
        ("a.txt", "A?||<<1=1>> #### 1\n\nB?||2", r":3: no '####' before the field 'answer'"),
        ("a.txt", "||<<1=1>> #### 1", r":1: field 'question' is empty"),
        ("a.txt", "A?||<<1=1>> ####", r":1: field 'answer' is empty"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:6f9a", r": is a Git LFS pointer"),
    ],
)
def test_a_bad_file_is_named(write: Write, name: str, content: Any, message: str) -> None:
    path = write(name, content)
    with pytest.raises(DataError, match=rf"^{re.escape(path)}{message}") as caught:
        read_examples(path, split="train")
    assert "\n" not in str(caught.value)


def test_json_that_is_no_list_and_no_object(write: Write) -> None:
    path = write("a.json", '"question"')
    with pytest.raises(DataError, match=r"a\.json:1: must be a list of rows, got str; .* format=jsonl"):
        read_examples(path, split="train", format="json")


def test_missing_file_folder_and_unreadable_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file; looked from"):
        read_examples(tmp_path / "none.jsonl", split="train")
    with pytest.raises(DataError, match=r": is a folder; give a file"):
        read_examples(tmp_path, split="train")
    with pytest.raises(DataError, match=r": cannot be read: .*embedded null"):
        read_examples("a\0b", split="train")


def test_a_rule_that_finds_no_step_at_all_is_an_error(write: Write) -> None:
    rows = [{"question": "Q?", "cot": "One. Two.", "answer": "2"}]
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match=r"a\.jsonl: no row has a <<...>> marker.*steps=lines or sentences"):
        read_examples(path, split="train")
    assert read_examples(path, split="train", steps="sentences")[0].steps == ("One.", "Two.")
    # Rows that claim no reasoning are fine, and so is one of several without a marker.
    assert read_examples(write("b.jsonl", [without("steps")]), split="train")[0].steps == ()
    mixed = [*rows, {"question": "R?", "cot": "<<1=1>>", "answer": "1"}]
    assert [len(e.steps) for e in read_examples(write("c.jsonl", mixed), split="train")] == [0, 1]


# The task


def test_task_reads_splits_and_scores(write: Write) -> None:
    files = task(train=write("a.jsonl", questions(5)), test=write("b.jsonl", [GOOD]), limit=3)
    assert isinstance(files, Task)
    assert [e.id for e in files.examples("train")] == ["train-0", "train-1", "train-2"]
    (example,) = files.examples("test")
    assert files.score(example, "#### 2.0").strict
    assert not files.score(example, "so 2").strict
    assert files.score(example, "so 2").flexible
    given = files.examples("train")
    assert isinstance(given, list)
    given.clear()
    assert len(files.examples("train")) == 3


def test_text_answers(write: Write) -> None:
    files = task(test=write("a.jsonl", [GOOD | {"answer": "Tom is a lempus."}]), answer="text")
    (example,) = files.examples("test")
    assert files.score(example, "tom is a lempus").flexible
    assert files.score(example, "### Tom is a lempus.").strict


def test_fingerprint_covers_question_steps_answer_and_order(write: Write) -> None:
    prints = [
        task(test=write(f"{i}.jsonl", rows)).fingerprint("test")
        for i, rows in enumerate(
            [
                [GOOD, *questions(2)],
                [*questions(2), GOOD],
                [GOOD | {"steps": []}, *questions(2)],
                [GOOD | {"answer": "3"}, *questions(2)],
                [GOOD | {"note": "meta does not count"}, *questions(2)],
            ]
        )
    ]
    assert all(re.fullmatch("[0-9a-f]{16}", p) for p in prints)
    assert len(set(prints)) == 4
    assert prints[0] == prints[4]


def test_missing_and_unknown_splits(write: Write) -> None:
    files = task(train=write("a.jsonl", [GOOD]))
    with pytest.raises(
        DataError,
        match=r"no validation split; set task\.validation=PATH, or task\.validation_fraction=0\.1 for",
    ):
        files.examples("validation")
    with pytest.raises(DataError, match=r"task 'files' has no test split; set task\.test=PATH, or task\.test_fraction=0\.1"):
        files.examples("test")
    with pytest.raises(DataError, match=r"no split 'valid'; did you mean 'validation'"):
        files.examples("valid")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_test_split_is_never_used_for_selection(write: Write, tmp_path: Path, split: str) -> None:
    path = write("a.jsonl", [GOOD])
    os.symlink(path, tmp_path / "link.jsonl")
    relative = os.path.relpath(path)
    for other in (path, relative, str(tmp_path / "link.jsonl"), write("copy.jsonl", [GOOD])):
        with pytest.raises(DataError, match=rf"given as {split}.*test split must not be used for selection"):
            task(test=path, **{split: other})
    missing = str(tmp_path / "later.jsonl")
    with pytest.raises(DataError, match=r"test split must not be used for selection"):
        task(test=missing, **{split: missing})
    task(test=missing, **{split: path})  # nothing to compare yet; `examples` will say that it is not there


def test_validation_is_not_train(write: Write) -> None:
    with pytest.raises(DataError, match=r"given as validation, but it is the train file .*splits are disjoint"):
        task(train=write("a.jsonl", [GOOD]), validation=write("b.jsonl", [GOOD]))


def test_carved_validation_is_stable_and_disjoint(write: Write) -> None:
    rows = questions(400)
    files = task(train=write("a.jsonl", [*rows, rows[0] | {"question": " what IS 0 + 1?"}]), validation_fraction=0.25)
    train, validation = files.examples("train"), files.examples("validation")
    assert len(train) + len(validation) == 401
    assert 70 < len(validation) < 130
    assert not {e.question.casefold() for e in train} & {e.question.casefold() for e in validation}
    # A row stays on its side whatever else is in the file, and in whatever order.
    fewer = task(train=write("b.jsonl", rows[::-2]), validation_fraction=0.25)
    kept = {row["question"] for row in rows[::-2]}
    expected = {e.question for e in validation} & kept
    assert {e.question for e in fewer.examples("validation")} == expected


def test_test_is_carved_beside_validation(write: Write) -> None:
    path = write("a.jsonl", questions(400))
    files = task(train=path, validation_fraction=0.25, test_fraction=0.2)
    train, validation, test = (files.examples(split) for split in SPLITS)
    assert len(train) + len(validation) + len(test) == 400
    assert 50 < len(test) < 110
    assert len({e.question for e in (*train, *validation, *test)}) == 400
    assert validation == task(train=path, validation_fraction=0.25).examples("validation"), "the same as without test"
    assert test == task(train=path, test_fraction=0.2).examples("test")
    with pytest.raises(DataError, match=r"no test split; set task\.test=PATH, or task\.test_fraction=0\.1"):
        task(train=path).examples("test")


def test_carving_that_leaves_nothing_is_an_error(write: Write) -> None:
    files = task(train=write("a.jsonl", questions(2)), validation_fraction=1e-9)
    with pytest.raises(DataError, match=r"validation_fraction=1e-09 of 2 rows leaves no validation row"):
        files.examples("validation")
    with pytest.raises(DataError, match=r"leaves no train row"):
        carve(files.examples("train"), 0.999999999, "train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trian": "a"}, r"unknown field 'trian' of FilesConfig; did you mean 'train'"),
        ({"limit": 0}, r"field 'limit' must be 1 or more, or null for all rows, got 0"),
        ({"test": "a", "test_fraction": 0.1}, r"set either 'test' .* or 'test_fraction'"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, r"leave nothing to train on"),
        ({"test_fraction": -0.1}, r"field 'test_fraction' must be at least 0 and below 1, got -0.1"),
        ({"validation_fraction": 1.0}, r"field 'validation_fraction' must be at least 0 and below 1, got 1.0"),
        ({"validation": "a", "validation_fraction": 0.1}, r"set either 'validation' .* or 'validation_fraction'"),
        ({"steps": "words"}, r"field 'steps' of FilesConfig"),
        ({"format": "xml"}, r"field 'format' of FilesConfig"),
        ({"answer": "date"}, r"field 'answer' of FilesConfig"),
        ({"fields": {"qestion": "q"}}, r"field 'fields': 'qestion' is nothing that is read; did you mean 'question'"),
    ],
)
def test_config_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(FilesConfig, fields)


def test_config_round_trips() -> None:
    config = FilesConfig(train="a.jsonl", limit=3, validation_fraction=0.1, steps="lines")
    assert build(FilesConfig, json.loads(json.dumps(dump(config)))) == config


def test_real_files_read_alike(shared_data: Path) -> None:
    """Coconut's JSON was made from the iCoT text of the same split: both readers must give the same examples."""
    folder = shared_data / "gsm8k_aug"
    for split, text, converted in (("validation", "valid.txt", "gsm_valid.json"), ("test", "test.txt", "gsm_test.json")):
        assert read_examples(folder / text, split=split) == read_examples(folder / converted, split=split)
    with_digits = read_examples(shared_data / "multiplication" / "4_by_4_mult" / "valid.txt", split="test", steps="lines")
    assert len(with_digits) == 1000
    prosqa = read_examples(shared_data / "prosqa" / "prosqa_test.json", split="test")
    assert len(prosqa) == 500
    assert "idx_to_symbol" in prosqa[0].meta


def test_a_misspelt_field_of_the_reasoning_is_not_lost(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"question": "q?", "answer": "1", "stepz": ["a"]}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: field 'stepz' is not read; did you mean 'steps'"):
        read_examples(file, split="train")
    file.write_text('{"question": "q?", "answer": "1", "source": "web"}\n')
    assert read_examples(file, split="train")[0].meta == {"source": "web"}
