"""Trajectories keep what a head reads; the likelihood of answers is the model's own."""

from __future__ import annotations

import pytest
import torch
from contract import cases as cases
from support.fakes.evaluation import FakeTask

from unspoken.causal.trajectories import Way, likelihoods, sampled
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.text.example import Example
from unspoken.runs.model import Model

QUESTIONS = [Example(id=f"x-{i}", question=one.question, answer="1") for i, one in enumerate(cases.EXAMPLES[:3])]


@pytest.mark.parametrize("name", ["coconut", "softcot", "pause"])
def test_likelihoods_are_those_of_a_plain_forward(name: str):
    model = Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=5))
    way = Way.of("noise", (3,), 2.0, latents=2)
    found = sampled(model, FakeTask(examples=QUESTIONS), "test", way, keep=True)
    said = likelihoods(model, found)
    backbone = model.method.backbone
    texts = [one.question for one in QUESTIONS]
    for q, row in enumerate(model.rows(texts, 2, None)):
        for chain, answer in enumerate(found.answers[q]):
            latents_KD = found.traces[f"x-{q}", chain].latents_BKD[0]
            ids = torch.tensor([[*row.ids, *answer.tokens]])
            embeds = backbone.embed(ids).detach().clone()
            embeds[0, row.start : row.start + len(latents_KD)] = latents_KD
            with torch.no_grad():
                logits = backbone.lm(inputs_embeds=embeds).logits[0, len(row.ids) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(answer.tokens)[:, None]).mean()
            assert said[q][chain] == pytest.approx(float(expected), abs=1e-4)
    one_by_one = likelihoods(model, found, batch_size=1)
    assert one_by_one == [pytest.approx(each, abs=1e-4) for each in said]


def test_what_a_head_reads():
    model = Model(cases.shared("coconut", "llama"), SamplingParams(max_new_tokens=3))
    found = sampled(model, FakeTask(examples=QUESTIONS), "test", Way.of("noise", (3,), 2.0, latents=2), keep=True)
    some, D = found.trajectories, model.method.backbone.lm.config.hidden_size
    assert some.input_QNKF.shape == (3, 3, 2, 4 * D + 2)
    assert some.real_QNK.all()
    latents, states = some.input_QNKF[..., :D], some.input_QNKF[..., D : 2 * D]
    assert torch.allclose(latents[:, 0], states[:, 0], atol=1e-5), "Coconut's latent is its state, if nothing disturbs it"
    assert not torch.allclose(latents[:, 1], states[:, 1], atol=1e-2)
    assert torch.allclose(states[:, :, 0], states[:, :1, 0].expand(-1, 3, -1), atol=1e-5), "the question is read undisturbed"
    assert (some.input_QNKF.roll(-1, dims=0) == some.mismatched().input_QNKF).all()
