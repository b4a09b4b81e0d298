"""SVAMP, MultiArith, GSM-Hard and ASDiv: rows of the files, answers, errors, and what must not be trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, make_task
from unspoken.tasks.data.asdiv import AsDiv, AsDivConfig
from unspoken.tasks.reading.source import DATA_VARIABLE

SVAMP_ROW = {
    "ID": "chal-9",
    "Body": "Ann had 76 figs. She ate 25",
    "Question": "How many are left?",
    "Equation": "( 76.0 - 25.0 )",
    "Answer": 51.0,
    "Type": "Subtraction",
}
MAWPS = (
    "Question,Numbers,Equation,Answer,group_nums,Body,Ques\n"
    '"Bea has number0 books on each of number1 shelves , how many ?",56.0 9.0,* number0 number1,504.0,[],,\n'
    '"Cy ran number0 miles .\nHow many hours ?",1.5,/ number0 3,0.5,[],,\n'
)
ARITH_ROW = {
    "iIndex": 0,
    "lEquations": ["X=((32.0+42.0)-35.0)"],
    "lSolutions": [39.0],
    "sQuestion": " Dee had 32 . How many? ",
}
CODE = 'def solution():\n    """Eve eats 2 figs.  How many?"""\n    return 2\n'
HARD_ROW = {"input": "Eve eats 2287720.5 figs. How many?", "code": CODE, "target": 2287720.5}
XML = """<?xml version="1.0" encoding="UTF-8" ?>\r
<Machine-Reading-Corpus-File><ProblemSet>\r
{}</ProblemSet></Machine-Reading-Corpus-File>"""


def problem(id: str, answer: str, formula: str, body: str = "Flo has 7 figs &amp; 2 nuts.") -> str:
    return (
        f'<Problem ID="{id}" Grade="1" Source="x"><Body>{body}</Body><Question>How many ({id})?</Question>'
        f"<Solution-Type>Addition</Solution-Type><Answer>{answer}</Answer><Formula>{formula}</Formula></Problem>\r\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a row or two of each."""
    for name in ("svamp", "multiarith", "gsm_hard", "asdiv"):
        (tmp_path / name).mkdir()
    (tmp_path / "svamp" / "SVAMP.json").write_text(json.dumps([SVAMP_ROW]))
    (tmp_path / "svamp" / "mawps-asdiv-a_train.csv").write_text(MAWPS)
    (tmp_path / "multiarith" / "MultiArith.json").write_text(json.dumps([ARITH_ROW]))
    (tmp_path / "gsm_hard" / "gsmhardv2.jsonl").write_text(json.dumps(HARD_ROW))
    (tmp_path / "asdiv" / "ASDiv.xml").write_text(XML.format(problem("n1", "9 (apples)", "7+2=9")))
    return tmp_path


def task(folder: Path, name: str, **fields: Any) -> Any:
    return make_task({"name": name, "root": str(folder / name), **fields})


# SVAMP


def test_svamp_rows(folder: Path) -> None:
    svamp = task(folder, "svamp", validation_fraction=0)
    (example,) = svamp.examples("test")
    assert example.question == "Ann had 76 figs. She ate 25 How many are left?"
    assert (example.answer, example.steps) == ("51", ("<<76-25=51>>",))
    assert dict(example.meta) == {"id": "chal-9", "type": "Subtraction", "equation": "( 76.0 - 25.0 )"}
    train = svamp.examples("train")
    assert [e.question for e in train] == [
        "Bea has 56 books on each of 9 shelves , how many ?",
        "Cy ran 1.5 miles .\nHow many hours ?",
    ]
    assert [(e.steps, e.answer) for e in train] == [(("<<56*9=504>>",), "504"), (("<<1.5/3=0.5>>",), "0.5")]
    with pytest.raises(
        DataError, match=r"'svamp' has no validation split; it has: train, test; .* set validation_fraction=0.05"
    ):
        svamp.examples("validation")


