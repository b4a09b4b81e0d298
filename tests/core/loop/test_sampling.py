"""Tokens are drawn with the right frequencies, and a row's draw is its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unspoken.core.loop.sampling import Sampler, SamplingParams

P = torch.tensor([0.1, 0.45, 0.05, 0.3, 0.1])


def frequencies(**speaking: Any) -> torch.Tensor:
    """Shares of the five tokens over 4,000 rows with the same logits."""
    rows = 4000
    chooser = Sampler(SamplingParams(**{"temperature": 1.0, **speaking}), list(range(rows)))
    chosen = chooser.choose(P.log().expand(rows, 5), np.arange(rows))
    return torch.bincount(chosen, minlength=5) / rows


@pytest.mark.parametrize(
    ("speaking", "want"),
    [
        ({}, P),
        ({"temperature": 0.5}, P**2 / (P**2).sum()),
        ({"temperature": 2.0}, P.sqrt() / P.sqrt().sum()),
        ({"top_k": 2}, torch.tensor([0, 0.6, 0, 0.4, 0])),
        ({"top_k": 1}, torch.tensor([0, 1.0, 0, 0, 0])),
        ({"top_k": 99}, P),
        ({"top_p": 0.7}, torch.tensor([0, 0.6, 0, 0.4, 0])),
        ({"top_p": 0.3}, torch.tensor([0, 1.0, 0, 0, 0])),
        ({"top_p": 0.5, "top_k": 4}, torch.tensor([0, 0.6, 0, 0.4, 0])),
    ],
)
def test_frequencies(speaking: dict, want: torch.Tensor):
    got = frequencies(**speaking)
    assert (got - want).abs().max() < 0.03  # four standard deviations of a share over 4,000 draws
    assert not got[want == 0].any()


def test_greedy_takes_the_likeliest():
    assert Sampler(SamplingParams(), [0]).choose(P.log()[None], np.array([0])).tolist() == [1]


def draws(numbers: list[int], batches: list[list[int]], steps: int, seed: int = 0) -> dict[int, list[int]]:
    """What rows choose over some steps, when they are asked in these batches."""
    chooser = Sampler(SamplingParams(temperature=1.0, seed=seed), numbers)
    said: dict[int, list[int]] = {number: [] for number in numbers}
    for _ in range(steps):
        for batch in batches:
            chosen = chooser.choose(P.log().expand(len(batch), 5), np.array(batch))
            for b, token in zip(batch, chosen.tolist(), strict=True):
                said[numbers[b]].append(token)
    return said


def test_a_row_draws_the_same_in_any_batch():
    together = draws([4, 7, 9], [[0, 1, 2]], 20)
    assert draws([4, 7, 9], [[2], [0, 1]], 20) == together
    assert draws([7], [[0]], 20) == {7: together[7]}
    assert together[4] != together[7]


def test_the_seed_matters_and_nothing_else_does():
    assert draws([1], [[0]], 30, seed=1) == draws([1], [[0]], 30, seed=1) != draws([1], [[0]], 30, seed=2)
    torch.manual_seed(5)
    first = draws([1], [[0]], 30)
    torch.manual_seed(6)
    np.random.seed(1)
    assert draws([1], [[0]], 30) == first


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-39, 1e-45, 1e-300, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature: float):
    """A quotient that overflows, or a temperature that no float32 holds, must not choose at random."""
    logits = torch.tensor([[3.0, 50.0, -2.0, 49.0], [-1e4, -2e4, -9e3, -3e4], [1e30, 0.0, -1e30, 2e30]])
    chooser = Sampler(SamplingParams(temperature=temperature), [0, 1, 2])
    for _ in range(20):
        assert chooser.choose(logits.clone(), np.arange(3)).tolist() == [1, 2, 3]
