"""What only a CUDA device can show. Skipped without one; continuous integration has none."""

from __future__ import annotations

from random import Random

import pytest
import torch
from support import backbones

from unspoken.core.rows.batch import collate
from unspoken.core.text.example import Example
from unspoken.methods import make_method
from unspoken.runs.model import Model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

METHODS = {
    "coconut": {
        "name": "sim_cot",
        "inner": {"name": "coconut", "curriculum": "progressive", "first_stage": 0, "max_stage": 2},
    },
    "codi": {"name": "sim_cot", "inner": {"name": "codi", "latents": 3, "trailing": True}, "normalisation": "group"},
}
QUESTIONS = ["Ann has 3 pens and buys 4 more. She then doubles them.", "Bob has 9 figs."]
EXAMPLES = [Example(question=q, steps=("<<3+4=7>>", "<<7*2=14>>"), answer="14") for q in QUESTIONS]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", backbones.ARCHS)
def test_answers_and_thoughts_are_those_of_the_cpu(family, name):
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Model(make_method(METHODS[name], backbones.backbone(family))))
    models[1].method.cuda()
    said = [[(a.tokens, a.thoughts) for a in m.answer(QUESTIONS, max_new_tokens=8, explain=True)] for m in models]
    assert said[0] == said[1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_is_that_of_the_cpu(precision, name):
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        method = make_method(METHODS[name], backbones.backbone()).to(device)
        batch = collate([method.layout(e, method.curriculum().last, Random(0)) for e in EXAMPLES]).to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            report = method(batch, method.counts(batch))
        report.total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
        losses.append(float(report.total))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "fp32" else 3e-2)
