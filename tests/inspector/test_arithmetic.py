"""What steps say, and what they give when they are carried out."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.inspector.arithmetic import carried_on, chain, equations, numbers, same, work_out


@pytest.mark.parametrize(
    ("step", "left", "operands", "operators", "result"),
    [
        ("<<7+5=12>>", "7+5", ("7", "5"), ("+",), "12"),
        ("<< 7 + 5 = 12 >>", "7 + 5", ("7", "5"), ("+",), "12"),
        ("so 3 x 4 = 12 pens", "3*4", ("3", "4"), ("*",), "12"),
        ("He has 16 − 3 − 4 = 9 eggs.", "16 - 3 - 4", ("16", "3", "4"), ("-", "-"), "9"),
        ("$1,200 * 2 = $2,400", "1200 * 2", ("1200", "2"), ("*",), "2400"),
        ("<<24%10=4>>", "24%10", ("24", "10"), ("%",), "4"),
        ("<<20*.01*100=20.0>>", "20*.01*100", ("20", "0.01", "100"), ("*", "*"), "20"),
        ("<<5*-2=-10>>", "5*-2", ("5", "2"), ("*",), "-10"),
        ("<<(7+5)*2=24>>", "(7+5)*2", ("7", "5", "2"), ("+", "*"), "24"),
    ],
)
def test_equations(step: str, left: str, operands: tuple[str, ...], operators: tuple[str, ...], result: str) -> None:
    (found,) = equations(step)
    assert (found.left, found.operands, found.operators, found.result) == (left, operands, operators, result)


@pytest.mark.parametrize(
    "step", ["", "she then buys 4", "a = 3 = 3", "x + y = 3", "<<100*20%=20>>", "every lempus is a yumpus"]
)
def test_what_is_no_equation(step: str) -> None:
    assert equations(step) == ()


def test_several_equations_in_one_step() -> None:
    assert [e.result for e in equations("<<3+4=7>>\n<<7*2=14>>")] == ["7", "14"]


def test_numbers_of_a_text() -> None:
    assert numbers("She has 1,200 figs, 3.50 and 4.") == ("1200", "3.5", "4")


@pytest.mark.parametrize(
    ("left", "value"),
    [
        ("7+5", Fraction(12)),
        ("2+3*4", Fraction(14)),
        ("(2+3)*4", Fraction(20)),
        ("10/4", Fraction(5, 2)),
        ("0.1*3", Fraction(3, 10)),
        ("24%10", Fraction(4)),
        ("007+1", Fraction(8)),
        ("-3+5", Fraction(2)),
    ],
)
def test_work_out(left: str, value: Fraction) -> None:
    assert work_out(left) == value


@pytest.mark.parametrize("left", ["1/0", "5%0", "2**9", "a+1", "__import__('os')", "3 4", "(1+2", "", "9" * 300, "1.2.3"])
def test_what_cannot_be_worked_out(left: str) -> None:
    assert work_out(left) is None


@given(st.integers(0, 999), st.integers(0, 999), st.integers(1, 99))
def test_work_out_is_python(a: int, b: int, c: int) -> None:
    assert work_out(f"({a}+{b})*{c}%{c + 7}-{b}/{c}") == Fraction((a + b) * c % (c + 7)) - Fraction(b, c)


def test_a_rounded_result_is_the_same() -> None:
    assert same(Fraction(10, 3), "3.33")
    assert same(Fraction(10, 3), "3.34")  # less than one in the last place
    assert not same(Fraction(10, 3), "3.35")
    assert not same(Fraction(10, 3), "3")
    assert not same(None, "3")
    assert not same(Fraction(3), "three")


def test_a_chain_is_carried_out_and_not_believed() -> None:
    """A wrong result does not pass: what stands for it is what the step gives."""
    done = chain(["<<7+5=13>>", "<<13*2=24>>", "<<24%10=4>>"])
    assert (done.equations, done.holds, done.linked, done.value) == (3, 1, 2, Fraction(4))
    right = chain(["<<7+5=12>>", "<<12*2=24>>"])
    assert (right.holds, right.linked, right.value) == (2, 1, Fraction(24))
    assert chain(["<<7+5=12>>", "<<3*2=6>>"]).linked == 0


def test_a_chain_that_breaks_has_no_value() -> None:
    assert chain([]).value is None
    assert chain(["no numbers here"]).equations == 0
    assert chain(["<<7+5=12>>", "<<12/0=3>>"]).value is None


def test_a_chain_goes_on_from_another_number() -> None:
    steps = ["<<7+5=12>>", "<<12*2=24>>", "<<24%10=4>>"]
    assert carried_on(steps, 0, Fraction(8)) == (8, 16, 6)
    assert carried_on(steps, 2, Fraction(9)) == (9,)
    assert carried_on(["<<7+5=12>>", "<<3*2=6>>"], 0, Fraction(8)) is None  # the second does not use the first
    assert carried_on(["<<1+1=2>>", "<<2*2=4>>"], 0, Fraction(8)) is None  # which of the twos?
    assert carried_on(["<<7+5=12>>", "<<6/12=0.5>>"], 0, Fraction(0)) is None
    assert carried_on(["a", "<<7+5=12>>"], 1, Fraction(8)) is None
    assert carried_on(steps, 3, Fraction(8)) is None
