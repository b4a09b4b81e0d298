"""Yes or no, dates, digits, numbers of any size: tables with awkward texts, and properties of all texts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.text.example import Example
from unspoken.tasks.base import Score
from unspoken.tasks.scoring.rules import (
    close,
    date_text,
    read_dates,
    read_digits,
    read_verdict,
    score_close,
    score_date,
    score_digits,
    score_verdict,
)

Rule = Callable[[Example, str], Score]


def example(answer: str) -> Example:
    return Example(question="What?", answer=answer)


def triple(score: Score) -> tuple[bool, bool, str | None]:
    return score.strict, score.flexible, score.extracted


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "extracted"),
    [
        ("#### yes", True, True, "yes"),
        ("### Yes.", True, True, "yes"),
        ("The answer is: **yes**<|eot_id|>", True, True, "yes"),
        ("#### True", True, True, "yes"),
        ("#### Yes, because it is.", False, True, "yes"),
        ("The answer is yes.", False, True, "yes"),
        ("#### no", False, False, "no"),
        ("#### not true", False, False, "no"),
        ("#### not false", False, True, "yes"),
        ("#### no\nbut yes", False, False, "no"),
        ("Yes, because there is no reason to doubt it.", False, True, "yes"),
        ("No reason to doubt, so yes", False, True, "yes"),
        ("There is no way. It has no legs", False, False, None),
        ("No it is not", False, False, "no"),
        ("Yes or no? I say yes", False, True, "yes"),
        ("Is it true or false", False, False, None),
        ("Therefore, the answer is **no**, the coin is not heads up. Yes men say so.", False, False, "no"),
        ("yesterday, nobody knew, falsely", False, False, None),
        ("don't say 'no'", False, False, "no"),
        ("true love is false", False, False, "no"),
        ("\\boxed{\\text{Yes}}", False, True, "yes"),
        ("YES!", False, True, "yes"),
        ("", False, False, None),
        ("#### maybe\nFinally: yes", False, True, "yes"),
    ],
)
def test_verdicts(text: str, strict: bool, flexible: bool, extracted: str | None) -> None:
    assert triple(score_verdict(example("yes"), text)) == (strict, flexible, extracted)


def test_verdicts_in_other_words() -> None:
    assert triple(score_verdict(example("False"), "#### no", ("True", "False"))) == (True, True, "False")
    assert triple(score_verdict(example("False"), "so it is true.", ("True", "False"))) == (False, False, "True")
    coin = {"heads": True, "tails": False}
    assert read_verdict("It was heads up. Now it is tails up.", coin) is False
    assert read_verdict("It is tails up, so yes.", coin) is True
    assert read_verdict("It is tails up.") is None
    assert read_verdict("Headstrong detailsman", coin) is None


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("05/01/2021", [date(2021, 5, 1)]),
        ("5/1/2021", [date(2021, 5, 1)]),
        ("05-01-2021", [date(2021, 5, 1)]),
        ("2021-05-01", [date(2021, 5, 1)]),
        ("May 1, 2021", [date(2021, 5, 1)]),
        ("may 1st 2021", [date(2021, 5, 1)]),
        ("Sept. 30, 1999", [date(1999, 9, 30)]),
        ("the 3rd of December, 2000", [date(2000, 12, 3)]),
        ("1 May 2021", [date(2021, 5, 1)]),
        ("from 04/30/2021 to **05/01/2021**.", [date(2021, 4, 30), date(2021, 5, 1)]),
        ("02/29/2020 but not 02/29/2021", [date(2020, 2, 29)]),
        ("13/45/2020", []),
        ("05/01/21", []),
        ("105/01/2021", []),
        ("05/01/20210", []),
        ("05/01-2021", []),
        ("1/2/2021/3", []),
        ("May 2021", []),
        ("", []),
    ],
)
def test_dates_are_read(text: str, days: list[date]) -> None:
    assert read_dates(text) == days


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "extracted"),
    [
        ("#### 05/01/2021", True, True, "05/01/2021"),
        ("The answer is: 5/1/2021.", True, True, "05/01/2021"),
        ("#### May 1, 2021", False, True, "05/01/2021"),
        ("#### 2021-05-01", False, True, "05/01/2021"),
        ("#### 05/01/2021 or 05/02/2021", False, False, "05/02/2021"),
        ("Yesterday was 04/30/2021, so today is 05/01/2021.", False, True, "05/01/2021"),
        ("#### 01/05/2021", False, False, "01/05/2021"),  # day first is another date
        ("#### tomorrow\n05/01/2021", False, True, "05/01/2021"),
        ("#### 13/45/2020", False, False, None),
        ("none", False, False, None),
    ],
)
def test_dates_are_scored(text: str, strict: bool, flexible: bool, extracted: str | None) -> None:
    assert triple(score_date(example("05/01/2021"), text)) == (strict, flexible, extracted)


@given(st.dates(min_value=date(1000, 1, 1)))
def test_a_date_survives_its_formats(day: date) -> None:
    assert read_dates(date_text(day)) == [day]
    assert read_dates(day.isoformat()) == [day]
    assert read_dates(f"{day.month}/{day.day}/{day.year}") == [day]
    assert score_date(example(date_text(day)), f"#### {day.month}/{day.day}/{day.year}").strict


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "extracted"),
    [
        ("#### 5 5 6 0 8 2 0 1", True, True, "5 5 6 0 8 2 0 1"),
        ("#### 55608201", True, True, "5 5 6 0 8 2 0 1"),
        ("#### 5 5 6 0  8 2 0 1 0 0<|endoftext|>", True, True, "5 5 6 0 8 2 0 1"),  # zeros of no worth
        ("#### 0 5 5 6 0 8 2 0 1", False, False, "0 5 5 6 0 8 2 0 1"),  # ten times as much
        ("#### 1 0 2 8 0 6 5 5", False, False, "1 0 2 8 0 6 5 5"),  # most significant digit first
        ("#### 5 5 6 0 8 2 0 1 .", False, True, "5 5 6 0 8 2 0 1"),
        ("( 1 2 ) + 5 5 6 0 8 2 0 1", False, True, "5 5 6 0 8 2 0 1"),
        ("5 5 6 0\n8 2 0 1", False, False, "8 2 0 1"),
        ("#### -5", False, False, "5"),
        ("#### 0", False, False, "0"),
        ("no digits", False, False, None),
    ],
)
def test_digits(text: str, strict: bool, flexible: bool, extracted: str | None) -> None:
    assert triple(score_digits(example("5 5 6 0 8 2 0 1"), text)) == (strict, flexible, extracted)


@given(st.integers(min_value=0))
def test_digits_are_a_number_written_backwards(number: int) -> None:
    read = read_digits(" ".join(reversed(str(number))) + " 0 0")
    assert read is not None
    assert int("".join(reversed(read.split()))) == number


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "extracted"),
    [
        ("#### 14053029.666666666", True, True, "14053029.666666666"),
        ("#### 14,053,029.67", True, True, "14053029.67"),
        ("#### $14053030", True, True, "14053030"),
        ("#### 1.4053029667e7", True, True, "14053029.667"),
        ("The answer is: 1.4053029667 \\times 10^{7}", True, True, "14053029.667"),
        ("so about 1.4053029667 × 10^7 in all", False, True, "14053029.667"),
        ("#### 14053029.67 dollars", False, True, "14053029.67"),
        ("#### 14053045", False, False, "14053045"),  # 1.1e-6 away
        ("#### 14053000", False, False, "14053000"),
        ("#### 1.4e7", False, False, "14000000"),
        ("#### -14053029.67", False, False, "-14053029.67"),
        ("14053029.67, less 1", False, False, "1"),
        ("#### nan", False, False, "nan"),
        ("#### infinity", False, False, "infinity"),
        ("", False, False, None),
    ],
)
def test_numbers_of_any_size(text: str, strict: bool, flexible: bool, extracted: str | None) -> None:
    assert triple(score_close(example("14053029.666666666"), text)) == (strict, flexible, extracted)


def test_the_tolerance_is_relative() -> None:
    assert score_close(example("0.0000005158"), "#### 5.158e-07").strict
    assert not score_close(example("0.0000005158"), "#### 0").flexible  # an absolute tolerance would call it right
    assert score_close(example("0"), "#### 0.00").strict
    assert not score_close(example("0"), "#### 0.0000001").flexible
    assert close("9284017268534", "9284017268534.4")
    assert not close(None, "0")


GOLDS: list[tuple[Rule, str, str]] = [
    (score_verdict, "yes", "no"),
    (score_date, "05/01/2021", "05/02/2021"),
    (score_digits, "1 2 3", "3 2 1"),
    (score_close, "10", "0.5"),
]


@given(
    st.sampled_from(GOLDS),
    st.lists(
        st.sampled_from(
            [
                "####",
                "yes",
                "no",
                "not",
                "true",
                "05/01/2021",
                "May 1, 2021",
                "1 2 3",
                "321",
                "10",
                ".5",
                "e",
                "x 10^2",
                ".",
                "\n",
            ]
        )
        | st.text(max_size=5),
        max_size=12,
    ),
)
def test_every_rule_is_sane(golds: tuple[Rule, str, str], parts: list[str]) -> None:
    rule, one, other = golds
    text = " ".join(parts)
    first, second = rule(example(one), text), rule(example(other), text)
    assert first.extracted == second.extracted, "what is extracted may not depend on the reference"
    assert first.flexible or not first.strict
    assert not (first.flexible and second.flexible), "one text cannot be right for two answers"
