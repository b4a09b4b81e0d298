"""A head is taught with a run's own samples and scores trajectories; what it cannot be taught with or tried on."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract import cases as cases
from support.fakes.evaluation import FakeTask
from support.fakes.scaling import lesson

from unspoken.causal.latent_ranker import LatentRanker, Learned, Taught
from unspoken.causal.ranker import learn
from unspoken.causal.scaling import scale
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import weights_of
from unspoken.runs.model import Model


@pytest.mark.parametrize("name", ["coconut", "softcot"])
def test_a_head_scores_trajectories_of_random_models(name: str):
    model = Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=4))
    width = model.method.backbone.lm.config.hidden_size * (4 if name == "coconut" else 2) + (2 if name == "coconut" else 1)
    about = lesson(width=width, weights=weights_of(model))
    learned = Learned(head=LatentRanker(width, 16).eval(), control=LatentRanker(width, 16).eval(), lesson=about)
    for head in (learned.head, learned.control):
        torch.nn.init.normal_(head.judge.weight)
    task = FakeTask(examples=cases.EXAMPLES)
    how: dict[str, Any] = {"by": "noise", "counts": (1, 3), "latents": 2, "strength": 2.0}
    report = scale(model, task, ranker=learned, **how)
    assert report.ranking is not None
    assert [len(row) for row in report.ranking.head] == [3] * len(cases.EXAMPLES)
    assert all(value < 0 for row in report.ranking.likelihood for value in row)
    assert report.ranking.head[1:] != report.ranking.control[:-1], "the control is another head"
    assert scale(model, task, **how).report.records == report.report.records, "the same samples as without a head"
    with pytest.raises(ConfigError, match="taught with the latents of another model"):
        scale(model, task, ranker=replace(learned, lesson=lesson(width=width, weights="other")), **how)
    with pytest.raises(ConfigError, match="cannot be tried on the test split that it learnt from"):
        scale(model, task, ranker=replace(learned, lesson=replace(about, fingerprint=task.fingerprint("test"))), **how)
    with pytest.raises(ConfigError, match="trajectories by sampling all have the same latents"):
        scale(model, task, ranker=learned, by="sampling", counts=(2,))


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("coconut", {"by": "noise", "split": "test"}, "never from a test split; got 'test'"),
        (
            "coconut",
            {"by": "sampling"},
            "trajectories by sampling all have the same latents, which a head cannot tell apart",
        ),
        ("coconut", {"by": "noise", "counts": (1,)}, "one above 1"),
        ("coconut", {"by": "noise", "strength": math.inf}, "strength must be positive"),
        ("coconut", {"by": "noise", "trajectory_seed": -1}, "trajectory_seed must be in "),
        ("no-cot", {"by": "noise"}, "this model thinks without latents, so noise has nothing to disturb"),
    ],
)
def test_what_cannot_be_learnt(name: str, how: dict[str, Any], message: str):
    model = Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=3))
    with pytest.raises(ConfigError, match=re.escape(message)):
        learn(model, FakeTask(examples=cases.EXAMPLES), **how)


def test_questions_that_are_asked_are_not_learnt_from(monkeypatch):
    """The lesson counts what it was taught with; the taught numbers are the split's without those that are asked."""
    seen: list[int] = []

    def teach(some: Any, **_: Any) -> Taught:
        seen.append(len(some.right_QN))
        return Taught(head=LatentRanker(some.input_QNKF.shape[3], 4), loss=1.0, chance=1.5, gain=0.5, error=0.1)

    monkeypatch.setattr("unspoken.causal.ranker.teach", teach)
    model, task = (
        Model(cases.shared("coconut", "llama"), SamplingParams(max_new_tokens=2)),
        FakeTask(examples=cases.EXAMPLES),
    )
    monkeypatch.setattr(task, "examples", lambda split: list(cases.EXAMPLES))
    done = learn(model, task, by="noise", counts=(2,), latents=2, limit=4, leave_out=[cases.EXAMPLES[1].question])
    assert seen == [3, 3]
    assert (done.lesson.problems, done.lesson.left_out) == (3, 1)
    assert (done.lesson.kept, done.lesson.mismatched) == (True, 1.0)
    assert done.head.read.input_size == done.lesson.width
