"""Statistics of reports: rates with intervals, and paired tests of two runs. Plain Python, exact.

Accuracy is a proportion over a few hundred to a few thousand problems, so every rate has a Wilson interval. Two runs over
the same problems are compared pair by pair: overlapping intervals do not show that runs are equal.

Wilson's interval is about one trained model on other problems. For a recipe, each run with its own *training seed* is one
observation, however many problems it answered (`over_training_seeds`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

from unspoken.errors import ConfigError, DataError


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean without intermediate rounding; nan for an empty sequence."""
    listed = [float(v) for v in values]
    return math.fsum(listed) / len(listed) if listed else math.nan


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): keeps its coverage near 0 and 1, where Wald's fails.

    Args:
        successes: number of successes.
        n: number of trials; for 0 the interval is (0, 1).
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
    """A number of successes among n."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        """The share; nan if n is 0."""
        return self.correct / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval. Only valid for independent outcomes: problems, not the steps of one problem."""
        return wilson(self.correct, self.n)


def rate(outcomes: Iterable[bool]) -> Rate:
    """Count outcomes."""
    listed = [bool(o) for o in outcomes]
    return Rate(correct=sum(listed), n=len(listed))


def student_t(df: int, confidence: float = 0.95) -> float:
    """The half-width, in standard errors, of a two-sided t interval: P(|T| <= t) = confidence with df degrees of freedom.

    The distribution function is a finite sum for whole df (Abramowitz and Stegun 26.7.3, 26.7.4), inverted by bisection.

    Raises:
        ConfigError: df below 1, or confidence not between 0 and 1.
    """
    if df < 1 or not 0 < confidence < 1:
        raise ConfigError(f"student_t needs df >= 1 and confidence between 0 and 1, got {df} and {confidence}")

    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _within(middle, df) < confidence else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _within(angle: float, df: int) -> float:
    """P(|T| <= sqrt(df) tan(angle)) with df degrees of freedom."""
    term = math.cos(angle) if df % 2 else 1.0
    total = 0.0
    for k in range(1 + df % 2, df, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if df % 2 else total


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """One recipe trained with several seeds; each run is one observation.

    Attributes:
        rates: accuracy of the run of each seed.
    """

    rates: tuple[Rate, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The accuracy of each seed."""
        return tuple(one.value for one in self.rates)

    @property
    def mean(self) -> float:
        """The mean over seeds, each with the same weight."""
        return mean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% t interval of the mean over training seeds, clipped to [0, 1].

        None if there is only one seed, or all are equal, which says nothing about their spread.
        """
        count = len(self.values)
        if count < 2 or len(set(self.values)) == 1:
            return None
        half = student_t(count - 1) * stdev(self.values) / math.sqrt(count)
        return max(0.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def within(self) -> tuple[tuple[float, float], ...]:
        """The 95% Wilson interval of each seed's model on other problems; not an interval of the recipe."""
        return tuple(one.interval for one in self.rates)


def over_training_seeds(rates: Iterable[Rate]) -> OverSeeds:
    """The accuracy of a recipe over its training seeds.

    Args:
        rates: one per run, each with its own training seed (not sampling seeds of one trained model).

    Raises:
        DataError: no rates, or one without problems.
    """
    listed = tuple(rates)
    if not listed or not all(one.n for one in listed):
        raise DataError(f"a mean over training seeds needs runs that answered problems, got n = {[r.n for r in listed]}")
    return OverSeeds(rates=listed)


def difference_of_means(a: OverSeeds, b: OverSeeds) -> tuple[float, tuple[float, float] | None]:
    """Mean of recipe b minus mean of recipe a, with Welch's 95% t interval over training seeds.

    The degrees of freedom (Welch 1947) are rounded down, which widens the interval. None if a side has one seed, or all
    seeds are equal.
    """
    value = b.mean - a.mean
    sizes = [len(side.values) for side in (a, b)]
    if min(sizes) < 2:
        return value, None
    errors = [stdev(side.values) ** 2 / size for side, size in zip((a, b), sizes, strict=True)]
    if not sum(errors):
        return value, None
    parts = sum(error**2 / (size - 1) for error, size in zip(errors, sizes, strict=True))
    df = max(1, math.floor(sum(errors) ** 2 / parts + 1e-9))
    half = student_t(df) * math.sqrt(sum(errors))
    return value, (max(-1.0, value - half), min(1.0, value + half))


@dataclass(frozen=True, kw_only=True)
class PairedSeeds:
    """Two recipes trained with the same seeds: one difference of accuracies per seed.

    Attributes:
        differences: b - a, seed by seed.
    """

    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return mean(self.differences)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% t interval of the mean; None for one seed, or if all differences are equal."""
        if (error := self._error) is None:
            return None
        half = student_t(len(self.differences) - 1) * error
        return max(-1.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def p(self) -> float | None:
        """p of the paired two-sided t test; None if there is no interval."""
        if (error := self._error) is None:
            return None
        df = len(self.differences) - 1
        return max(0.0, 1 - _within(math.atan(abs(self.mean) / error / math.sqrt(df)), df))

    @property
    def _error(self) -> float | None:
        """The standard error of the mean."""
        count = len(self.differences)
        return stdev(self.differences) / math.sqrt(count) if count > 1 and len(set(self.differences)) > 1 else None


def paired_seeds(a: Sequence[float], b: Sequence[float]) -> PairedSeeds:
    """Compare two recipes seed by seed.

    Args:
        a, b: accuracies of runs, in the same order of seeds.

    Raises:
        DataError: different numbers of seeds, or none.
    """
    if len(a) != len(b) or not a:
        raise DataError(f"a comparison by seeds needs the same seeds on both sides, got {len(a)} and {len(b)} runs")
    return PairedSeeds(differences=tuple(y - x for x, y in zip(a, b, strict=True)))


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """McNemar's exact test of two runs over the same problems.

    Attributes:
        only_a: problems that a alone got right.
        only_b: problems that b alone got right.
        p: two-sided: the probability that two equally good runs would disagree at least this unevenly.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> PairedTest:
    """McNemar's exact test: under the null hypothesis, discordant problems are fair coin flips.

    Args:
        a, b: whether each problem was answered correctly, in the same order of problems.

    Raises:
        DataError: the sequences have different lengths.
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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Accuracy after a change minus accuracy before it, on the same problems.

    Attributes:
        n: problems.
        only_before, only_after: problems that were right on only one side.
        interval: the 95% interval of the difference (see `paired_interval`).
        p: McNemar's exact test, two-sided.
    """

    n: int
    only_before: int
    only_after: int
    interval: tuple[float, float]
    p: float

    @property
    def value(self) -> float:
        """The difference of the shares; nan without problems."""
        return (self.only_after - self.only_before) / self.n if self.n else math.nan


def difference(before: Sequence[bool], after: Sequence[bool]) -> Difference:
    """Compare the outcomes of the same problems before and after a change.

    Raises:
        DataError: different numbers of problems.
    """
    test = mcnemar(before, after)
    return Difference(
        n=len(before),
        only_before=test.only_a,
        only_after=test.only_b,
        interval=paired_interval(test.only_a, test.only_b, len(before)),
        p=test.p,
    )


def paired_interval(only_before: int, only_after: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a difference of paired proportions, after - before: the adjusted Wald interval of Bonett and Price
    (2012, Journal of Educational and Behavioral Statistics 37).

    It adds one to both discordant counts and two to n, which keeps the coverage if few problems disagree. Even if none do,
    it tells what n problems can exclude.

    Args:
        only_before, only_after: problems that are right on only one side.
        n: number of problems; for 0 the interval is (-1, 1).
        confidence: the coverage, between 0 and 1.

    Raises:
        ConfigError: counts or confidence out of range.
    """
    if min(only_before, only_after) < 0 or only_before + only_after > n:
        raise ConfigError(
            f"paired_interval needs counts of 0 or more that sum to at most n, got {only_before}, {only_after} of {n}"
        )
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}; try 0.95")
    if n == 0:
        return -1.0, 1.0
    lost, won = (only_before + 1) / (n + 2), (only_after + 1) / (n + 2)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * math.sqrt((lost + won - (won - lost) ** 2) / (n + 2))
    return max(-1.0, won - lost - half), min(1.0, won - lost + half)
