"""The statistics that a report quotes: rates with an interval, and the paired test of two runs. Plain Python, exact.

Accuracy is a proportion of a few hundred to a few thousand problems, so every rate carries its Wilson interval, and two
runs over the same problems are compared pair by pair: two intervals that overlap do not show that the runs are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from unspoken.errors import ConfigError, DataError


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean, without rounding on the way; nan where there is nothing to average."""
    listed = [float(v) for v in values]
    return math.fsum(listed) / len(listed) if listed else math.nan


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): keeps its coverage near 0 and 1, where Wald's fails.

    Args:
        successes: how many of `n` were right.
        n: how many there were; with none, nothing is known and the interval is (0, 1).
        confidence: the coverage, between 0 and 1.

    Returns:
        (low, high), both in [0, 1], with successes / n between them.

    Raises:
        ConfigError: counts or confidence out of range.
    """
    if not 0 <= successes <= n:
        raise ConfigError(f"wilson needs 0 <= successes <= n, got {successes} of {n}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}; try 0.95")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The formula gives exactly 0 and 1 at the ends; rounding would miss them by an ulp.
    low = 0.0 if successes == 0 else max(0.0, min(centre - half, share))
    high = 1.0 if successes == n else min(1.0, max(centre + half, share))
    return low, high


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of how many."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        """The share; nan where n is 0."""
        return self.correct / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval. Only for things that are independent: problems, not the steps inside one problem."""
        return wilson(self.correct, self.n)


def rate(outcomes: Iterable[bool]) -> Rate:
    """Count outcomes."""
    listed = [bool(o) for o in outcomes]
    return Rate(correct=sum(listed), n=len(listed))


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """McNemar's exact test of two runs over the same problems.

    Attributes:
        only_a: problems that a alone got right.
        only_b: problems that b alone got right.
        p: two-sided; how often two equally good runs would disagree at least this unevenly.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> PairedTest:
    """McNemar's test, exact: under the null the discordant problems fall to either side like fair coins.

    Args:
        a, b: whether each problem was answered correctly, in the same order of problems.

    Raises:
        DataError: the sequences are not equally long.
    """
    if len(a) != len(b):
        raise DataError(f"a paired test needs the same problems on both sides, got {len(a)} and {len(b)} outcomes")
    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    # Sum of C(n, i) for i <= min, in integers; Python divides big integers with one correct rounding.
    term, tail = 1, 0
    for i in range(min(only_a, only_b) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return PairedTest(only_a=only_a, only_b=only_b, p=min(1.0, 2 * tail / 2**n))