def test_svamp_train_avoids_what_is_tested_elsewhere(folder: Path) -> None:
    row = ARITH_ROW | {"sQuestion": "Bea has 56 books on each of 9 shelves, how many? ", "lSolutions": [504.0]}
    (folder / "multiarith" / "MultiArith.json").write_text(json.dumps([row]))
    svamp = task(folder, "svamp", validation_fraction=0)
    assert [e.answer for e in svamp.examples("train")] == ["0.5"]
    assert svamp.avoided == 1
    assert len(task(folder, "svamp", validation_fraction=0, avoid=["asdiv"]).examples("train")) == 2
    (folder / "asdiv" / "ASDiv.xml").unlink()
    with pytest.raises(
        DataError, match=r"train of task 'svamp' holds questions of asdiv, whose files are needed .*set avoid=\[\]"
    ):
        task(folder, "svamp").examples("train")
    assert len(task(folder, "svamp", validation_fraction=0, avoid=[]).examples("train")) == 2


def test_svamp_errors(folder: Path) -> None:
    file = folder / "svamp" / "SVAMP.json"
    for field, value, message in (
        ("Answer", "many", r"item 0: field 'Answer' must be a number, got 'many'"),
        ("Answer", None, r"field 'Answer' must be a number, got None"),
        ("Answer", True, r"field 'Answer' must be a number, got True"),
        ("Body", None, r"field 'Body' is missing"),
    ):
        file.write_text(json.dumps([SVAMP_ROW | {field: value}]))
        with pytest.raises(DataError, match=message):
            task(folder, "svamp").examples("test")
    file.write_text(json.dumps([SVAMP_ROW]))
    (folder / "svamp" / "mawps-asdiv-a_train.csv").write_text(MAWPS.replace("number1 shelves", "number7 shelves"))
    with pytest.raises(DataError, match=r"train\.csv:2: field 'Question' names number7, and 'Numbers' has 2"):
        task(folder, "svamp", avoid=[]).examples("train")


def test_svamp_counts(shared_data: Path) -> None:
    svamp = task(shared_data, "svamp", avoid=[])
    assert len(svamp.examples("test")) == 900
    assert len(svamp.examples("train")) + len(svamp.examples("validation")) == 3138
    assert 100 < len(svamp.examples("validation")) < 220
    first = svamp.examples("test")[0]
    assert first.question.startswith(
        "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack How"
    )
    assert (first.answer, first.steps) == ("51", ("<<76-25=51>>",))
    assert sum(not e.steps for e in svamp.examples("test")) == 2
    careful = task(shared_data, "svamp")
    left = {
        re.sub(r"[^a-z0-9]", "", e.question.lower()) for split in ("train", "validation") for e in careful.examples(split)
    }
    for other in ("multiarith", "asdiv"):
        rows = task(shared_data, other).examples("test")
        assert not left & {re.sub(r"[^a-z0-9]", "", e.question.lower()) for e in rows}
    assert careful.avoided >= 600 + 852  # the manifest's counts of shared questions
    assert len(careful.examples("train")) + len(careful.examples("validation")) == 3138 - careful.avoided


def test_svamp_on_the_hub_is_both_splits(hub: dict[Any, Any]) -> None:
    hub["ChilleD/SVAMP", None] = {"train": [SVAMP_ROW | {"Answer": "51.0"}], "test": [SVAMP_ROW | {"Body": "Gus had 76."}]}
    assert [e.answer for e in make_task("svamp").examples("test")] == ["51", "51"]
    with pytest.raises(DataError, match=r"task 'svamp' has no data: root is not set; either set root=FOLDER"):
        make_task("svamp").examples("train")


# MultiArith


