"""What people bring: formats, folders, the hub, field names, styles, traces of thoughts, multiple choice."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import socket
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.tasks import make_task
from unspoken.tasks.reading.traces import read_trace, split_reasoning

ROWS = [{"question": f"{n}+4?", "answer": f"Add: <<{n}+4={n + 4}>>{n + 4}\n#### {n + 4}"} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(place: Any, split: str = "train", **config: Any) -> Sequence[Any]:
    return make_task({"name": "files", split: str(place), **config}).examples(split)  # pyright: ignore[reportArgumentType]


def one(folder: Path, row: Any, **config: Any) -> Any:
    (folder / "row.jsonl").write_text(json.dumps(row) + "\n")
    return read(folder / "row.jsonl", **config)[0]


def check(examples: Sequence[Any]) -> None:
    """The examples are ROWS."""
    assert [(e.question, e.steps, e.answer) for e in examples] == [
        (f"{n}+4?", (f"<<{n}+4={n + 4}>>",), str(n + 4)) for n in range(3)
    ]


# Formats


def test_tables(tmp_path: Path) -> None:
    cells = [[row["question"], row["answer"]] for row in ROWS]
    for name, cut in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        text = f"question{cut}answer\r\n" + "".join(cut.join(f'"{cell}"' for cell in row) + "\r\n" for row in cells)
        (tmp_path / name).write_text("\ufeff" + text, newline="")
        check(read(tmp_path / name))
    (tmp_path / "d.csv").write_text('question,steps,answer,kind\nq,"[\'a b\', \'c\']",007,\n\nr,"[""d""]",1e-05,x\n')
    first, second = read(tmp_path / "d.csv")
    assert (first.steps, first.answer, second.steps, second.answer) == (("a b", "c"), "007", ("d",), "1e-05")  # as written
    assert (first.meta, second.meta) == ({}, {"kind": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\nq,1,2\n", r"a\.csv:2: has 3 cells, the heading 2; quote"),
        ("question,question\nq,1\n", r"a\.csv:1: the heading has 'question' more than once"),
        ("q,1\nr,2\n", r"a\.csv:2: field 'question' is missing; the row has: q, 1"),
        ('question,answer\nq,"1\n', r"a\.csv:\d: is no table"),
        ("question,answer\nq,\n", r"a\.csv:2: field 'answer' is missing"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.csv")


def test_parquet_arrow_and_saved_folders(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet
    from datasets import Dataset, DatasetDict

    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "no_suffix")
    pyarrow.feather.write_feather(table, str(tmp_path / "a.arrow"))
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": Dataset.from_list(ROWS), "dev": Dataset.from_list(ROWS[:1])}).save_to_disk(str(tmp_path / "dict"))
    for place in ("a.parquet", "no_suffix", "a.arrow", "saved", "saved/data-00000-of-00001.arrow", "dict"):
        check(read(tmp_path / place))
    assert len(read(tmp_path / "dict", "validation")) == 1
    with pytest.raises(DataError, match=r"dict: has no test split; it has: train, dev"):
        read(tmp_path / "dict", "test")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(DataError, match=r"cut\.parquet: is no whole Parquet file"):
        read(tmp_path / "cut.parquet")


def test_packed_files(tmp_path: Path) -> None:
    for name, pack in (("a.jsonl.gz", gzip.compress), ("a.jsonl.bz2", bz2.compress), ("a.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(LINES.encode()))
        check(read(tmp_path / name))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("rows.jsonl", LINES)
    check(read(tmp_path / "a.zip"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(LINES.encode())[:-20])
    with pytest.raises(DataError, match=r"cut\.gz: cannot be unpacked"):
        read(tmp_path / "cut.gz")


@pytest.mark.parametrize(
    ("start", "message"),
    [(b"\x28\xb5\x2f\xfd", "packed with zstd; unpack it"), (b"\x80\x04\x95", "a pickle, which can run code"),
     (b"\xd0\xcf\x11\xe0", "an Excel workbook; save the sheet as CSV"), (b"\x89HDF", "an HDF5 file")],
)  # fmt: skip
def test_files_of_other_kinds_are_named(tmp_path: Path, start: bytes, message: str) -> None:
    (tmp_path / "a.data").write_bytes(start + b"\x00" * 20)
    with pytest.raises(DataError, match=rf"a\.data: is {message}"):
        read(tmp_path / "a.data")


@pytest.mark.parametrize(
    "whole",
    [
        {"data": ROWS}, {"version": "1.0", "data": ROWS}, {"train": ROWS, "test": ROWS[:1]},
        {key: [row[key] for row in ROWS] for key in ROWS[0]},
        {key: {str(n): row[key] for n, row in enumerate(ROWS)} for key in ROWS[0]},
        {f"id-{n}": row for n, row in enumerate(ROWS)}, {"rows": [{"row_idx": 0, "row": row} for row in ROWS]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_layouts_of_one_json_object(tmp_path: Path, whole: Any, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps(whole, indent=indent))
    check(read(tmp_path / "a.json"))


def test_json_objects_that_are_a_row_or_cannot_be_read(tmp_path: Path) -> None:
    row = {"problem": "1+4?", "solution": "It is $\\boxed{5}$.", "level": "1"}
    (tmp_path / "1.json").write_text(json.dumps(row, indent=4))
    (example,) = read(tmp_path / "1.json", style="math", steps="sentences")
    assert (example.question, example.answer) == ("1+4?", "5")
    for whole, message in (
        ({"test": ROWS}, r"has no train rows; it has: test"),
        ({"question": ["a", "b"], "answer": ["1"]}, r"columns that differ in length \(question: 2, answer: 1\)"),
        ({"one": ROWS, "two": ROWS}, r"has several lists \(one, two\)"),
    ):
        (tmp_path / "a.json").write_text(json.dumps(whole))
        with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
            read(tmp_path / "a.json")


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# rows")
    (tmp_path / "data").mkdir()
    for number, row in enumerate(ROWS):
        (tmp_path / "data" / f"train-{number:05d}-of-00003.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data" / "val.jsonl").write_text(json.dumps({"question": "v", "answer": "1"}) + "\n")
    task = make_task({"name": "files", "train": str(tmp_path), "validation": str(tmp_path)})
    check(task.examples("train"))
    assert [e.question for e in task.examples("validation")] == ["v"]
    with pytest.raises(DataError, match=r"has no test file; it has: data/train-00000"):
        read(tmp_path, "test")
    # MATH: a folder per split and subject, a file per problem; named itself, a folder needs no split in its names.
    for n in (10, 9):
        place = tmp_path / "MATH" / "test" / "algebra" / f"{n}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"problem": f"p{n}", "solution": "\\boxed{1}"}, indent=1))
    for place in (tmp_path / "MATH", tmp_path / "MATH" / "test" / "algebra"):
        assert [e.question for e in read(place, "test", style="math", steps="lines")] == ["p9", "p10"]
    (tmp_path / "data" / "train.csv").write_text("question,answer\nq,1\n")
    with pytest.raises(DataError, match=r"train files of several kinds \(\.csv, \.jsonl\)"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is a folder without a file of rows"):
        read(tmp_path / "empty")


def test_the_hub(hub: dict[Any, Any]) -> None:
    hub["me/rows", None] = {"train": ROWS, "test": [{"question": "t", "answer": "1"}]}
    hub["me/rows", "main"] = {"train": ROWS[:1]}
    task = make_task({"name": "files", "train": "me/rows", "test": "me/rows"})
    check(task.examples("train"))
    assert len(task.examples("test")) == 1
    assert len(read("me/rows:main")) == 1
    with pytest.raises(DataError, match=r"hub 'me/rows' has no validation split; it has: train, test"):
        read("me/rows", "validation")
    with pytest.raises(DataError, match=r"me/none: no such file .*, and as a name on the hub it could not be loaded"):
        read("me/none")
    with pytest.raises(DataError, match=r"data/train\.jsonl: no such file; looked from"):
        read("data/train.jsonl")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for place, what in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"), (tmp_path / "s", "a socket")):
            with pytest.raises(DataError, match=rf"is {what}, no regular file"):
                read(place)


@pytest.mark.parametrize(
    ("literal", "answer"),
    [
        ("1e-05", "0.00001"), ("0.00001", "0.00001"), ("1e16", "10000000000000000"), ("0.1", "0.1"), ("18.0", "18"),
        ("-0.0", "0"),
        ("1" + "0" * 400, "1" + "0" * 400), ("1e400", "1" + "0" * 400), ("0.30000000000000004441", "0.30000000000000004441"),
    ],
)  # fmt: skip
def test_numbers_as_answers_are_plain_digits(tmp_path: Path, literal: str, answer: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"question": "q", "answer": {literal}}}\n')
    task = make_task({"name": "files", "train": str(tmp_path / "a.jsonl")})
    (example,) = task.examples("train")
    assert example.answer == answer
    assert task.score(example, f"### {answer}").strict


@pytest.mark.parametrize(
    ("literal", "message"),
    [("NaN", "no finite number"), ("-Infinity", "no finite number"), ("1e99999", "more than 4,300 digits"),
     ("null", "is null; give it a text"), ("true", "set task.answer=text"), ("1" * 5000, "invalid JSON")],
)  # fmt: skip
def test_answers_that_are_no_number(tmp_path: Path, literal: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"question": "q", "answer": {literal}}}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:1: .*{message}"):
        read(tmp_path / "a.jsonl")


def test_truth_values_are_words(tmp_path: Path) -> None:
    assert one(tmp_path, {"question": "q", "answer": True}, answer="text").answer == "true"


# Names of fields


@pytest.mark.parametrize(
    "field", ["rationale", "solution", "explanation", "thought", "Thoughts", "chain_of_thought", "Chain-of-Thought", "CoT",
              "reasoning_content", "reasoningContent"],
)  # fmt: skip
def test_reasoning_under_its_usual_names(tmp_path: Path, field: str) -> None:
    for value in ("First 3+4=7. Then 7-2=5.", ["First 3+4=7.", "Then 7-2=5."], "<think>First 3+4=7. Then 7-2=5.</think>"):
        example = one(tmp_path, {"question": "q", field: value, "answer": "5"}, steps="sentences")
        assert (example.steps, dict(example.meta)) == (("First 3+4=7.", "Then 7-2=5."), {})


def test_an_empty_field_gives_way_to_another(tmp_path: Path) -> None:
    row = {"question": "q", "reasoning": "", "solution": "3+4=7.", "answer": "7"}
    assert one(tmp_path, row, steps="sentences").steps == ("3+4=7.",)


def test_names_can_be_mapped(tmp_path: Path) -> None:
    row = {"ask": "q", "notes": "3+4=7.", "out": {"value": 7}, "cot": "not this."}
    fields = {"question": "ask", "reasoning": "notes", "answer": "out.value"}
    example = one(tmp_path, row, fields=fields, steps="sentences")
    assert (example.question, example.steps, example.answer) == ("q", ("3+4=7.",), "7")
    with pytest.raises(DataError, match=r"takes 'question' from 'asks', which it lacks; did you mean 'ask'"):
        one(tmp_path, row, fields={"question": "asks"})
    with pytest.raises(ConfigError, match=r"'questoin' is nothing that is read; did you mean 'question'"):
        one(tmp_path, row, fields={"questoin": "ask"})
    mapped = one(
        tmp_path, {"p": "q", "s": "It is \\boxed{5}."}, style="math", fields={"problem": "p", "solution": "s"}, steps="lines"
    )
    assert mapped.answer == "5"


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"instruction": "q", "output": "5"}, "task.style=alpaca"), ({"problem": "q", "solution": "5"}, "task.style=math"),
        ({"conversations": []}, "task.style=sharegpt"), ({"messages": [1]}, "task.style=chat"),
        ({"Question": "q", "Answer": "5"}, r'task\.fields=\'\{"question": "Question", "answer": "Answer"\}'),
        ({"query": "q", "response": "5"}, "task.style=metamath"), ([{"role": "user"}], "task.style=chat"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_option_that_would_help(tmp_path: Path, row: Any, hint: str) -> None:
    with pytest.raises(DataError, match=rf"row\.jsonl:1: .*{hint}"):
        one(tmp_path, row)


# Traces


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nT\n</think>\n\n\\boxed{5}", "T</think>The answer is 5.", "<thinking>T</thinking> #### 5",
        "<Think>T</Think>\nAnswer: **5**",
        "<|begin_of_thought|>T<|end_of_thought|><|begin_of_solution|>So \\boxed{5}.<|end_of_solution|>", "[THINK]T[/THINK]5",
        "<|START_THINKING|>T<|END_THINKING|><|START_RESPONSE|>5<|END_RESPONSE|>",
        "◁think▷T◁/think▷5", "<seed:think>T</seed:think>5",
        "<reasoning>T</reasoning><answer>5</answer>", "<think>T</think>5<|im_end|>", "<think>T</think>答案是5。",
        "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>final<|message|>5<|return|>",
    ],
)  # fmt: skip
def test_spellings_of_a_trace(text: str) -> None:
    assert split_reasoning(text) == ("T", "5")


def test_traces_that_are_several_open_or_empty() -> None:
    assert split_reasoning("<think>a</think> so <think>b</think> 5") == ("a\nb", "so  5")
    assert split_reasoning("<think>first 3+4=7, #### 7") == ("first 3+4=7,", "7")
    assert split_reasoning("<think>first 3+4=7, then") == ("first 3+4=7, then", None)
    assert split_reasoning("<think>\n\n</think>\n\n#### 5") == ("", "5")
    assert split_reasoning("no trace at all") == ("", "no trace at all")
    assert split_reasoning("a<b and 3<4") == ("", "a<b and 3<4")
    assert not read_trace("<think>a").closed


CHAT = [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    ("style", "row"),
    [
        ("chat", {"messages": [*CHAT, {"role": "assistant", "content": "<think>One. Two.</think> So \\boxed{5}."}]}),
        ("chat", {"messages": [*CHAT, {"role": "assistant", "content": "5", "reasoning_content": "One. Two."}]}),
        ("chat", {"messages": [*CHAT, {"role": "assistant", "content": "5"}], "rationale": "One. Two."}),
        ("chat", {"messages": [*CHAT, {"role": "assistant", "content": "<think>One. Two."}], "answer": 5}),
        ("chat", {"messages": [*CHAT, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "One. Two."}, {"type": "text", "text": "5"}]}]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "One. Two.\n#### 5"}]}),
        ("alpaca", {"instruction": "q", "input": "", "output": "One. Two.\nThe answer is: 5"}),
        ("completion", {"prompt": "q", "completion": "<think>One. Two.</think>5"}),
        ("completion", {"prompt": CHAT, "completion": [{"role": "assistant", "content": "<think>One. Two.</think>5"}]}),
        ("metamath", {"query": "q", "response": "One. Two.\n#### 5\nThe answer is: 5", "type": "GSM"}),
        ("openr1", {"problem": "q", "solution": "No.", "answer": "5", "correctness_math_verify": [False, True, True],
                    "generations": ["<think>Bad.</think>\\boxed{6}", "<think>Cut", "<think>One. Two.</think>\\boxed{5}"]}),
        ("openr1", {"problem": "q", "solution": "One. Two.", "answer": "5",
                    "generations": ["<think>Bad.</think>\\boxed{6}"]}),
        ("plain", {"question": "q", "answer": "<think>One. Two.</think>5"}),
    ],
)  # fmt: skip
def test_styles(tmp_path: Path, style: str, row: Any) -> None:
    example = one(tmp_path, row, style=style, steps="sentences")
    assert (example.question, example.steps, example.answer) == ("q", ("One.", "Two."), "5")


@pytest.mark.parametrize(
    ("style", "row", "message"),
    [
        ("chat", {"messages": [*CHAT, {"role": "assistant", "content": "<think>One"}]}, "no answer behind the reasoning"),
        ("sharegpt", {"conversations": [{"who": "me"}]}, "a turn of a conversation needs 'from' and 'value'"),
        ("alpaca", {"messages": CHAT}, "field 'instruction' is missing; .* it looks like task.style=chat"),
        ("openr1", {"problem": "q", "generations": ["<think>a"]}, "no generation is whole and right"),
        ("plain", {"question": "q", "answer": "<think>One"}, "a trace of thoughts that never ends in an answer"),
    ],
)  # fmt: skip
def test_styles_refuse(tmp_path: Path, style: str, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one(tmp_path, row, style=style)


# Multiple choice


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["bank", "shop"], "answer": 1}, {"choices": ["bank", "shop"], "answer": "shop"},
        {"options": {"A": "bank", "B": "shop"}, "answer": "B"}, {"options": {"a": "bank", "b": "shop"}, "answer": "(b)"},
        {"choices": {"text": ["bank", "shop"], "label": ["1", "2"]}, "answerKey": "2"},
        {"choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "shop"}], "label": "B"},
        {"A": "bank", "B": "shop", "answer": "B"}, {"options": ["A) bank", "B) shop"], "answer": "x\n#### B"},
    ],
)  # fmt: skip
def test_letters_of_ones_own_options(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "Where?", **row}) + "\n")
    task = make_task({"name": "files", "train": str(tmp_path / "a.jsonl"), "answer": "letter", "steps": "lines"})
    (example,) = task.examples("train")
    assert (example.question, example.answer) == ("Where?\nOptions:\n(A) bank\n(B) shop", "B")
    assert task.score(example, "The answer is: B").strict
    assert not task.score(example, "The answer is: A").flexible


def test_options_in_the_question_and_options_that_fail(tmp_path: Path) -> None:
    asked = one(tmp_path, {"question": "Where?\n(A) bank\n(B) shop", "answer": "b"}, answer="letter")
    assert (asked.question, asked.answer) == ("Where?\n(A) bank\n(B) shop", "B")
    for row, message in (
        ({"choices": ["1", "2", "3"], "answer": 2}, "names several of the options"),
        ({"choices": ["a", "b"], "answer": 2}, "is none of the options: 2; write a letter: A, B .indices count from 0"),
        ({"choices": ["a"], "answer": 0}, "needs 2 to 10 options"),
        ({"answer": "B"}, "no options: answer=letter needs"),
    ):
        with pytest.raises(DataError, match=message):
            one(tmp_path, {"question": "Where?", **row}, answer="letter")
    with pytest.raises(DataError, match=r"the question does not show; set task\.answer=letter"):
        one(tmp_path, {"question": "Where?", "choices": ["bank", "shop"], "answer": 1})
    plain = one(tmp_path, {"question": "Where?", "choices": ["bank", "shop"], "answer": "shop"}, answer="text")
    assert plain.answer == "shop"


# Of the same kind, found by trying


def test_names_that_say_another_thing_than_the_content(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps(ROWS, indent=1))
    check(read(tmp_path / "list.jsonl"))
    cells = [f'"{row["question"]}";"{row["answer"]}"' for row in ROWS]
    (tmp_path / "excel.csv").write_text("sep=;\r\nquestion;answer\r\n" + "\r\n".join(cells), newline="")
    check(read(tmp_path / "excel.csv"))
    (tmp_path / "rows.tar.gz").write_bytes(gzip.compress(b"rows.jsonl".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 248))
    with pytest.raises(DataError, match="is a tar archive"):
        read(tmp_path / "rows.tar.gz")
    (tmp_path / "rows.xml").write_text("<rows><row/></rows>")
    with pytest.raises(DataError, match=r"neither its name nor its content says what it is; read are \.jsonl, "):
        read(tmp_path / "rows.xml")
    for place in ("", " "):
        with pytest.raises(DataError, match="the place of the train rows is empty"):
            read(place)


def test_an_answer_in_bold_and_a_trace_in_a_trace(tmp_path: Path) -> None:
    assert split_reasoning("<think>3+4=7</think>\n\n**7**") == ("3+4=7", "7")
    assert split_reasoning("<think>a <think>b</think> c</think> 7") == ("a b\nc", "7")
    turns = [{"from": "Human", "value": "3+4?"}, {"from": "Assistant", "value": "7"}]
    assert one(tmp_path, {"conversations": turns}, style="sharegpt").answer == "7"


def test_an_index_from_a_column_with_gaps_and_an_option_without_text(tmp_path: Path) -> None:
    assert one(tmp_path, {"question": "q", "choices": ["x", "y"], "answer": 1.0}, answer="letter").answer == "B"
    with pytest.raises(DataError, match=r"is none of the options: 1\.5"):
        one(tmp_path, {"question": "q", "choices": ["x", "y"], "answer": 1.5}, answer="letter")
    with pytest.raises(DataError, match="an option is empty"):
        one(tmp_path, {"question": "q", "choices": ["x", " "], "answer": 0}, answer="letter")


@pytest.mark.parametrize(
    ("one_way", "another"),
    [
        ("Ann has 3 figs?", "ANN  has\n3 figs\uff1f"),
        ("Ann has 3", "Ann has \uff13"),
        ("Caf\u00e9 3", "Cafe\u0301 3"),
        ("\ud55c\uae00 3", "\u1112\u1161\u11ab\u1100\u1173\u11af 3"),
        ('Ann\'s "figs" - 3...', "Ann\u2019s \u201cfigs\u201d \u2013 3\u2026"),
        ("Ann has 3", "\u200bAnn\u00a0has 3\ufeff"),
        ("\u4e09\u4e2a\uff0c\u56db\u4e2a\u3002", "\u4e09\u4e2a,\u56db\u4e2a."),
    ],
)
def test_one_question_written_in_two_ways_is_in_one_split(tmp_path: Path, one_way: str, another: str) -> None:
    rows = [{"question": "Bob has 5\u00b2?", "answer": "25"}, {"question": one_way, "answer": "3"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = [{"question": another, "answer": "3"}, {"question": "Bob has 52?", "answer": "52"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    task = make_task({"name": "files", "train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")})
    assert [example.answer for example in task.examples("train")] == ["25"]
    assert task.dropped == {"train": 1, "test": 0}  # pyright: ignore[reportAttributeAccessIssue]
    (tmp_path / "both.jsonl").write_text(
        "".join(json.dumps({"question": q, "answer": "3"}) + "\n" for q in (one_way, another))
    )
    carved = make_task({"name": "files", "train": str(tmp_path / "both.jsonl"), "validation_fraction": 0.5})
    sides = []
    for split in ("train", "validation"):  # equal questions fall on one side
        with contextlib.suppress(DataError):
            sides.append(len(carved.examples(split)))
    assert sides == [2]
