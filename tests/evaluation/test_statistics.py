"""Intervals and tests against published or exactly computed values."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unspoken.errors import ConfigError, DataError
from unspoken.evaluation.statistics import Rate, mcnemar, mean, rate, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # the first four: Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_gives_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_ends_are_exact_and_no_data_says_nothing() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_holds_the_share_and_mirrors(counts: tuple[int, int], confidence: float) -> None:
    successes, n = counts
    low, high = wilson(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n, confidence)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)
    wider = wilson(successes, n, (1 + confidence) / 2)
    assert wider[0] <= low
    assert wider[1] >= high


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 5), (0, -1)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ConfigError, match="needs 0 <= successes <= n, got"):
        wilson(successes, n)


def test_wilson_refuses_impossible_confidence() -> None:
    with pytest.raises(ConfigError, match=r"between 0 and 1, got 95; try 0\.95"):
        wilson(1, 2, 95)


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 9, 22 / 1024),
        (9, 1, 22 / 1024),
        (0, 6, 2 / 64),
        (4, 12, 2 * (1 + 16 + 120 + 560 + 1820) / 65536),
    ],
)
def test_mcnemar_known_values(only_a: int, only_b: int, p: float) -> None:
    test = mcnemar(*outcomes(7, only_a, only_b, 11))
    assert (test.only_a, test.only_b) == (only_a, only_b)
    assert test.p == pytest.approx(p, rel=1e-5)


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_and_symmetric(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    tail = sum(Fraction(math.comb(n, i), 2**n) for i in range(min(only_a, only_b) + 1))
    p = mcnemar(*outcomes(1, only_a, only_b, 2)).p
    assert p == float(min(Fraction(1), 2 * tail))
    assert p == mcnemar(*outcomes(1, only_b, only_a, 2)).p


def test_mcnemar_does_not_overflow() -> None:
    assert mcnemar(*outcomes(0, 10_000, 10_000, 0)).p == 1.0
    assert mcnemar(*outcomes(0, 6000, 5000, 0)).p < 1e-15
    assert mcnemar(*outcomes(0, 5000, 0, 0)).p == 0.0  # below the smallest float


def test_mcnemar_refuses_unequal_lengths() -> None:
    with pytest.raises(DataError, match="same problems on both sides, got 2 and 1"):
        mcnemar([True, False], [True])


def test_mean_and_rate() -> None:
    assert mean([1, 2, 4]) == pytest.approx(7 / 3)
    assert mean([0.1] * 10) == 0.1
    assert math.isnan(mean([]))
    assert rate([True, False, True]) == Rate(correct=2, n=3)
    assert math.isnan(Rate(correct=0, n=0).value)
    assert Rate(correct=8, n=10).interval == wilson(8, 10)
