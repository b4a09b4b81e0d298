"""MUX: superpositions of spans are lossless, and are what the latents' states are held to."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import EXAMPLES, built, shared

from unspoken.core.rows.batch import collate
from unspoken.errors import ConfigError
from unspoken.methods.mux import SPANS, demultiplexed, shares, superposition


@pytest.mark.parametrize("decay", [0.5, 0.3])
def test_a_span_is_read_off_its_superposition(decay: float):
    """Whatever its length and however often its tokens repeat; a span that is one over and over looks like that one."""
    dice = Random(0)
    for _ in range(300):
        span = tuple(dice.choices(range(6), k=dice.randint(1, 9)))
        n = len(span)
        once = next(p for p in range(1, n + 1) if n % p == 0 and span[:p] * (n // p) == span)
        assert demultiplexed(superposition(span, decay), decay, 9) == span[:once]


def test_weights_add_up_however_long_a_span_is():
    for length in (1, 8, 24, 2000):
        found = superposition(tuple(range(length)), 0.5)
        assert sum(found.values()) == pytest.approx(1.0)
        assert min(np.float32(weight) for weight in found.values()) > 1e-8
        assert list(found)[:1] == [0]
    assert superposition((), 0.5) == {}


def test_a_step_is_shared_out_over_the_latents_of_its_group():
    assert shares((1, 2, 3, 4, 5), 2) == [(1, 2), (3, 4, 5)]
    assert shares((1,), 3) == [(), (), (1,)]
    method: Any = built({"name": "mux", "inner": {"name": "coconut", "latents_per_step": 3}}, "llama")
    stage = method.curriculum().last
    for example in EXAMPLES:
        spans = method.layout(example, stage, Random(0)).value(SPANS)
        told = [method.backbone.decode(sum(spans[g : g + 3], ())) for g in range(0, len(spans), 3)]
        steps = [step.strip() for step in example.steps]
        assert told == ([*steps[:2], "".join(steps[2:])] if len(steps) > 3 else steps)


def test_the_loss_is_the_divergence_of_the_models_own_head():
    """Of every latent with a span: sum over the vocabulary of target x (log target - log said), the mean of all."""
    method = shared("mux codi", "llama")
    stage = method.curriculum().last
    rows = [method.layout(example, stage, Random(0)) for example in EXAMPLES]
    batch = collate(rows)
    with torch.no_grad():
        report = method(batch, method.counts(batch))
        said = method.backbone.logits(report.trace.states_BKD).log_softmax(dim=-1)
        divergences = []
        for b, row in enumerate(rows):
            for k, span in enumerate(row.value(SPANS)):
                if span:
                    target_V = torch.zeros(said.shape[-1])
                    for token, weight in superposition(span, 0.5).items():
                        target_V[token] = weight
                    divergences.append(torch.nn.functional.kl_div(said[b, k], target_V, reduction="sum"))
    assert len(divergences) == 1 + 3 + 2  # CODI's latents stand for every step but the last
    torch.testing.assert_close(report.terms["mux"], torch.stack(divergences).mean(), rtol=1e-5, atol=1e-6)


def test_a_trained_latent_says_its_step():
    """The divergence alone, on one problem: the states come to say the step, and `explain` reads it."""
    method: Any = built({"name": "mux", "inner": {"name": "codi", "latents": 2, "projection": False}}, "llama")
    row = method.layout(EXAMPLES[0], method.curriculum().last, Random(0))
    batch = collate([row])
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        method(batch, method.counts(batch)).terms["mux"].backward()
        optimizer.step()
    report = method(batch, method.counts(batch))
    assert float(report.terms["mux"].detach()) < 0.05
    assert method.explain(report.trace)[0][0] == "<<3+4=7>>"
    assert method.expected(EXAMPLES[0], 2) == ("<<3+4=7>>", None)


def test_what_mux_cannot_supervise_is_refused():
    with pytest.raises(ConfigError, match="has none"):
        built({"name": "mux", "inner": {"name": "cot"}}, "llama")
    with pytest.raises(ConfigError, match="has none"):
        built({"name": "mux", "inner": {"name": "pause", "marker_init": "pens"}}, "llama")
    with pytest.raises(ConfigError, match="same superposition"):
        built({"name": "mux", "inner": {"name": "codi"}, "decay": 0.6}, "llama")
