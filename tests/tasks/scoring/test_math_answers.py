"""MATH's answers: boxes, LaTeX spellings of one value, and the first answer of a text that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.text.example import Example
from unspoken.tasks import make_task
from unspoken.tasks.scoring.extractors import judge
from unspoken.tasks.scoring.math_answers import equal_math, first_answer, normal_math, score_math


def asked(answer: str) -> Example:
    return Example(question="?", answer=answer, id="test-0")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\tfrac12", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"-\frac{3}4", r"-\frac{3}{4}"),
        ("3/4", r"\frac{3}{4}"),
        ("0.5", ".5"),
        ("0.5", r"\frac{1}{2}"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"2\sqrt3", r"2\sqrt{3}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"10\!,000", "10,000"),
        (r"1{,}000", "1000"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        ("90°", "90"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\text{even}", "Even"),
        (r"\mathrm{B}", "B"),
        (r"\text{(C)}", "C"),
        (r"12\text{ inches}", "12"),
        (r"12\,\text{cm}^2", "12"),
        (r"5\ \mathrm{m}", "5"),
        ("12 square units", "12"),
        ("x=5", "5"),
        ("$x = 5$.", "5"),
        ("y_1 = 2x+1", "2x+1"),
        (r"\$32,\!000", "32000"),
        (r"15\%", "15"),
        ("18.", "18"),
        ("$18$.", "18"),
        (r"\(18\)", "18"),
        ("18.0", "18"),
        (r"x \leq 3", r"x\le 3"),
        ("π", r"\pi"),
    ],
)
def test_spellings_of_one_answer(a: str, b: str):
    assert equal_math(a, b)
    assert equal_math(b, a)
    assert normal_math(normal_math(a)) == normal_math(a)


@pytest.mark.parametrize(
    ("a", "b"),
    [("5x", "5"), ("a", "A"), (r"\frac{1}{2}", r"\frac{2}{1}"), ("(1,2)", "(2,1)"), ("1,2", "12"), ("", "0"), (None, "0"),
     ("x+1", "1"), (r"\sqrt{2}", "2"), ("-5", "5"), ("x=5", "x=6"), (r"\frac{3}{4}", "0.75")],
)  # fmt: skip
def test_different_answers(a: str | None, b: str):
    assert not equal_math(a, b)


@pytest.mark.parametrize(
    ("text", "answer", "strict", "flexible"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\dfrac12", True, True),
        (r"\boxed{3} is wrong, so \boxed{\left(3, \frac{\pi}{2}\right)}", r"(3,\frac{\pi}{2})", True, True),
        (r"\boxed{\text{even}}<|eot_id|>", "even", True, True),
        (r"\boxed{5}" + "\n#### 6", "6", True, True),
        ("#### 6\nno, \\boxed{5}", "5", True, True),
        (r"#### \boxed{5}", "5", True, True),
        (r"### x = \frac12", r"\frac{1}{2}", True, True),
        (r"The answer is $\frac12$.", "1/2", False, True),
        ("it is 12", "12", False, True),
        ("### 12 (since 3*4)", "12", False, True),
        (r"\boxed{12", "12", False, True),  # cut off inside the box
        (r"\boxed{13}", "12", False, False),
        ("", "12", False, False),
    ],
)
def test_score(text: str, answer: str, strict: bool, flexible: bool):
    score = score_math(asked(answer), text)
    assert (score.strict, score.flexible) == (strict, flexible)


@given(st.text(), st.text())
def test_nothing_raises(a: str, b: str):
    for text in (a, f"\\boxed{{{a}}}", f"#### {a}\n\\boxed{{{b}"):
        score = score_math(asked(f"a{b}"), text)
        assert score.flexible or not score.strict
        first_answer(text)


def test_the_reference_solutions_score_themselves(shared_data: Path, tmp_path: Path):
    """MATH's own solutions by the rule of the task that reads them: all of them are right."""
    source = shared_data / "math" / "test.jsonl"
    task = make_task({"name": "files", "test": str(source), "style": "math", "steps": "latex"})
    solutions = [json.loads(line)["solution"] for line in source.read_text(encoding="utf-8").splitlines()]
    wrong = [
        (example.answer, solution[-60:])
        for example, solution in zip(task.examples("test"), solutions, strict=True)
        if not task.score(example, solution).strict
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "mark", "first"),
    [
        ("### 5\nQ: next?\n### 6", None, "### 5"),
        ("#### 5 #### 6", None, "#### 5 "),
        ("so 4\n#### 5<|eot_id|>### 6", None, "so 4\n#### 5"),
        ("The answer is: 5\n### 6", None, "The answer is: 5"),
        ("The answer is: 5\n### 6\n### 7", "###", "The answer is: 5\n### 6"),
        (r"\boxed{\frac{1}{2}} and \boxed{3}", None, r"\boxed{\frac{1}{2}}"),
        ("no mark", None, "no mark"),
        ("", None, ""),
    ],
)
def test_first_answer(text: str, mark: str | None, first: str):
    assert first_answer(text, mark) == first


def test_the_rule_first():
    """A model that does not stop: its first answer is right, its last is to a question of its own."""
    text = "<<2+3=5>>\n### 5\nQ: Ann has 6.\n### 6"
    assert judge("first", asked("5"), text).right
    assert judge("first", asked("5"), text).extracted == "5"
    assert not judge("strict", asked("5"), text).right
    assert not judge("first", asked("6"), text).right
