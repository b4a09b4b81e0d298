"""Extraction and comparison of answers: cases from GSM8K and from model output, and properties of all numbers."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.text.example import Example
from unspoken.tasks.scoring.answers import equal, extract_flexible, extract_strict, normalise, score_number, score_text


def example(answer: str) -> Example:
    return Example(question="How many?", answer=answer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 18", "18"),
        ("### 18", "18"),
        ("####18", "18"),
        ("<<9*2=18>>\n### 18<|endoftext|>", "18"),
        ("#### 1,450,000</s>junk", "1,450,000"),
        ("### 3\n### 4\nand 5", "4"),
        ("#### 3 ### 4", "4"),
        ("###### 7", "7"),
        ("### Tom is a lempus.<|eot_id|>", "Tom is a lempus."),
        ("### 5\r\n6", "5"),
        ("The answer is: 18", "18"),
        ("The answer is:18<|endoftext|>", "18"),
        ("The answer is: 5 #### 6", "6"),
        ("#### 6\nThe answer is: 5", "5"),
        ("The answer is: #### 6", "6"),
        ("The answer is: 5\nThe answer is: 6", "6"),
        ("### The answer is: 5", "5"),
        ("The answer is:\n18", None),
        ("The answer is 18", None),
        ("the answer is: 18", None),
        ("the answer is 18", None),
        ("# 18", None),
        ("## 18", None),
        ("18 ####", None),
        ("####\n18", None),
        ("", None),
    ],
)
def test_strict_takes_what_follows_the_last_mark(text: str, found: str | None) -> None:
    assert extract_strict(text) == found


def test_strict_with_other_marks() -> None:
    assert extract_strict("#### 1\nA: 18", marks=("A:",)) == "18"
    assert extract_strict("#### 1", marks=()) is None
    assert extract_strict("#### 1", marks=("",)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is 18.", "18"),
        ("so 1,234,567 in all", "1234567"),
        ("she has $3.50 left.", "3.50"),
        ("$1,000.25!", "1000.25"),
        ("that is 50%", "50"),
        ("x = -3", "-3"),
        ("x = −3", "-3"),  # U+2212, as in GSM8K itself
        ("a loss of -$20", "-20"),
        ("a loss of $-20", "-20"),
        ("(-20)", "-20"),
        ("+7", "7"),
        ("16-3", "3"),
        ("<<16-3-4=9>>9", "9"),
        ("(4)-1", "1"),
        ("between 3 and 5", "5"),
        ("1, 2, 3", "3"),
        ("in 2001,2002", "2002"),
        ("about .5", ".5"),
        ("so it is...5", "5"),
        ("The answer is.5", "5"),
        ("half is 1/2", "1/2"),
        ("48/2", "48/2"),
        ("on 12/25/1937", "12/25/1937"),
        (r"\boxed{18}", "18"),
        (r"\boxed{\$1{,}234}", "1234"),
        ("18 clips", "18"),
        ("18<|reserved_special_token_0|>", "18"),
        ("18<|eot_id|><|eot_id|>", "18"),
        ("no number", None),
        ("", None),
    ],
)
def test_flexible_takes_the_last_number(text: str, found: str | None) -> None:
    assert extract_flexible(text) == found


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("18.0", "18"),
        ("1,000", "1000"),
        ("$1,000.00", "1000"),
        (" 18 ", "18"),
        ("15.", "15"),  # as GSM8K-Aug has it
        ("50%", "50"),
        ("50 %.", "50"),
        ("018...", "18"),
        ("a . .", "a"),
        (r"\$5", "5"),
        ("−3", "-3"),
        ("-$3", "-3"),
        ("+3", "3"),
        ("-0", "0"),
        (".50", "0.5"),
        ("007", "7"),
        ("Tom is a Lempus.", "tom is  a lempus"),
        ("Yes", "yes"),
        ("3/4", "3/4"),
        ("5:45", "5:45"),
        ("1" * 400, "1" * 400 + ".0"),
    ],
)
def test_equal_answers(a: str, b: str) -> None:
    assert equal(a, b)
    assert equal(b, a)
    assert normalise(a) == normalise(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("18", "18.01"),
        ("18", "-18"),
        ("3/4", "0.75"),
        ("48/2", "2"),
        ("1,00", "100"),
        ("18 dollars", "18"),
        ("yes", "no"),
        ("nan", "18"),
        ("1e2", "100"),
        ("--5", "5"),
        ("+$-5", "-5"),
        ("1" * 400, "1" * 399 + "2"),
        ("", "0"),
        (None, "0"),
        ("0", None),
        (None, None),
    ],
)
def test_different_answers(a: str | None, b: str | None) -> None:
    assert not equal(a, b)


numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=3)


@given(numbers)
def test_a_number_survives_every_usual_format(number: Decimal) -> None:
    plain = f"{number:f}"
    magnitude, minus = abs(number), "-" if number < 0 else ""
    spellings = [
        plain,
        f"{number:,f}",
        f"{minus}${magnitude:,f}",
        f"${minus}{magnitude:f}",
        f"{number:f}%",
        f"{number:f}.",
        plain.replace("-", "−"),
        plain + "0",
    ]
    for spelling in spellings:
        assert equal(spelling, plain)
        assert equal(spelling.join(("#### ", "\n")).removeprefix("#### "), plain)
        assert equal(extract_flexible(f"First 12, then the answer is {spelling}"), plain)
        score = score_number(example(plain), f"<<1+1=2>>2\n#### {spelling}<|endoftext|> 99")
        assert score.strict
        assert score.flexible
        assert score.extracted == normalise(plain)


@given(st.integers(), st.integers())
def test_integers_are_equal_only_to_themselves(a: int, b: int) -> None:
    assert equal(f"{a:,}", str(b)) == (a == b)


@given(st.text(), st.text())
def test_nothing_raises_and_equality_is_sane(a: str, b: str) -> None:
    assert equal(a, a)
    assert equal(a, b) == equal(b, a)
    assert equal(a, normalise(a))
    assert normalise(normalise(a)) == normalise(a)
    for text in (a, a + b, f"{a}####{b}"):
        score = score_number(example("18"), text)
        assert score.flexible or not score.strict
        score_text(example("yes"), text)


@given(st.text(alphabet="0123456789.,-+$%/# \n", max_size=30))
def test_what_flexible_finds_is_a_number_or_a_fraction(text: str) -> None:
    found = extract_flexible(text)
    if any(c.isdigit() for c in text):
        assert found is not None
        assert re.fullmatch(r"-?(\d+(\.\d+)?|\.\d+)(/\d+(\.\d+)?)*", found)
    else:
        assert found is None


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "extracted"),
    [
        ("<<9*2=18>>\n### 18", True, True, "18"),
        ("#### $18.00\nDone in 2 steps", True, True, "18"),
        ("The answer is 18.", False, True, "18"),
        ("The answer is: 18", True, True, "18"),
        ("The answer is: 17 #### 18", True, True, "18"),
        ("The answer is: 18 #### 17", False, False, "17"),
        ("#### 18 dollars", False, True, "18"),
        ("#### 17\nno, 18", False, True, "17"),
        ("### 17", False, False, "17"),
        ("", False, False, None),
        ("#### none", False, False, "none"),
    ],
)
def test_score_number(text: str, strict: bool, flexible: bool, extracted: str | None) -> None:
    score = score_number(example("18"), text)
    assert (score.strict, score.flexible, score.extracted) == (strict, flexible, extracted)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # What stands behind the number explains it.
        ("### 12 (since 3*4)", "12"),
        ("The answer is: 20 (see step 3)", "20"),
        ("answer: 20 (see step 3)", "20"),
        ("**Answer:** 20 as step 3 says", "20"),
        ("So the answer is 20, which is 4 * 5.", "20"),
        ("### $1,200.50 (about 1200)", "1200.5"),
        ("### (about 1200) $1,200.50", "1200.5"),
        ("### 12 eggs in 2 boxes", "12"),
        ("### 12 or 13", "12"),
        ("### 10-12", "10"),
        ("### 12 [3 x 4]", "12"),
        ("### (12)", "12"),
        ("### 12, because 3*4=12 and 12/3=4", "12"),
        # Of a calculation it is what it comes to.
        ("### = 12.", "12"),
        ("### 3 * 4 = 12 eggs", "12"),
        ("### $3 + $4 = $7 (for 2 days)", "7"),
        ("### 12 = 3*4", "12"),
        ("### x_1 = 12", "12"),
        ("### - 3 eggs of 5", "-3"),
        # Without a number there, the last one of the text.
        ("so 12\n### twelve", "12"),
        ("12 and then 13", "13"),
        # A new line is another matter.
        ("### 12 eggs\nThat took 5 steps", "12"),
    ],
)
def test_the_number_behind_the_mark_is_the_answer(text: str, found: str) -> None:
    assert score_number(example("999"), text).extracted == found
    assert score_number(example(found), text).flexible
    assert not score_number(example("4"), "### 12 (since 3*4)").flexible


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("\uff11\uff12", "12"),  # full-width
        ("\uff11\uff0c\uff12\uff10\uff10", "1200"),
        ("\uff11\uff0e\uff15", "1.5"),
        ("\uff0d\uff13", "-3"),
        ("\uff04\uff13", "3"),
        ("\uff13\uff05", "3"),
        ("12\u3002", "12"),
        ("\u0661\u0662", "12"),  # Arabic-Indic
        ("\u0661\u066c\u0662\u0660\u0660", "1200"),
        ("\u0661\u0662\u066b\u0665", "12.5"),
        ("\u06f1\u06f2", "12"),  # Persian
        ("\u0967\u0968", "12"),  # Devanagari
        ("\u0967,\u0966\u0966,\u0966\u0966\u0966", "100000"),
        ("1,00,000", "100000"),
        ("1\u202f500", "1500"),
        ("1\u00a0500.5", "1500.5"),
        ("\u22123", "-3"),
        ("- 3", "-3"),
        ("3 %", "3"),
        ("5 \u20ac", "5"),
        ("\u20b950", "50"),
        ("1e-05", "0.00001"),  # as JSON writes it
        ("1e-7", "0.0000001"),
        ("1.5e-05", "0.000015"),
        ("1e16", "10000000000000000"),
        ("1e+16", "10000000000000000"),
        ("-2.5e+20", "-250000000000000000000"),
        ("\u00bd", "1/2"),
        ("2\u00bd", "2 1/2"),
    ],
)
def test_numbers_as_other_scripts_and_json_write_them(text: str, number: str) -> None:
    assert equal(text, number)
    assert equal(number, text)
    assert normalise(text) == number
    for mark in ("### ", "###", "The answer is: "):
        score = score_number(example(number), f"1 + 1\n{mark}{text}")
        assert (score.strict, score.flexible, score.extracted) == (True, True, number)
        assert score_number(example(text), f"{mark}{number}").strict
    if " " not in number:
        assert extract_flexible(f"First 7, then it is = {text}") in (number, number.lstrip("0"))


@pytest.mark.parametrize("text", ["12\u00b2", "\u00b9\u00b2", "1e2", "1e5", "\u2160", "\u5341\u4e8c", "1\uff0c2"])
def test_what_is_no_number_stays_text(text: str) -> None:
    assert not equal(text, "12")
    assert not equal(text, "100000")


def test_extracted_does_not_depend_on_the_reference() -> None:
    text = "#### 17\nno, 18"
    assert score_number(example("18"), text).extracted == score_number(example("17"), text).extracted


def test_score_text() -> None:
    reference = example("Tom is a lempus.")
    assert score_text(reference, "Tom is a sterpus.\n### Tom is a lempus.<|endoftext|>").strict
    loose = score_text(reference, "Tom is a sterpus.\ntom is a lempus<|endoftext|>")
    assert (loose.strict, loose.flexible) == (False, True)
    wrong = score_text(reference, "### Tom is a sterpus.")
    assert (wrong.strict, wrong.flexible, wrong.extracted) == (False, False, "Tom is a sterpus.")
    assert score_text(reference, " \n").extracted is None


def test_flexible_agrees_with_the_verdicts_published_with_gsm8k(shared_data: Path) -> None:
    """Cobbe et al. shipped 4 models' solutions with is_correct; they end in "A: 18", not in a mark."""
    checked = 0
    with (shared_data / "gsm8k" / "example_model_solutions.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            reference = example(row["ground_truth"].rpartition("A:")[2].strip())
            for solution in (value for value in row.values() if isinstance(value, dict)):
                assert score_number(reference, solution["solution"]).flexible == solution["is_correct"], solution
                checked += 1
    assert checked == 4 * 1119


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1 500", "1500"),
        ("1 500 000.50", "1500000.5"),
        ("-1 500", "-1500"),
        ("$1 500", "1500"),
        ("1'500", "1500"),
        ("1\u2019500\u2019000", "1500000"),
        ("1_500", "1500"),
        ("1.500,25", "1500.25"),
        ("1.500.000", "1500000"),
        ("\u200f12\u200f", "12"),
        ("\\dfrac{3}{4}", "3/4"),
        ("-\\frac34", "-3/4"),
        ("1\\frac{1}{2}", "1 1/2"),
    ],
)
def test_thousands_of_every_style_and_fractions(text: str, number: str) -> None:
    assert equal(text, number)
    score = score_number(example(number), f"1 + 1\n### {text}")
    assert (score.strict, score.flexible, score.extracted) == (True, True, number)