def test_multiarith(folder: Path, hub: dict[Any, Any]) -> None:
    (example,) = task(folder, "multiarith").examples("test")
    assert (example.question, example.answer) == ("Dee had 32 . How many?", "39")
    assert example.steps == ("<<32+42=74>>", "<<74-35=39>>")
    with pytest.raises(DataError, match=r"'multiarith' has no train split; it has: test; it is a test set without a split"):
        task(folder, "multiarith").examples("train")
    (folder / "multiarith" / "MultiArith.json").write_text(json.dumps([ARITH_ROW | {"lSolutions": [1.0, 2.0]}]))
    with pytest.raises(DataError, match=r"item 0: field 'lSolutions' must be a list of one number, got \[1\.0, 2\.0\]"):
        task(folder, "multiarith").examples("test")
    hub["ChilleD/MultiArith", None] = {
        "train": [{"question": "A?", "final_ans": "3"}],
        "test": [{"question": "B?", "final_ans": "4"}],
    }
    assert [e.answer for e in make_task("multiarith").examples("test")] == ["3", "4"]


def test_multiarith_counts(shared_data: Path) -> None:
    rows = task(shared_data, "multiarith").examples("test")
    assert len(rows) == 600
    assert len({e.question for e in rows}) == 580
    assert all(len(e.steps) == 2 for e in rows)


# GSM-Hard


def test_gsm_hard(folder: Path) -> None:
    hard = task(folder, "gsm_hard")
    (example,) = hard.examples("test")
    assert (example.question, example.answer, example.steps) == (HARD_ROW["input"], "2287720.5", ())
    assert example.meta["changed"] is True
    assert hard.score(example, "#### 2,287,720.6").strict
    assert not hard.score(example, "#### 2287730").flexible
    same = HARD_ROW | {"input": "Eve eats 2 figs. How many?"}
    (folder / "gsm_hard" / "gsmhardv2.jsonl").write_text(f"{json.dumps(same)}\n{json.dumps(HARD_ROW)}\n")
    assert [e.meta["changed"] for e in task(folder, "gsm_hard").examples("test")] == [False, True]
    assert [e.answer for e in task(folder, "gsm_hard", changed_only=True).examples("test")] == ["2287720.5"]


def test_gsm_hard_counts(shared_data: Path) -> None:
    rows = task(shared_data, "gsm_hard").examples("test")
    assert len(rows) == 1119
    assert sum(not e.meta["changed"] for e in rows) == 276
    assert len(task(shared_data, "gsm_hard", changed_only=True).examples("test")) == 1119 - 276
    assert rows[0].answer == "-9867630"
    assert {"9284017268534.4", "0.0000005158", "0"} <= {e.answer for e in rows}


# ASDiv


def test_asdiv_rows(folder: Path) -> None:
    file = folder / "asdiv" / "ASDiv.xml"
    problems = [
        problem("n1", "9 (apples)", "7+2=9"),
        problem("n2", "5 (years old); 15 (years old)", "x=5"),
        problem("n3", "-(1/3)", "x=-(1/3)"),
        problem("n4", "3:30 p.m.", "x"),
        problem("n5", "Mrs. Hilt", "2*1  (cent)=32 cents"),
        problem("n6", "6 (pencils)", "42/12=3 r6"),
    ]
    file.write_bytes(XML.format("".join(problems)).encode())
    asdiv = task(folder, "asdiv")
    rows = asdiv.examples("test")
    assert rows[0].question == "Flo has 7 figs & 2 nuts. How many (n1)?"
    assert rows[0].steps == ("<<7+2=9>>",)
    assert rows[0].meta["units"] == ["apples"]
    assert [e.answer for e in rows] == ["9", "5; 15", "-(1/3)", "3:30 p.m.", "Mrs. Hilt", "6"]
    assert not any(e.steps for e in rows[1:])
    assert [e.answer for e in task(folder, "asdiv", numbers_only=True).examples("test")] == ["9", "6"]
    with pytest.raises(DataError, match=r"'asdiv' has no train split; it has: test; set fold=0 \(to 4\)"):
        asdiv.examples("train")
    file.write_text("<a>\n<b></a>")
    with pytest.raises(DataError, match=r"ASDiv\.xml:2: is not well-formed XML"):
        task(folder, "asdiv").examples("test")
    with pytest.raises(ConfigError, match=r"field 'fold' must be 0 to 4, or null to test on everything, got 5"):
        task(folder, "asdiv", fold=5)


