"""The interval of a paired difference, against values worked out by hand and against its own coverage."""

from __future__ import annotations

import math
import random

import pytest

from unspoken.errors import ConfigError, DataError
from unspoken.evaluation.statistics import difference, paired_interval


def test_by_hand():
    """10 lost, 2 won of 50: (3 - 11) / 52 +- 1.959964 sqrt((14/52 - (8/52)^2) / 52)."""
    half = 1.959963984540054 * math.sqrt((14 / 52 - (8 / 52) ** 2) / 52)
    assert paired_interval(10, 2, 50) == pytest.approx((-8 / 52 - half, -8 / 52 + half))
    assert paired_interval(2, 10, 50) == pytest.approx((8 / 52 - half, 8 / 52 + half))


def test_what_no_disagreement_excludes():
    """Answers that are all the same: the more problems, the less is left."""
    low, high = paired_interval(0, 0, 200)
    assert -0.02 < low < -0.01
    assert high == -low
    assert paired_interval(0, 0, 2000)[1] < high / 5
    assert paired_interval(0, 0, 0) == (-1.0, 1.0)
    assert paired_interval(5, 0, 5)[0] == -1.0


def test_coverage_by_simulation():
    """19 of 20 intervals hold the truth, also where few problems disagree."""
    rng = random.Random(0)
    for n, lost, won in ((60, 0.3, 0.1), (200, 0.02, 0.01), (100, 0.85, 0.0)):
        held = 0
        for _ in range(1500):
            draws = [rng.random() for _ in range(n)]
            low, high = paired_interval(sum(d < lost for d in draws), sum(lost <= d < lost + won for d in draws), n)
            held += low <= won - lost <= high
        assert 0.93 <= held / 1500 <= 0.995, (n, held / 1500)


def test_difference_pairs_problems():
    found = difference([True, True, True, False], [False, True, False, True])
    assert (found.n, found.only_before, found.only_after, found.value) == (4, 2, 1, -0.25)
    assert found.interval == paired_interval(2, 1, 4)
    assert found.p == 1.0
    with pytest.raises(DataError, match="a paired test needs the same problems on both sides"):
        difference([True], [])


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5)])
def test_counts_that_cannot_be(counts: tuple[int, int, int]):
    with pytest.raises(ConfigError, match="paired_interval needs counts of 0 or more that sum to at most n, got"):
        paired_interval(*counts)
