"""Stage mixing (arXiv 2602.22441): at stage k, a row is laid out as stage i <= k in proportion to i + 1."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from support import backbones

from unspoken.core.text.example import Example
from unspoken.methods import make_method

EXAMPLE = Example(question="Ann has 3 pens.", steps=("<<1+2=3>>", "<<3+3=6>>", "<<6+1=7>>"), answer="7")


def drawn(stage: int, **config: object) -> Counter[int]:
    method = make_method({"name": "coconut", "latents_per_step": 1, "max_stage": 3, **config}, backbones.backbone())
    at = method.curriculum().at(stage - 1 + 0.5)  # one epoch a stage, from stage 1
    rng = Random(0)
    return Counter(method.layout(EXAMPLE, at, rng).latents for _ in range(6000))


def test_proportional():
    counts = drawn(2, mixing="proportional", epochs_per_stage=1.0)
    for latents, share in ((0, 1 / 6), (1, 2 / 6), (2, 3 / 6)):
        assert counts[latents] / 6000 == pytest.approx(share, abs=0.02)
    assert set(counts) == {0, 1, 2}


def test_uniform_draws_from_all_stages():
    counts = drawn(1, mixing="uniform", epochs_per_stage=1.0)
    assert set(counts) == {0, 1, 2, 3}
    assert counts[3] / 6000 == pytest.approx(2 / 5, abs=0.02)  # stages 3 and 4 both have three latents


def test_probability_leaves_the_rest_at_the_stage():
    counts = drawn(2, mixing="proportional", mixing_probability=0.3, epochs_per_stage=1.0)
    assert counts[2] / 6000 == pytest.approx(0.7 + 0.3 * 0.5, abs=0.02)