@pytest.mark.parametrize("text", ["1 50", "1500 000", "0 500", "12 3456", "1.500", "1,5", "1'50", "192.168.100.2"])
def test_what_may_be_several_numbers_is_not_joined(text: str) -> None:
    joined = "".join(sign for sign in text if sign.isdigit())
    assert not equal(text, joined)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("### 1 500 dollars", "1500"),
        ("#### 1 500 (about 1000)", "1500"),
        ("### 3\u00b2 = 9", "9"),
        ("### 3 x 10^2 = 300", "300"),
        ("### 50% of 24 = 12", "12"),
        ("### 1/2 of 24 = 12", "12"),
        ("### 2**3 = 8", "8"),
        ("#### minus 3", "-3"),
        ("### x = negative 3", "-3"),
        ("### 12 x 24 boxes", "12"),
        ("### 40 - 50", "40"),
    ],
)
def test_what_a_text_behind_the_mark_comes_to(text: str, number: str) -> None:
    score = score_number(example(number), text)
    assert (score.strict, score.flexible, score.extracted) == (False, True, number)
    assert not score_number(example("3" if number == "-3" else "1"), text).flexible


def test_a_numerator_is_not_the_answer() -> None:
    assert not score_number(example("3"), "### \\frac{3}{4}").flexible
    assert not score_number(example("4"), "so it is \\frac{3}{4}").flexible
    assert score_number(example("500"), "first 1 500").flexible  # two numbers, where more than one may stand
