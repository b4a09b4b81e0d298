"""ProsQA: the files, the generator against them, and every generated problem against an independent solver.

Tolerances of the comparison with the 800 published rows are about three standard errors of those rows' own statistics.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import islice, pairwise
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest

from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks import SPLITS, make_task
from unspoken.tasks.generated.logic import ProsQa, ProsQaConfig, world_key
from unspoken.tasks.generated.prosqa_graphs import CONCEPTS, NAMES, GraphProblem, problems

ASK = re.compile(r" Is (\w+) a (\w+) or (\w+)\?$")


@pytest.fixture(scope="module")
def generated() -> list[GraphProblem]:
    return list(islice(problems("statistics"), 3000))


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[GraphProblem]:
    folder = shared_data / "prosqa"
    return [row for name in ("valid", "test") for row in json.loads((folder / f"prosqa_{name}.json").read_text())]


# An independent solver: the text alone, and closure instead of a search


def told(question: str) -> tuple[list[str], set[tuple[str, str]], tuple[str, str, str]]:
    """The sentences of a question, who is what, and what is asked."""
    asked = ASK.search(question)
    assert asked, question
    sentences = re.findall(r"[^.]+\.", question[: asked.start()])
    facts = set()
    for sentence in sentences:
        fact = re.fullmatch(r"\s?(?:Every )?(\w+) is a (\w+)\.", sentence)
        assert fact, sentence
        facts.add((fact[1], fact[2]))
    return [sentence.strip() for sentence in sentences], facts, (asked[1], asked[2], asked[3])


def distances(facts: set[tuple[str, str]], start: str) -> dict[str, int]:
    """Everything that `start` is, with the fewest steps: the set grows by one step until it no longer does."""
    found = {start: 0}
    while True:
        new = {b for a, b in facts if a in found} - found.keys()
        if not new:
            return found
        found |= dict.fromkeys(new, max(found.values()) + 1)


def check(row: GraphProblem) -> None:
    """A problem is right: wording, graph fields, one option reachable, steps a shortest path made of given sentences."""
    sentences, facts, (person, *options) = told(row["question"])
    assert len(sentences) == len(facts) == len(row["edges"]), "a sentence an edge, none twice"
    symbols = row["idx_to_symbol"]
    assert len(set(symbols)) == len(symbols)
    assert facts == {(symbols[a], symbols[b]) for a, b in row["edges"]}
    assert {symbol for fact in facts for symbol in fact} == set(symbols), "no node without an edge"
    for sentence in sentences:
        assert sentence.startswith("Every ") == (sentence.split()[1] in CONCEPTS)
    known = distances(facts, person)
    assert [option in known for option in options].count(True) == 1, "one of the two, and only one"
    right, wrong = sorted(options, key=lambda option: option not in known)
    assert row["answer"] == f"{person} is a {right}."
    assert symbols[row["root"]] == person
    assert row["root"] in (0, 1)
    assert (symbols[row["target"]], symbols[row["neg_target"]]) == (right, wrong)
    assert wrong in distances(facts, symbols[1 - row["root"]]), "the other person is what is wrong here"
    assert right not in distances(facts, symbols[1 - row["root"]])
    assert not {right, wrong} & {a for a, _ in facts}, "both are ends"
    steps = row["steps"]
    assert len(steps) == known[right]
    assert set(steps) <= set(sentences)
    chain = [found.groups() for step in steps if (found := re.fullmatch(r"(?:Every )?(\w+) is a (\w+)\.", step))]
    assert len(chain) == len(steps)
    assert (chain[0][0], chain[-1][1]) == (person, right)
    assert all(a[1] == b[0] for a, b in pairwise(chain))


def test_every_generated_problem_is_right(generated: list[GraphProblem]) -> None:
    for row in generated:
        check(row)
    assert {symbol for row in generated for symbol in row["idx_to_symbol"]} == {*NAMES, *CONCEPTS}


@pytest.mark.parametrize("nodes", [8, 12, 20])
def test_smaller_graphs_are_right_too(nodes: int) -> None:
    rows = list(islice(problems("small", max_steps=4, nodes=nodes), 500))
    for row in rows:
        check(row)
        assert len(row["idx_to_symbol"]) <= nodes
        assert 3 <= len(row["steps"]) <= 4
    assert max(len(row["idx_to_symbol"]) for row in rows) == nodes


def test_the_usual_size_draws_the_usual_rows(generated: list[GraphProblem]) -> None:
    assert list(islice(problems("statistics", nodes=28), 20)) == generated[:20]
    assert generated[0]["answer"] == "Eva is a lempus.", "rows of the same seed stay the same"
    config = ProsQaConfig(source="generated", nodes=12, train_size=4, validation_size=2, test_size=2)
    assert all(len(example.question.split(".")) < 20 for example in make_task(config).examples("train"))
    for nodes in (7, 29):
        with pytest.raises(ConfigError, match="nodes must be 8 to 28"):
            ProsQaConfig(nodes=nodes)


def test_the_solver_agrees_with_the_files(published: list[GraphProblem]) -> None:
    assert len(published) == 800
    for row in published:
        check(row)


# Statistics


def statistics(rows: list[GraphProblem]) -> dict[str, Any]:
    """Numbers per row, and shares of counted things."""
    numbers: dict[str, list[float]] = defaultdict(list)
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    for row in rows:
        _, facts, (_, first, _) = told(row["question"])
        symbols, edges = row["idx_to_symbol"], row["edges"]
        parents, children = Counter(b for _, b in edges), Counter(a for a, _ in edges)
        reach = [distances(facts, symbols[i]) for i in (row["root"], 1 - row["root"])]
        numbers["nodes"].append(len(symbols))
        numbers["edges"].append(len(edges))
        numbers["characters"].append(len(row["question"]))
        numbers["sinks"].append(sum(not children[i] for i in range(len(symbols))))
        numbers["right option's place"].append(row["target"] / len(symbols))
        numbers["wrong option's place"].append(row["neg_target"] / len(symbols))
        for name, share in (
            ("reached by the asked", [s in reach[0] for s in symbols]),
            ("reached by the other", [s in reach[1] for s in symbols]),
            ("reached by both", [s in reach[0] and s in reach[1] for s in symbols]),
            ("reached by none", [s not in reach[0] and s not in reach[1] for s in symbols]),
        ):
            numbers[name].append(mean(share))
        counts["steps"][len(row["steps"])] += 1
        counts["persons"][sum(not parents[i] for i in range(len(symbols)))] += 1
        counts["root"][row["root"]] += 1
        counts["right option first"][first == symbols[row["target"]]] += 1
        counts["steps to the wrong option"][reach[1][symbols[row["neg_target"]]]] += 1
        counts["parents"].update(parents[i] for i in range(2, len(symbols)))
        counts["children"].update(children[i] for i in range(len(symbols)))
        counts["persons' names"].update(s for s in symbols if s[0].isupper())
    return {"numbers": numbers, "counts": counts}


def shares_differ(a: Counter[Any], b: Counter[Any]) -> float:
    """Total variation distance: the share that would have to move."""
    return sum(abs(a[key] / a.total() - b[key] / b.total()) for key in a.keys() | b.keys()) / 2


def test_generated_problems_have_the_statistics_of_the_files(
    generated: list[GraphProblem], published: list[GraphProblem]
) -> None:
    made, real = statistics(generated), statistics(published)
    for name, values in real["numbers"].items():
        tolerance = 3.5 * pstdev(values) / len(values) ** 0.5
        assert mean(made["numbers"][name]) == pytest.approx(mean(values), abs=tolerance), name
        assert pstdev(made["numbers"][name]) == pytest.approx(pstdev(values), rel=0.15), name
    for name, tolerance in (
        ("steps", 0.05),
        ("persons", 0.06),
        ("root", 0.05),
        ("right option first", 0.05),
        ("steps to the wrong option", 0.05),
        ("parents", 0.02),
        ("children", 0.02),
        ("persons' names", 0.06),
    ):
        assert shares_differ(made["counts"][name], real["counts"][name]) < tolerance, name
    assert {s for row in generated for s in row["idx_to_symbol"]} == {s for row in published for s in row["idx_to_symbol"]}
    assert set(generated[0]) == set(published[0])


def test_sentences_are_told_in_random_order(generated: list[GraphProblem]) -> None:
    """The steps must not stand early, late or in order; options stand either way."""
    places, in_order, pairs = [], 0, 0
    for row in generated:
        sentences, _, _ = told(row["question"])
        at = [sentences.index(step) for step in row["steps"]]
        places += [place / (len(sentences) - 1) for place in at]
        in_order += sum(a < b for a, b in pairwise(at))
        pairs += len(at) - 1
    assert mean(places) == pytest.approx(0.5, abs=0.02)
    assert in_order / pairs == pytest.approx(0.5, abs=0.02)


# The task


def config(folder: Path, **fields: Any) -> ProsQa:
    return ProsQa(ProsQaConfig(root=str(folder), **{"train_size": 50, **fields}))


def write(folder: Path, **rows: Any) -> Path:
    for name, content in rows.items():
        (folder / f"prosqa_{name}.json").write_text(json.dumps(content))
    return folder


def test_published_problems_are_never_generated(tmp_path: Path, generated: list[GraphProblem]) -> None:
    alone = ProsQa(ProsQaConfig(source="generated", train_size=50, validation_size=1, test_size=1)).examples("train")
    stolen = {"question": alone[7].question, "steps": [], "answer": "x"}
    asked = ASK.search(alone[7].question)
    assert asked is not None
    head, ask = alone[7].question[: asked.start()], asked[0]
    sentences = head.split(". ")
    stolen["question"] = ". ".join([*(s.rstrip(".") for s in reversed(sentences))]) + "." + ask
    write(tmp_path, valid=[generated[0]], test=[stolen, generated[1]])
    beside = config(tmp_path).examples("train")
    assert len(beside) == 50
    assert world_key(stolen["question"]) == world_key(alone[7].question)
    assert [e.question for e in beside[:49]] == [e.question for i, e in enumerate(alone) if i != 7], "order does not hide it"


def test_a_train_file_goes_before_the_generator(tmp_path: Path, generated: list[GraphProblem]) -> None:
    write(tmp_path, train=generated[:3], valid=generated[3:5], test=[*generated[5:7], generated[0]])
    task = config(tmp_path)
    assert [len(task.examples(split)) for split in SPLITS] == [2, 2, 3]
    assert task.dropped["train"] == 1
    example = task.examples("validation")[0]
    assert (example.question, list(example.steps)) == (generated[3]["question"], generated[3]["steps"])
    assert example.meta["edges"] == generated[3]["edges"]
    assert len(config(tmp_path, train="generated").examples("train")) == 50


def test_without_files(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"task 'prosqa' has no data: root is not set; .*; or set source=generated to make every"
    ):
        make_task("prosqa").examples("train")
    with pytest.raises(DataError, match=r"no test file for task 'prosqa'; expected prosqa_test\.json"):
        config(tmp_path).examples("test")
    sizes = {"train_size": 60, "validation_size": 20, "test_size": 30}
    task = make_task({"name": "prosqa", "source": "generated", **sizes})
    worlds = [{world_key(e.question) for e in task.examples(split)} for split in SPLITS]
    assert [len(world) for world in worlds] == [60, 20, 30]
    assert len(set.union(*worlds)) == 110
    for seed in (1, 2):
        other = make_task({"name": "prosqa", "source": "generated", "seed": seed, **sizes})
        assert other.fingerprint("train") != task.fingerprint("train")
        assert not {world_key(e.question) for e in other.examples("train")} & (worlds[1] | worlds[2])
    with pytest.raises(ConfigError, match=r"prosqa: train_size must be 1 or more, got 0"):
        make_task({"name": "prosqa", "train_size": 0})


def test_graph_4(shared_data: Path) -> None:
    task = config(shared_data / "prosqa", graph_4=True)
    assert [len(task.examples(split)) for split in SPLITS] == [50, 257, 419]
    assert {len(e.steps) for split in SPLITS for e in task.examples(split)} == {3, 4}
    assert "neighbor_k" in task.examples("test")[0].meta


def test_counts(shared_data: Path) -> None:
    task = ProsQa(ProsQaConfig(root=str(shared_data / "prosqa"), limit_train=5, train_size=100))
    assert [len(task.examples(split)) for split in SPLITS] == [5, 300, 500]
    test = task.examples("test")
    assert Counter(len(e.steps) for e in test) == {3: 202, 4: 217, 5: 69, 6: 12}
    assert (test[0].question[-30:], test[0].answer) == (" Is Sally a hilpus or sterpus?", "Sally is a sterpus.")
    assert test[0].steps == ("Sally is a scrompus.", "Every scrompus is a rempus.", "Every rempus is a sterpus.")


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "extracted"),
    [
        ("### Sally is a sterpus.", True, True, "sterpus"),
        ("The answer is: sally is an Sterpus", True, True, "sterpus"),
        ("#### sterpus", False, True, "sterpus"),
        ("Sally is a scrompus.\nEvery rempus is a sterpus.", False, True, "sterpus"),
        ("Sally is a sterpus, not a hilpus.", False, True, "sterpus"),
        ("### Sally is not a sterpus.", False, False, None),
        ("### Sally is a hilpus.", False, False, "hilpus"),
        ("### Sally is a hilpus.\nno: a sterpus", False, False, "hilpus"),
        ("### Bob is a sterpus.", False, True, "sterpus"),
        ("### Sally is a rempus.\nSally is a sterpus", False, True, "sterpus"),
        ("### Sally is a sterpuses", False, False, None),
        ("", False, False, None),
    ],
)
def test_answers(text: str, strict: bool, flexible: bool, extracted: str | None) -> None:
    question = "Every rempus is a sterpus. Bob is a hilpus. Is Sally a hilpus or sterpus?"
    score = ProsQa(ProsQaConfig()).score(Example(question=question, answer="Sally is a sterpus."), text)
    assert (score.strict, score.flexible) == (strict, flexible)
    assert score.extracted == (extracted and f"Sally is a {extracted}.")
    other = ProsQa(ProsQaConfig()).score(Example(question=question, answer="Sally is a hilpus."), text)
    assert other.extracted == score.extracted


def test_a_question_of_another_form_is_an_error() -> None:
    with pytest.raises(DataError, match=r"must end in 'Is NAME a X or Y\?', got 'What\?'"):
        ProsQa(ProsQaConfig()).score(Example(question="What?", answer="x"), "x")


# Without English


def test_symbols_say_the_same_problems(shared_data: Path) -> None:
    root = str(shared_data / "prosqa")
    told_, bare_ = (ProsQa(ProsQaConfig(root=root, graph_4=True, symbols=s, train_size=20)) for s in (False, True))
    for split in SPLITS:
        for sentences, symbols in zip(told_.examples(split), bare_.examples(split), strict=True):
            _, facts, (person, *options) = told(sentences.question)
            edges, asked = symbols.question.split(" ? ")
            assert {tuple(edge.split()) for edge in edges.removesuffix(" .").split(" . ")} == facts
            assert asked.split() == [person, *options]
            assert [tuple(step.split()) for step in symbols.steps][-1][1] == symbols.answer
            assert f"{person} is a {symbols.answer}." == sentences.answer
            assert len(symbols.steps) == len(sentences.steps)


def test_an_answer_in_symbols_is_one_of_two_words() -> None:
    task = ProsQa(ProsQaConfig(source="generated", symbols=True, train_size=1, validation_size=1, test_size=1))
    example = Example(question="Tom lempus . Bob impus . ? Tom impus lempus", steps=("Tom lempus",), answer="lempus", id="x")
    for text, strict, flexible in (
        ("### lempus", True, True), ("### impus", False, False), ("Tom lempus . ### lempus", True, True),
        ("lempus", False, True), ("### Tom lempus", False, True), ("lempus ### impus", False, False), ("### ", False, False),
        ("", False, False), ("### lempus impus", False, False), ("### gorpus", False, False),
    ):  # fmt: skip
        score = task.score(example, text)
        assert (score.strict, score.flexible) == (strict, flexible), text
