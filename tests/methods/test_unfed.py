"""Coconut whose states are kept and not fed: it computes what pause tokens do, and a decoder reads the states."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import EXAMPLES, built, prompts, shared, training_rows

from unspoken.core.loop.generate import think
from unspoken.core.loop.loop import unroll
from unspoken.core.rows.batch import collate
from unspoken.errors import ConfigError
from unspoken.exporters.hf_folder import thoughts_of
from unspoken.inspector.monitor import Monitor
from unspoken.runs.model import Model


@pytest.fixture
def unfed() -> Any:
    return shared("coconut unfed", "llama")


@pytest.fixture
def pause(unfed: Any) -> Any:
    """The same weights."""
    method = shared("coconut pause", "llama")
    assert all(torch.equal(mine, its) for mine, its in zip(method.parameters(), unfed.parameters(), strict=True))
    return method


def test_it_learns_and_answers_as_pause_tokens_do(unfed: Any, pause: Any):
    batch = collate(training_rows(unfed))
    losses = []
    for method in (unfed, pause):
        method.zero_grad()
        report = method(batch, method.counts(batch))
        report.total.backward()
        losses.append((report.total.item(), [p.grad.clone() for p in method.parameters() if p.grad is not None]))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    for mine, its in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)
    questions = [example.question for example in EXAMPLES]
    ours, theirs = (Model(method).answer(questions, max_new_tokens=5) for method in (unfed, pause))
    assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]


def test_the_states_are_those_before_the_slots(unfed: Any, pause: Any):
    rows = [row for row in prompts(unfed) if row.latents]
    mine, its = think(unfed.backbone, rows, unfed.source()), unroll(pause.backbone, collate(rows), None)
    assert mine.states_BKD is not None
    torch.testing.assert_close(mine.latents_BKD, its.latents_BKD)
    for b, row in enumerate(rows):
        for k in range(row.latents):
            at = its.hidden_at(np.array([b]), np.array([row.start + k - 1]))[0]
            torch.testing.assert_close(mine.states_BKD[b, k], at, rtol=1e-4, atol=1e-5)


def test_the_decoder_reads_states():
    """Else it would read the same for every problem; and its loss reaches the model through them."""
    method = shared("sim_cot states", "llama")
    stage = method.curriculum().last
    batch = collate([method.layout(example, stage, Random(0)) for example in EXAMPLES])
    method.zero_grad()
    report = method(batch, method.counts(batch))
    assert torch.equal(method._read(report.trace), report.trace.states_BKD)
    report.terms["explain"].backward()
    reached = [name for name, p in method.backbone.named_parameters() if p.grad is not None and p.grad.any()]
    assert any(".layers.0." in name for name in reached)
    told = Model(method).answer([example.question for example in EXAMPLES], explain=True, max_new_tokens=3)
    assert len({answer.thoughts for answer in told}) > 1
    constant = shared("sim_cot pause", "llama")
    told = Model(constant).answer([example.question for example in EXAMPLES], explain=True, max_new_tokens=3)
    assert len({answer.thoughts for answer in told}) == 1


def test_what_the_decoder_reads_of_a_projected_method_is_not_projected():
    inner = {"name": "codi", "separator": "", "projection_width": 8}
    method: Any = built({"name": "sim_cot", "inner": inner, "reads": "states"}, "llama")
    stage = method.curriculum().last
    batch = collate([method.layout(example, stage, Random(0)) for example in EXAMPLES])
    trace = method(batch, method.counts(batch)).trace
    assert torch.equal(method._read(trace), trace.states_BKD)
    assert not torch.equal(trace.states_BKD, trace.latents_BKD)


@pytest.mark.parametrize("inner", [{"name": "coconut", "thoughts": "pause"}, {"name": "pause", "marker_init": "pens"}])
def test_states_that_are_not_kept_cannot_be_read(inner: dict[str, Any]):
    with pytest.raises(ConfigError, match="reads='states' needs latents that the model makes"):
        built({"name": "sim_cot", "inner": inner, "reads": "states"}, "llama")


def test_it_is_no_collapse_and_is_exported_as_tokens(unfed: Any, pause: Any):
    row = Monitor(unfed, EXAMPLES).look(1, unfed.curriculum().last, [])
    assert row is not None
    assert row["across"] == pytest.approx(0.0, abs=1e-5)
    assert row["collapse"] is None
    written = [thoughts_of(method) for method in (unfed, pause)]
    assert written[0] == written[1]
    assert written[0] is not None
    assert written[0].about["thoughts"] == "tokens"
