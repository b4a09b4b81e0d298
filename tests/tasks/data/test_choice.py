"""CommonsenseQA, AQuA, StrategyQA and Date Understanding: rows, splits, rationales from the hub, errors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, make_task
from unspoken.tasks.data.choice import stem_key
from unspoken.tasks.scoring.letters import options_of

CHOICES = [
    {"label": letter, "text": text} for letter, text in zip("ABCDE", ("bank", "library", "inn", "mall", "shop"), strict=True)
]
AQUA_ROW = {
    "question": "What is 2 * 3?",
    "options": ["A)5", "B)B)6", "C)7 km", "D)8", "E)None of these"],
    "rationale": "2 * 3 = 2 + 2 + 2\n= 6\nAnswer : B",
    "correct": "B",
}
SCORES = {"05/01/2021": 1, "02/23/2021": 0, "03/11/2021": 0}


def csqa_row(number: int, key: str = "B") -> dict[str, Any]:
    question = {"stem": f"Where is book {number}?", "question_concept": "book", "choices": CHOICES}
    return {"id": f"id{number}", "question": question, "answerKey": key}


def write(path: Path, rows: Any, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))


# CommonsenseQA


def test_commonsenseqa(tmp_path: Path) -> None:
    write(tmp_path / "train_rand_split.jsonl", [csqa_row(i) for i in range(40)], lines=True)
    write(tmp_path / "dev_rand_split.jsonl", [csqa_row(3, "A"), csqa_row(100, "A")], lines=True)
    task = make_task({"name": "commonsenseqa", "root": str(tmp_path), "validation_fraction": 0.2})
    test = task.examples("test")
    assert test[1].question == "Where is book 100?\nOptions:\n(A) bank\n(B) library\n(C) inn\n(D) mall\n(E) shop"
    assert (test[1].answer, test[1].steps, dict(test[1].meta)) == ("A", (), {"id": "id100", "concept": "book"})
    train, validation = task.examples("train"), task.examples("validation")
    assert len(train) + len(validation) == 39, "the question of a test row is dropped, whatever its answer"
    assert not {stem_key(e) for e in train} & {stem_key(e) for e in validation}
    assert task.score(test[0], "The answer is: (A) bank").strict
    assert task.score(test[0], "It is a bank").flexible
    with pytest.raises(
        DataError, match=r"'commonsenseqa' has no validation split; it has: train, test; the dev rows are test here"
    ):
        make_task({"name": "commonsenseqa", "root": str(tmp_path), "validation_fraction": 0}).examples("validation")
    write(tmp_path / "dev_rand_split.jsonl", [csqa_row(1) | {"question": {"stem": "Q?", "choices": "A"}}], lines=True)
    with pytest.raises(DataError, match=r"dev_rand_split\.jsonl:1: field 'choices' must hold labels and texts, got 'A'"):
        make_task({"name": "commonsenseqa", "root": str(tmp_path)}).examples("test")


def test_commonsenseqa_counts(shared_data: Path) -> None:
    task: Any = make_task({"name": "commonsenseqa", "root": str(shared_data / "commonsenseqa")})
    train, validation, test = (task.examples(split) for split in SPLITS)
    assert (len(train) + len(validation), len(test)) == (9741, 1221)
    assert 400 < len(validation) < 600
    assert Counter(e.answer for e in test) == {"A": 239, "B": 255, "C": 241, "D": 251, "E": 235}
    assert task.dropped == {"train": 0, "validation": 0, "test": 0}
    assert all(list(options_of(e.question)) == list("ABCDE") for e in (*train, *validation, *test))
    for example in test:
        options = options_of(example.question)
        text = options[example.answer]
        unique = sum(other.lower() == text.lower() for other in options.values()) == 1
        assert task.score(example, text).flexible == unique
        assert task.score(example, f"({example.answer}) {text}").flexible


def test_commonsenseqa_hubs(hub: dict[Any, Any]) -> None:
    row = {"question": "Where?", "question_concept": "x", "answerKey": "B", "id": "1"}
    row |= {"choices": {"label": ["A", "B"], "text": ["bank", "library"]}}
    hub["tau/commonsense_qa", None] = {"train": [row | {"question": f"Where {i}?"} for i in range(30)], "validation": [row]}
    task = make_task({"name": "commonsenseqa", "validation_fraction": 0.2})
    assert task.examples("test")[0].question == "Where?\nOptions:\n(A) bank\n(B) library"
    assert len(task.examples("train")) + len(task.examples("validation")) == 30
    with pytest.raises(DataError) as caught:
        make_task({"name": "commonsenseqa", "cot": True}).examples("train")
    assert str(caught.value) == (
        "task 'commonsenseqa' has no data: hub 'zen-E/CommonsenseQA-GPT4omini' could not be loaded (ConnectionError: "
        "Couldn't reach 'zen-E/CommonsenseQA-GPT4omini' on the Hub); set cot=false, or load it once with a network, or "
        "save its rows (question, cot, answer) for task 'files'"
    )
    with pytest.raises(DataError, match=r"task 'commonsenseqa' has no data: its hub is not set; set cot=false"):
        make_task({"name": "commonsenseqa", "cot": True, "cot_hub": None}).examples("train")


def test_commonsenseqa_with_rationales(hub: dict[Any, Any], shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPOKEN_DATA", str(shared_data))  # a folder is no reason to leave the rationales out
    form = "Question: Where is {}? Choices: A: bank B: library"
    rows = [{"question": form.format(i), "cot": "Books are lent. So B.", "answer": "B"} for i in range(30)]
    hub["zen-E/CommonsenseQA-GPT4omini", None] = {"train": rows, "validation": [rows[0] | {"question": form.format("it")}]}
    task = make_task({"name": "commonsenseqa", "cot": True, "validation_fraction": 0.2})
    train = task.examples("train")
    assert (train[0].steps, train[0].answer) == (("Books are lent.", "So B."), "B")
    assert [e.question for e in task.examples("test")] == ["Question: Where is it? Choices: A: bank B: library"]
    assert len(train) + len(task.examples("validation")) == 30
    assert task.score(train[0], "The answer is: library").flexible


# AQuA


def test_aqua(tmp_path: Path, hub: dict[Any, Any]) -> None:
    write(tmp_path / "test.json", [AQUA_ROW, AQUA_ROW | {"question": "Why?", "rationale": "", "correct": "E"}], lines=True)
    task = make_task({"name": "aqua", "root": str(tmp_path)})
    first, second = task.examples("test")
    assert first.question == "What is 2 * 3?\nOptions:\n(A) 5\n(B) 6\n(C) 7 km\n(D) 8\n(E) None of these"
    assert (first.answer, first.steps) == ("B", ("2 * 3 = 2 + 2 + 2", "= 6"))
    assert second.steps == ()
    assert task.score(first, "so it is\n6").flexible
    assert task.score(first, "The answer is: B").strict
    write(tmp_path / "dev.json", [AQUA_ROW | {"options": "A)5"}], lines=True)
    with pytest.raises(DataError, match=r"dev\.json:1: field 'options' must be a list of strings, got 'A\)5'"):
        task.examples("validation")
    write(tmp_path / "dev.json", [AQUA_ROW], lines=True)
    with pytest.raises(DataError, match=r"no train file for task 'aqua'; expected train\.json"):
        make_task({"name": "aqua", "root": str(tmp_path)}).examples("train")
    others = [AQUA_ROW | {"question": f"{name}?"} for name in "ab"]
    hub["deepmind/aqua_rat", "raw"] = {"train": [*others, AQUA_ROW], "validation": [others[0]], "test": [AQUA_ROW]}
    remote = make_task("aqua")
    assert [[e.question[0] for e in remote.examples(split)] for split in SPLITS] == [["b"], ["a"], ["W"]]


@pytest.mark.parametrize(
    ("last", "kept"),
    [
        ("Answer : B", False),
        ("ANSWER:B", False),
        ("Hence (B) is correct answer.", False),
        ("The correct option is B.", False),
        ("Hence, the correct answer will be (B)", False),
        ("B", False),
        ("B is the correct choice", False),
        ("So 40 sales", True),
        ("x = 78.20", True),
        ("Be careful.", True),
        ("A share = 16 parts", True),
        ("So, the answer is 5.", True),
    ],
)
def test_aqua_drops_a_last_line_that_only_names_the_letter(tmp_path: Path, last: str, kept: bool) -> None:
    write(tmp_path / "test.json", [AQUA_ROW | {"rationale": f"First\n{last}"}], lines=True)
    (example,) = make_task({"name": "aqua", "root": str(tmp_path)}).examples("test")
    assert example.steps == (("First", last) if kept else ("First",))


def test_aqua_counts(shared_data: Path) -> None:
    task = make_task({"name": "aqua", "root": str(shared_data / "aqua")})
    assert [len(task.examples(split)) for split in ("validation", "test")] == [254, 254]
    test = task.examples("test")
    assert Counter(e.answer for e in test) == {"A": 63, "B": 58, "C": 46, "D": 53, "E": 34}
    assert all(list(options_of(e.question)) == list("ABCDE") for e in test)
    assert not any(")" in text[:2] for e in test for text in options_of(e.question).values()), "no label is left in a text"
    assert all(e.steps for e in test)


# StrategyQA


def strategy_row(number: int, answer: Any = False) -> dict[str, Any]:
    row = {"qid": f"q{number}", "term": "x", "description": "y", "question": f"Is {number} odd?", "answer": answer}
    return row | {"facts": ["One is odd.", "Two is not."], "decomposition": ["What is odd?", "Is #1 so?"], "evidence": []}


def test_strategyqa(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [strategy_row(i, i % 2 == 1) for i in range(40)])
    write(tmp_path / "dev.json", [strategy_row(3, True), strategy_row(100)])
    examples = [{"input": "Is 7 odd?", "target_scores": {"Yes": 1, "No": 0}, "target": "Yes. It is."}]
    write(tmp_path / "task.json", {"canary": "x", "examples": examples})
    steps = {}
    for kind in ("facts", "decomposition", "none"):
        task = make_task({"name": "strategyqa", "root": str(tmp_path), "steps": kind, "validation_fraction": 0.2})
        steps[kind] = task.examples("test")[1].steps
        assert [e.answer for e in task.examples("test")] == ["yes", "no"]
        assert len(task.examples("train")) + len(task.examples("validation")) == 39
    assert steps == {
        "facts": ("One is odd.", "Two is not."),
        "decomposition": ("What is odd?", "Is #1 so?"),
        "none": (),
    }
    bigbench = make_task({"name": "strategyqa", "root": str(tmp_path), "form": "bigbench"})
    assert [(e.question, e.answer, e.steps) for e in bigbench.examples("test")] == [("Is 7 odd?", "yes", ())]
    for split in ("train", "validation"):
        with pytest.raises(DataError, match=rf"no {split} split; it has: test; BIG-bench's form is for evaluation only"):
            bigbench.examples(split)
    assert bigbench.score(bigbench.examples("test")[0], "#### True").strict


def test_strategyqa_as_softcot_cuts_it(tmp_path: Path) -> None:
    write(tmp_path / "strategyqa_train.json", [strategy_row(i, i % 2 == 1) for i in range(21)])
    task = make_task({"name": "strategyqa", "root": str(tmp_path), "form": "softcot", "validation_fraction": 0.2})
    assert [e.meta["id"] for e in task.examples("test")] == [f"q{i}" for i in range(16, 21)]
    both = [*task.examples("train"), *task.examples("validation")]
    assert sorted(e.meta["id"] for e in both) == sorted(f"q{i}" for i in range(16))
    with pytest.raises(ConfigError, match=r"field 'cot' needs form=original"):
        make_task({"name": "strategyqa", "form": "softcot", "cot": True})


def test_strategyqa_errors(tmp_path: Path, hub: dict[Any, Any]) -> None:
    write(tmp_path / "dev.json", [strategy_row(1, "yes")])
    with pytest.raises(DataError, match=r"item 0: field 'answer' must be true or false, got 'yes'"):
        make_task({"name": "strategyqa", "root": str(tmp_path)}).examples("test")
    row = strategy_row(1)
    del row["facts"]
    write(tmp_path / "dev.json", [row])
    with pytest.raises(DataError, match=r"item 0: field 'facts' is missing; set steps=none"):
        make_task({"name": "strategyqa", "root": str(tmp_path)}).examples("test")
    with pytest.raises(ConfigError, match=r"field 'cot' needs form=original"):
        make_task({"name": "strategyqa", "form": "bigbench", "cot": True})
    with pytest.raises(
        DataError, match=r"hub 'zen-E/StrategyQA_CoT_GPT4o' could not be loaded .*; set cot=false, or load it once"
    ):
        make_task({"name": "strategyqa", "root": str(tmp_path), "steps": "none", "cot": True}).examples("train")
    with pytest.raises(DataError, match=r"task 'strategyqa' has no data: root and hub are not set; either set root=FOLDER"):
        make_task("strategyqa").examples("test")


def test_strategyqa_with_rationales(tmp_path: Path, hub: dict[Any, Any]) -> None:
    write(tmp_path / "dev.json", [strategy_row(3, True)])
    rows = [{"question": f"Is {i} odd?", "cot": "I halve it. It is not whole.", "answer": i % 2 == 1} for i in range(30)]
    rows[4]["answer"], rows[5]["answer"] = "False", "True"
    hub["zen-E/StrategyQA_CoT_GPT4o", None] = {"train": rows}
    task = make_task({"name": "strategyqa", "root": str(tmp_path), "cot": True, "validation_fraction": 0.2})
    both = [*task.examples("train"), *task.examples("validation")]
    assert len(both) == 29, "the question that is in dev is dropped"
    assert {e.question: e.answer for e in both} == {f"Is {i} odd?": "yes" if i % 2 else "no" for i in range(30) if i != 3}
    assert both[0].steps == ("I halve it.", "It is not whole.")
    assert task.examples("test")[0].steps == ("One is odd.", "Two is not.")


def test_strategyqa_counts(shared_data: Path) -> None:
    root = str(shared_data / "strategyqa")
    task: Any = make_task({"name": "strategyqa", "root": root})
    train, validation, test = (task.examples(split) for split in SPLITS)
    assert (len(train) + len(validation), len(test)) == (2061, 229)
    assert Counter(e.answer for e in (*train, *validation)) == {"yes": 964, "no": 1097}
    assert Counter(e.answer for e in test) == {"yes": 107, "no": 122}
    assert test[0].steps == ("Albany, GA has around 75,000 people", "Albany, NY has almost 100,000 people")
    bigbench = make_task({"name": "strategyqa", "root": root, "form": "bigbench"}).examples("test")
    assert len(bigbench) == 2290
    by_question = {e.question.lower(): e.answer for e in (*train, *validation, *test)}
    assert all(by_question[e.question.lower()] == e.answer for e in bigbench), "why it must not be trained on"


# Date Understanding


def test_date_understanding_of_softcot(tmp_path: Path) -> None:
    rows = [{"question": "When?\nOptions:\n(A) 02/23/2021\n(B) 05/01/2021", "answer": told} for told in ("B", "#### B")]
    write(tmp_path / "date_understanding_gsm_style.json", [rows[0], rows[1] | {"question": rows[1]["question"] + " "}])
    fields = {"name": "date_understanding", "root": str(tmp_path), "source": "softcot", "form": "options"}
    task = make_task(fields)
    assert [e.answer for e in task.examples("test")] == ["B", "B"]
    assert task.score(task.examples("test")[0], "#### 05/01/2021").flexible
    write(tmp_path / "date_understanding_gsm_style.json", [rows[0] | {"answer": "C"}])
    with pytest.raises(DataError, match=r"item 0: field 'answer' must be the letter of an option in the question, got 'C'"):
        make_task(fields).examples("test")
    with pytest.raises(ConfigError, match="set form=options"):
        make_task({**fields, "form": "date"})


def test_date_understanding(tmp_path: Path) -> None:
    text = "Yesterday was April 30, 2021. What is the date today in MM/DD/YYYY?"
    write(tmp_path / "date_understanding.json", {"examples": [{"input": text, "target_scores": SCORES}]})
    bbh = f"{text}\nOptions:\n(A) 02/23/2021\n(B) 05/01/2021"
    write(tmp_path / "bbh_date_understanding.json", {"examples": [{"input": bbh, "target": "(B)"}]})

    def one(**fields: Any) -> Any:
        task = make_task({"name": "date_understanding", "root": str(tmp_path), **fields})
        return task, *task.examples("test")

    for source in ("bigbench", "bbh"):
        task, example = one(source=source)
        assert (example.question, example.answer, example.steps) == (text, "05/01/2021", ())
        assert task.score(example, "#### 5/1/2021").strict
        assert task.score(example, "It is May 1st, 2021.").flexible
    task, example = one(source="bbh", form="options")
    assert (example.question, example.answer) == (bbh, "B")
    assert task.score(example, "The answer is: (B)").strict
    assert task.score(example, "The answer is May 1, 2021").flexible
    assert not task.score(example, "05/01/2022").flexible
    task, example = one(form="options")
    options = options_of(example.question)
    assert (set(options.values()), options[example.answer]) == (set(SCORES), "05/01/2021")
    for split in ("train", "validation"):
        with pytest.raises(DataError, match=rf"no {split} split; it has: test; BIG-bench's files are for evaluation only"):
            task.examples(split)
    write(tmp_path / "date_understanding.json", {"examples": [{"input": text, "target_scores": {"a": 1, "b": 1}}]})
    with pytest.raises(DataError, match=r"item 0: field 'target_scores' must give 1 to one option"):
        one()
    write(tmp_path / "date_understanding.json", {"examples": [{"input": text, "target_scores": {"a": 1, "b": 0}}]})
    with pytest.raises(DataError, match=r"item 0: the right option must be a date MM/DD/YYYY, got 'a'"):
        one()


def test_the_order_of_options_knows_nothing_of_the_answer(tmp_path: Path) -> None:
    asked = []
    for right in SCORES:
        scores = {option: int(option == right) for option in sorted(SCORES, key=lambda option: option != right)}
        write(tmp_path / "date_understanding.json", {"examples": [{"input": "When?", "target_scores": scores}]})
        (example,) = make_task({"name": "date_understanding", "root": str(tmp_path), "form": "options"}).examples("test")
        asked.append(example.question)
        assert options_of(example.question)[example.answer] == right
    assert len(set(asked)) == 1


def test_date_understanding_counts(shared_data: Path) -> None:
    def rows(**fields: Any) -> Sequence[Any]:
        return make_task({"name": "date_understanding", "root": str(shared_data / "date_understanding"), **fields}).examples(
            "test"
        )

    bigbench, bbh = rows(), rows(source="bbh")
    assert (len(bigbench), len(bbh)) == (369, 250)
    answers = {e.question: e.answer for e in bigbench}
    assert all(answers[e.question] == e.answer for e in bbh), "BBH's rows are among BIG-bench's"
    letters = Counter(e.answer for e in rows(form="options"))
    assert max(letters.values()) < 369 * 0.25, "in the file the first option is right in 364 of 369"
    assert set(letters) == set("ABCDEF")
