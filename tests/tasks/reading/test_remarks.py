"""What is told about data: shared questions, questions that stand twice, answers of another kind, rows without steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.tasks import make_task
from unspoken.tasks.reading.remarks import remarks, without_steps


def files(folder: Path, **rows: Any) -> Any:
    """A task of rows per split; what is no list is a setting."""
    config: dict[str, Any] = {"name": "files"}
    for name, value in rows.items():
        if isinstance(value, list):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in value))
            value = str(folder / f"{name}.jsonl")
        config[name] = value
    return make_task(config)


def row(question: str, answer: str = "7", **more: Any) -> dict[str, Any]:
    return {"question": question, "steps": ["<<3+4=7>>"], "answer": answer, **more}


def test_splits_share_no_question(tmp_path: Path) -> None:
    task = files(
        tmp_path, train=[row("A?"), row("B?"), row("c  D?"), row("E?")],
        validation=[row("b?"), row("F?")], test=[row("C d?"), row("f?")]
    )  # fmt: skip
    assert [e.question for e in task.examples("train")] == ["A?", "E?"]
    assert [e.question for e in task.examples("validation")] == ["b?"]
    assert len(task.examples("test")) == 2
    assert task.dropped == {"test": 0, "validation": 1, "train": 2}
    assert remarks(task, "train") == [
        "2 train rows were dropped, because validation or test has the same question (case, spaces and Unicode forms aside)"
    ]
    assert remarks(task, "validation")[0].startswith("1 validation row was dropped, because test has")
    assert remarks(task, "test") == []


def test_a_limit_cuts_what_is_left(tmp_path: Path) -> None:
    task = files(tmp_path, train=[row("A?"), row("B?"), row("C?")], test=[row("D?"), row("a?")], limit=1)
    assert [e.question for e in task.examples("train")] == ["B?"]


def test_a_carved_validation_split_is_kept_from_test_too(tmp_path: Path) -> None:
    rows = [row(f"{n}?") for n in range(40)]
    task = files(tmp_path, train=rows, test=rows[:20], validation_fraction=0.5)
    assert {e.question for e in task.examples("train") + task.examples("validation")} == {f"{n}?" for n in range(20, 40)}


def test_a_split_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    task = files(tmp_path, train=[row("A?"), row("B?")], test=[row("a?"), row("b?"), row("C?")])
    with pytest.raises(DataError, match=r"all 2 train rows are dropped, because test has their questions"):
        task.examples("train")
    assert len(task.examples("test")) == 3


def test_own_choices_are_compared_with_their_options(tmp_path: Path) -> None:
    same = {"question": "Which?", "choices": ["a b", "c"], "answer": 0}
    train = [{**same, "choices": ["C", "A  b"]}, {**same, "choices": ["a b", "d"]}]
    task = files(tmp_path, train=train, test=[same], answer="letter")
    assert [e.question for e in task.examples("train")] == ["Which?\nOptions:\n(A) a b\n(B) d"]


def test_questions_that_stand_twice(tmp_path: Path) -> None:
    task = files(tmp_path, train=[row("A?"), row(" a?", "7.0"), row("B?")])
    assert remarks(task, "train") == []
    assert remarks(task, "train", all_of_it=True) == ["1 train row repeats a question, with the same answer"]
    task = files(tmp_path, train=[row("A?"), row("a?", "8", steps=["4+4=8"]), row("A?"), row("A?", "9", steps=["9"])])
    assert remarks(task, "train") == [
        "2 train rows repeat a question with another answer (first: train-0 says '7', train-1 says '8')"
    ]


@pytest.mark.parametrize("number", ["7", "1,000", "-3.5", "$7", "７", "७", "1e-05", "7%"])
def test_references_that_are_numbers(tmp_path: Path, number: str) -> None:
    assert remarks(files(tmp_path, train=[row("A?", number, steps=[])]), "train") == []


def test_references_that_are_no_numbers(tmp_path: Path) -> None:
    rows = [row("A?"), row("B?", "blue", steps=[]), row("C?", "x = 7", steps=[])]
    (told,) = remarks(files(tmp_path, test=rows), "test")
    assert told.startswith(
        "the answer of 2 of 3 test rows is no number (first test-1: 'blue'), and answers are compared as num"
    )
    assert remarks(files(tmp_path, test=rows, answer="text"), "test") == []


@pytest.mark.parametrize(
    ("steps", "answer", "odd"),
    [
        (["<<3+4=7>>", "<<7-2=5>>"], "5", False), (["<<5*0.2=1>>"], "5", True), (["She has 5 of 10 left."], "5", False),
        (["She has 6 of 10 left."], "5", True), (["所以共3+4=７个。"], "7", False), (["It costs $1,000."], "1000", False),
        (["So all is well."], "5", False), (["x = -5"], "5", False), (["<<1/4=.25>>.25"], "0.25", False),
    ],
)  # fmt: skip
def test_last_steps_that_do_not_give_the_answer(tmp_path: Path, steps: list[str], answer: str, odd: bool) -> None:
    told = remarks(files(tmp_path, train=[row("A?", answer, steps=steps)]), "train")
    assert [line for line in told if "does not give the answer" in line] == told
    assert bool(told) == odd
    if odd:
        assert f"of 1 of 1 train rows does not give the answer (first train-0: '{steps[0]}', answer '5')" in told[0]


def test_a_long_text_that_nobody_reads_is_named(tmp_path: Path) -> None:
    long = "First we add three and four, which is seven."
    (told,) = remarks(files(tmp_path, train=[{"question": "A?", "answer": "7", "notes": long}]), "train")
    assert told.startswith(
        "field 'notes' is not read, and 1 train row has text there and no step; reasoning is read from steps"
    )
    assert 'task.fields=\'{"reasoning": "notes"}\'' in told
    assert remarks(files(tmp_path, train=[row("A?", notes=long)]), "train") == []
    assert remarks(files(tmp_path, train=[{"question": "A?", "answer": "7", "source": "web"}]), "train") == []


def test_rows_without_steps_are_counted_or_refused(tmp_path: Path) -> None:
    rows = [row("A?"), row("B?", steps=[]), row("C?", steps=[])]
    told = without_steps(files(tmp_path, train=rows).examples("train"))
    assert told is not None
    assert told.startswith("2 of 3 training rows have no step (first train-1)")
    assert without_steps([Example(question="q", steps=("a",), answer="1")]) is None
    task = files(tmp_path, train=rows, test=[row("D?", steps=[])], require_steps=True)
    assert len(task.examples("test")) == 1
    with pytest.raises(
        DataError, match=r"train\.jsonl: 2 of 3 train rows have no step \(first train-1\), and require_steps"
    ):
        task.examples("train")


def test_copies_of_the_hub_as_root_or_hub(tmp_path: Path) -> None:
    """A clone of a data set's repository, or what `save_to_disk` wrote, serves a task as its folder."""
    from datasets import Dataset, DatasetDict

    rows = [{"question": f"{n}?", "answer": f"<<{n}+1={n + 1}>>\n#### {n + 1}"} for n in range(4)]
    parts = DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])})
    parts.save_to_disk(str(tmp_path / "saved"))
    for name, part in parts.items():
        (tmp_path / "clone" / "main").mkdir(parents=True, exist_ok=True)
        part.to_parquet(str(tmp_path / "clone" / "main" / f"{name}-00000-of-00001.parquet"))
    for where in ({"root": "saved"}, {"hub": "saved"}, {"root": "clone"}, {"hub": "clone"}):
        config = {key: str(tmp_path / value) for key, value in where.items()}
        task = make_task({"name": "gsm8k", "validation_fraction": 0.0, **config})
        assert [e.answer for e in task.examples("train")] == ["2", "3", "4"]
        assert remarks(task, "train", all_of_it=True)[0].startswith("1 train row was dropped")
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match=r"is one data set without splits; task 'files' reads it"):
        make_task({"name": "gsm8k", "root": str(tmp_path / "one")}).examples("test")