@pytest.mark.parametrize(
    ("gold", "text", "strict", "flexible", "extracted"),
    [
        ("9", "#### 9", True, True, "9"),
        ("9", "#### 9 (apples)", True, True, "9"),
        ("9", "The answer is: 9 red apples", True, True, "9"),
        ("9", "The answer is 9.0 apples.", False, True, "9.0"),
        ("9", "#### 9 or 10", False, False, "9 or 10"),
        ("5; 15", "#### 15 and 5", True, True, "15 and 5"),
        ("5; 15", "#### 5 (years old); 15 (years old)", True, True, "5; 15"),
        ("5; 15", "#### 5; 16", False, False, "5; 16"),
        ("3:30 p.m.", "#### 3:30 P.M.", True, True, "3:30 p.m"),
        ("3 p.m.", "#### 3 a.m.", False, False, "3 a.m"),
        ("Mrs. Hilt", "So the answer is Mrs. Hilt.", False, True, "mrs. hilt"),
        ("Mrs. Hilt", "#### Jacob", False, False, "jacob"),
        ("2:3", "#### 2:3", True, True, "2:3"),
        ("2:3", "#### 3:2", False, False, "3:2"),
        ("-(1/3)", "#### -(1/3)", True, True, "-(1/3)"),
        ("Yes", "yes", False, True, "yes"),
        ("Yes", "", False, False, None),
    ],
)
def test_asdiv_answers(gold: str, text: str, strict: bool, flexible: bool, extracted: str | None) -> None:
    score = AsDiv(AsDivConfig()).score(Example(question="What?", answer=gold), text)
    assert (score.strict, score.flexible) == (strict, flexible)
    assert extracted is None or score.extracted == extracted.removesuffix(".0")


def test_asdiv_counts(shared_data: Path) -> None:
    everything = task(shared_data, "asdiv")
    rows = everything.examples("test")
    assert len(rows) == 2305
    assert (rows[0].question[:39], rows[0].answer) == ("Seven red apples and two green apples a", "9")
    assert len(rows) - len(task(shared_data, "asdiv", numbers_only=True).examples("test")) == 221
    arithmetic = {e.meta["id"] for e in task(shared_data, "asdiv", subset="a").examples("test")}
    assert len(arithmetic) == 1218
    tested = []
    for fold in range(5):
        folds = task(shared_data, "asdiv", subset="a", fold=fold)
        ids = [{e.meta["id"] for e in folds.examples(split)} for split in SPLITS]
        assert sum(map(len, ids)) == len(set.union(*ids)) == 1218
        tested += sorted(ids[2])
    assert sorted(tested) == sorted(arithmetic), "every problem is tested in one fold"
    whole = task(shared_data, "asdiv", fold=1)
    assert sum(len(whole.examples(split)) for split in SPLITS) + sum(whole.dropped.values()) == 2305
    assert sum(whole.dropped.values()) == 1  # the one repeated question


def test_asdiv_hub(hub: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"body": "Hal has 7.", "question": "And 2?", "answer": "9 (figs)", "formula": "7+2=9", "solution_type": "Addition"}
    hub["EleutherAI/asdiv", None] = {"validation": [row]}
    (example,) = make_task("asdiv").examples("test")
    assert (example.question, example.steps, example.answer) == ("Hal has 7. And 2?", ("<<7+2=9>>",), "9")
    with pytest.raises(DataError, match=r"root is not set, and the hub has no folds"):
        make_task({"name": "asdiv", "fold": 0}).examples("test")
    monkeypatch.setenv(DATA_VARIABLE, "/nowhere")
    with pytest.raises(DataError, match=r"task 'asdiv' has no data: root and hub are not set"):
        make_task({"name": "asdiv", "hub": None}).examples("test")
