"""Arithmetic as steps: true steps or none."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.tasks.reading.equations import equality_steps, infix_steps, plain_number, prefix_steps


@pytest.mark.parametrize(
    ("expression", "answer", "steps"),
    [
        ("( 76.0 - 25.0 )", "51", ("<<76-25=51>>",)),
        ("( ( 7.0 + 12.0 ) - 15.0 )", "4", ("<<7+12=19>>", "<<19-15=4>>")),
        ("1-2-3", "-4", ("<<1-2=-1>>", "<<-1-3=-4>>")),
        ("8/4/2", "1", ("<<8/4=2>>", "<<2/2=1>>")),
        ("2+3*4-1", "13", ("<<3*4=12>>", "<<2+12=14>>", "<<14-1=13>>")),
        ("2*(3+4)", "14", ("<<3+4=7>>", "<<2*7=14>>")),
        ("1/4+.5", "0.75", ("<<1/4=0.25>>", "<<0.25+0.5=0.75>>")),
        ("1/3", "0.333333", ()),  # no exact decimal
        ("1/3*3", "1", ()),
        ("1/0", "0", ()),
        ("7+2", "8", ()),  # not the answer
        ("9", "9", ()),  # nothing to work out
        ("(2+3", "5", ()),
        ("2+3)", "5", ()),
        ("2+", "2", ()),
        ("+", "0", ()),
        ("", "0", ()),
        ("LCM[8,9]", "72", ()),
        ("19*60 (min)", "1140", ()),
        ("2**3", "8", ()),
        ("x+1", "2", ()),
    ],
)
def test_infix(expression: str, answer: str, steps: tuple[str, ...]) -> None:
    assert infix_steps(expression, answer) == steps


@pytest.mark.parametrize(
    ("expression", "answer", "steps"),
    [
        ("* number0 number1", "84", ("<<7*12=84>>",)),
        ("- + number0 number1 number2", "4", ("<<7+12=19>>", "<<19-15=4>>")),
        ("- number1 / number2 3", "7", ("<<15/3=5>>", "<<12-5=7>>")),
        ("+ number0", "7", ()),
        ("number0 number1", "7", ()),
        ("+ number0 number9", "7", ()),
        ("? number0 number1", "7", ()),
        ("", "7", ()),
    ],
)
def test_prefix(expression: str, answer: str, steps: tuple[str, ...]) -> None:
    assert prefix_steps(expression, ["7.0", "12.0", "15.0"], answer) == steps


@pytest.mark.parametrize(
    ("formula", "answer", "steps"),
    [
        ("7+2=9", "9", ("<<7+2=9>>",)),
        ("7+2=9; 9-1=8", "8", ("<<7+2=9>>", "<<9-1=8>>")),
        ("7+2=9; 9-1=8", "9", ()),
        ("7+2=10", "10", ()),
        ("42/12=3 r6", "6", ()),
        ("9:5=72:40", "40", ()),
        ("x=3", "3", ()),
        ("4, 8, 16", "16", ()),
    ],
)
def test_equalities(formula: str, answer: str, steps: tuple[str, ...]) -> None:
    assert equality_steps(formula, answer) == steps


def test_plain_numbers() -> None:
    assert [plain_number(n) for n in (51.0, "504.0", 5.158e-07, -9867630.0, -0.0, 3)] == [
        "51",
        "504",
        "0.0000005158",
        "-9867630",
        "0",
        "3",
    ]
    assert plain_number(9284017268534.4) == "9284017268534.4"
    for bad in ("x", "nan", "inf", ""):
        with pytest.raises(ValueError, match="not a "):
            plain_number(bad)


expressions = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=6,
)


@given(expressions, st.integers(-100, 100).map(str))
def test_every_step_is_true_and_the_last_is_the_answer(expression: str, guess: str) -> None:
    try:
        value = eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction})
    except ZeroDivisionError:
        assert infix_steps(expression, guess) == ()
        return
    answer = str(value.numerator) if value.denominator == 1 else guess
    steps = infix_steps(expression, answer)
    for step in steps:
        found = re.fullmatch(r"<<(-?[\d.]+)([-+*/])(-?[\d.]+)=(-?[\d.]+)>>", step)
        assert found is not None
        left, sign, right, result = found.groups()
        a, b, c = Fraction(left), Fraction(right), Fraction(result)
        assert c == {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]
    if steps:
        assert Fraction(steps[-1].removesuffix(">>").split("=")[1]) == value == Fraction(answer)
        assert len(steps) == sum(c in "+-*/" for c in expression)
