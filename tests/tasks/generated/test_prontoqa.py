"""ProntoQA: the files, the generator against them, and every generated problem against an independent prover."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest

from unspoken.errors import DataError
from unspoken.tasks import SPLITS, make_task
from unspoken.tasks.generated.generated import Problem
from unspoken.tasks.generated.logic import world_key
from unspoken.tasks.generated.prontoqa_worlds import CONCEPTS, NAMES, PROPERTIES, problems

FAMILY = {word: number for number, family in enumerate(PROPERTIES) for word in family}


@pytest.fixture(scope="module")
def generated() -> list[Problem]:
    return list(islice(problems("statistics"), 3000))


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[Problem]:
    folder = shared_data / "prontoqa"
    return [row for name in ("valid", "test") for row in json.loads((folder / f"prontoqa_{name}.json").read_text())]


@dataclass
class World:
    """A question as its text says it. A statement is (subject, whether it is so, what)."""

    sentences: list[str]
    wordings: list[str]
    rules: list[tuple[str, bool, str]]
    facts: list[tuple[str, bool, str]]
    asked: tuple[str, bool, str]
    proof: dict[tuple[bool, str], int] = field(default_factory=dict)


def read(sentence: str) -> tuple[str, tuple[str, bool, str]]:
    """The wording and the statement of a sentence; raises where it is none of the known forms."""
    one = re.fullmatch(r"(Each|Every) (\w+us) is (not )?(?:(an?) (\w+us)|(\w+))\.", sentence)
    if one:
        assert one[4] is None or (one[4] == "an") == (one[5][0] in "aeiou")
        return one[1], (one[2], not one[3], one[5] or one[6])
    many = re.fullmatch(r"([A-Z]\w+us)es are (not )?(\w+)\.", sentence)
    if many:
        what = many[3].removesuffix("es") if many[3].removesuffix("es") in CONCEPTS else many[3]
        return "plural", (many[1].lower(), not many[2], what)
    person = re.fullmatch(r"([A-Z]\w+) is (not )?(?:(an?) (\w+us)|(\w+))\.", sentence)
    assert person, sentence
    assert person[3] is None or (person[3] == "an") == (person[4][0] in "aeiou")
    return "person", (person[1], not person[2], person[4] or person[5])


def world(question: str) -> World:
    """A question taken apart, and all that follows about the person, with the number of rules it takes."""
    told, query = question.split(" True or false: ")
    sentences = [sentence.strip() for sentence in re.findall(r"[^.]+\.", told)]
    read_all = [read(sentence) for sentence in sentences]
    wordings = [wording for wording, _ in read_all]
    assert wordings[-2:] == ["person"] * 2, "the facts stand last"
    assert "person" not in wordings[:-2]
    found = World(sentences, wordings[:-2], [s for _, s in read_all[:-2]], [s for _, s in read_all[-2:]], read(query)[1])
    assert {subject for subject, _, _ in found.facts} == {found.asked[0]}
    found.proof = {(so, what): 0 for _, so, what in found.facts}
    while True:  # forward chaining: apply every rule to all that is known
        new = {
            (so, what): found.proof[True, subject] + 1 for subject, so, what in found.rules if (True, subject) in found.proof
        }
        new = {statement: hops for statement, hops in new.items() if statement not in found.proof}
        if not new:
            return found
        found.proof |= new


def check(row: Problem) -> None:
    """A problem is right: the answer follows, after five rules; nothing contradicts it; the steps are its proof."""
    problem = world(row["question"])
    person, so, what = problem.asked
    assert ((so, what) in problem.proof) != ((not so, what) in problem.proof), "proved or refuted, not both"
    assert row["answer"] == str((so, what) in problem.proof)
    assert not {w for truth, w in problem.proof if truth} & {w for truth, w in problem.proof if not truth}
    true = (so, what) if (so, what) in problem.proof else (not so, what)
    assert problem.proof[true] == 5
    steps = row["steps"]
    assert len(steps) == 6
    at = None
    for step in steps[:-1]:
        is_a, rule = [part.strip() for part in re.findall(r"[^.]+\.", step)]
        assert rule in problem.sentences
        assert read(is_a)[1] == (person, True, read(rule)[1][0])
        if at is None:
            assert is_a in problem.sentences, "the proof starts at a given fact"
        else:
            assert read(is_a)[1][2] == at
        at = read(rule)[1][2]
    assert read(steps[-1])[1] == (person, *true)


def test_every_generated_problem_is_right(generated: list[Problem]) -> None:
    for row in generated:
        check(row)


def test_the_prover_agrees_with_the_files(published: list[Problem]) -> None:
    assert len(published) == 1000
    for row in published:
        check(row)


def shape(row: Problem) -> tuple[Any, ...]:
    """What is the same in every row: how many rules of which kind about which concept, as seen from the proof."""
    problem = world(row["question"])
    chain = [read(step.split(". ")[0] + ".")[1][2] for step in row["steps"][:-1]]
    above: dict[str, list[str]] = defaultdict(list)
    properties: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for subject, so, what in problem.rules:
        if what in CONCEPTS:
            assert so, "no rule says what concept something is not"
            above[subject].append(what)
        else:
            properties[subject].append((so, what))
    asked = problem.asked[2]
    (other,) = {what for _, _, what in problem.facts} - {chain[0]}
    beside = [c for concept in chain for c in above[concept] if c not in chain]
    (opposite,) = [c for c in properties if c != chain[-1] and asked in {what for _, what in properties[c]}]
    assert properties[opposite][0][0] != properties[chain[-1]][0][0], "the same property, the other way round"
    families = [FAMILY[what] for concept, known in properties.items() if concept != opposite for _, what in known]
    assert len(set(families)) == len(families) == 11
    return (
        len(problem.sentences),
        [(len(above[c]), len(properties[c])) for c in chain],
        Counter((len(above[c]), len(properties[c])) for c in beside),
        [(len(above[c]), len(properties[c])) for c in (other, above[other][0], opposite)],
        len({*chain, *beside, other, *above[other], opposite}),
        [len(properties[c]) for c in above[chain[-1]]].count(0),
    )


def test_every_problem_has_the_shape_of_the_files(generated: list[Problem], published: list[Problem]) -> None:
    (first,) = {str(shape(row)) for row in published}
    assert {str(shape(row)) for row in generated} == {first}


def statistics(rows: list[Problem]) -> dict[str, Any]:
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    lengths = []
    for row in rows:
        problem = world(row["question"])
        lengths.append(len(row["question"]))
        counts["answer"][row["answer"]] += 1
        counts["asked with not"][problem.asked[1]] += 1
        counts["name"][problem.asked[0]] += 1
        counts["proof starts at the last sentence"][row["steps"][0].split(". ")[0] + "." == problem.sentences[-1]] += 1
        chain = [read(step.split(". ")[0] + ".")[1][2] for step in row["steps"][:-1]]
        for wording, (subject, so, what) in zip(problem.wordings, problem.rules, strict=True):
            kind = "concept" if what in CONCEPTS else "property"
            counts[f"wording of a {kind}"][wording] += 1
            counts["concept"][subject] += 1
            if kind == "property":
                counts["property"][what] += 1
                place = "the last of the chain" if subject == chain[-1] else "the chain" if subject in chain else "the rest"
                counts[f"not, on {place}"][so] += 1
    return {"lengths": lengths, "counts": counts}


def shares_differ(a: Counter[Any], b: Counter[Any]) -> float:
    """Total variation distance: the share that would have to move."""
    return sum(abs(a[key] / a.total() - b[key] / b.total()) for key in a.keys() | b.keys()) / 2


def test_generated_problems_have_the_statistics_of_the_files(generated: list[Problem], published: list[Problem]) -> None:
    made, real = statistics(generated), statistics(published)
    assert mean(made["lengths"]) == pytest.approx(mean(real["lengths"]), abs=2)
    assert pstdev(made["lengths"]) == pytest.approx(pstdev(real["lengths"]), rel=0.1)
    tolerances = {
        "name": 0.08,
        "concept": 0.03,
        "property": 0.04,
        "wording of a concept": 0.02,
        "wording of a property": 0.02,
    }
    tolerances |= {"not, on the chain": 0.03, "not, on the rest": 0.03}
    assert set(made["counts"]) == set(real["counts"])
    for name, counts in real["counts"].items():
        assert shares_differ(made["counts"][name], counts) < tolerances.get(name, 0.05), name
        assert set(made["counts"][name]) == set(counts), name


def test_pools(published: list[Problem]) -> None:
    text = " ".join(row["question"] for row in published)
    words = set(re.findall(r"\w+", text))
    assert set(NAMES) == {word for word in words if word.istitle() and f"{word} is " in text and not word.endswith("us")} - {
        "Each",
        "Every",
    }
    assert {word for family in PROPERTIES for word in family} <= words
    assert set(CONCEPTS) <= {word.lower() for word in words}


def test_rules_are_told_in_random_order(generated: list[Problem]) -> None:
    places = []
    for row in generated:
        sentences = world(row["question"]).sentences
        at = [sentences.index(step.split(". ")[1]) for step in row["steps"][:-1]]
        places += [place / 22 for place in at]
    assert mean(places) == pytest.approx(0.5, abs=0.02)


def test_the_task(shared_data: Path, tmp_path: Path, generated: list[Problem]) -> None:
    task = make_task({"name": "prontoqa", "root": str(shared_data / "prontoqa"), "train_size": 400})
    assert [len(task.examples(split)) for split in SPLITS] == [400, 200, 800]
    assert Counter(e.answer for e in task.examples("validation")) == {"True": 89, "False": 111}
    assert Counter(e.answer for e in task.examples("test")) == {"True": 397, "False": 403}
    first = task.examples("test")[0]
    assert (first.steps[0], first.steps[5]) == ("Stella is a zumpus. Zumpuses are gorpuses.", "Stella is floral.")
    assert task.score(first, "### False").strict
    assert task.score(first, "Stella is floral. So it is not true.").flexible
    assert task.score(first, "### True").extracted == "True"
    taken = {world_key(e.question) for split in ("validation", "test") for e in task.examples(split)}
    assert not taken & {world_key(e.question) for e in task.examples("train")}

    alone = make_task({"name": "prontoqa", "source": "generated", "train_size": 30, "validation_size": 10, "test_size": 10})
    worlds = [{world_key(e.question) for e in alone.examples(split)} for split in SPLITS]
    assert len(set.union(*worlds)) == 50
    stolen = alone.examples("train")[4].question
    asked = re.sub(r"is (not )?(\w+)\.$", lambda m: f"is {'' if m[1] else 'not '}{m[2]}.", stolen)
    assert asked != stolen
    (tmp_path / "prontoqa_valid.json").write_text(json.dumps(generated[:1]))
    (tmp_path / "prontoqa_test.json").write_text(json.dumps([{"question": asked, "steps": [], "answer": "True"}]))
    beside = make_task({"name": "prontoqa", "root": str(tmp_path), "train_size": 29}).examples("train")
    kept = [e.question for i, e in enumerate(alone.examples("train")) if i != 4]
    assert [e.question for e in beside] == kept, "the world of a test row, asked the other way"
    with pytest.raises(DataError, match=r"task 'prontoqa' has no data: root is not set; .* set source=generated"):
        make_task("prontoqa").examples("test")
