"""The same problems answered twice, with and without a change: how much the change moves the accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from unspoken.errors import ConfigError
from unspoken.evaluation.statistics import mcnemar


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Accuracy after a change minus accuracy before it, on the same problems.

    Attributes:
        n: problems.
        only_before, only_after: problems that were right on one side only.
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
        """The difference of the shares; nan where there are no problems."""
        return (self.only_after - self.only_before) / self.n if self.n else math.nan


def difference(before: Sequence[bool], after: Sequence[bool]) -> Difference:
    """Compare two answers to each of some problems.

    Raises:
        DataError: not the same number of problems on both sides.
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
    """The interval of a difference of two paired proportions, after - before: the adjusted Wald interval of Bonett and Price
    (2012, Journal of Educational and Behavioral Statistics 37).

    Both discordant counts get one more and n gets two more, which keeps the coverage where few problems disagree; with none
    that disagree it still says what n problems can exclude.

    Args:
        only_before, only_after: problems that are right on one side only.
        n: problems in all; with none, nothing is known and the interval is (-1, 1).
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
