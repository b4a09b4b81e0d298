"""Interventions: exactly the latents they name change, to exactly what they say, in every kind of latent method."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from contract import cases as cases

from unspoken.causal.interventions import (
    Add,
    Drop,
    Intervened,
    Mean,
    Noise,
    Patch,
    Replace,
    Swap,
    Zero,
    intervene,
    slot_vector,
)
from unspoken.causal.known import KnownLatents
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError, DataError
from unspoken.runs.model import Model

QUESTIONS = [e.question for e in cases.EXAMPLES]
RECURRENT = ("coconut", "codi", "sim_cot", "sim_cot codi")
PROMPTED = ("softcot", "sim_cot softcot", "semcot", "pause", "coconut pause", "sim_cot pause")
every_method = pytest.mark.parametrize("name", [*RECURRENT, *PROMPTED])
K = 4


def model(name: str) -> Model:
    """A random model of a case of the contract."""
    return Model(cases.shared(name, "llama"), SamplingParams(max_new_tokens=6))


def run(name: str, *interventions: Any, **how: Any) -> tuple[Intervened, torch.Tensor, torch.Tensor]:
    """What happened, and the latents [Q, K, D] before and after."""
    how = {"latents": K, "batch_size": 2, **how}
    done = intervene(model(name), QUESTIONS, *interventions, **how)
    stacked = [torch.cat([t.latents_BKD[:, :K] for t in traces]) for traces in (done.plain_traces, done.traces)]
    return done, stacked[0], stacked[1]


@every_method
def test_zero_changes_the_named_latents_only(name: str):
    """Of question 1 and the last, latents 1 and 3; in front of a changed latent everything is as it was."""
    done, before, after = run(name, Zero(latents=[1, -1], questions=[1, 4]))
    for i in (1, 4):
        assert not after[i, [1, 3]].any()
        torch.testing.assert_close(after[i, 0], before[i, 0])
        same = torch.allclose(after[i, 2], before[i, 2], atol=1e-4)
        assert same == (name in PROMPTED), "a recurrent method thinks the next latent from the changed state"
    torch.testing.assert_close(after[[0, 2, 3]], before[[0, 2, 3]])
    assert set(done.changed) <= {1, 4}
    assert all(a.latents == K for a in done.answers)
    texts = [(before.text, after.text) for before, after in zip(done.plain, done.answers, strict=True)]
    assert done.changed == [i for i, (before, after) in enumerate(texts) if before != after]


@every_method
def test_held_latents_stay_as_they_were(name: str):
    _, before, after = run(name, Zero(latents=[0], questions=[2]), hold=True)
    assert not after[2, 0].any()
    torch.testing.assert_close(after[2, 1:], before[2, 1:])


@pytest.mark.parametrize("name", ["coconut", "codi", "softcot"])
def test_answers_change_where_all_latents_are_replaced(name: str):
    """Else nothing here would show that what is fed is what the answer is made from."""
    done, before, after = run(name, Replace(vectors=5 * torch.ones(32)))
    assert done.changed
    assert (after == 5).all()
    assert not (before == 5).any()


@every_method
def test_each_intervention_feeds_what_it_says(name: str):
    rng = np.random.default_rng(0)
    table, direction = rng.standard_normal((K, 32)), rng.standard_normal(32)
    width = run(name)[1].shape[2]
    assert width == 32
    known = before = run(name)[1]

    def fed(*interventions: Any, **how: Any) -> torch.Tensor:
        return run(name, *interventions, **how)[2]

    torch.testing.assert_close(fed(Replace(vectors=table))[3], torch.tensor(table, dtype=torch.float32))
    mean = before.mean(dim=0)
    torch.testing.assert_close(fed(Mean(questions=[3]))[3], mean)
    swapped = fed(Swap(latents=(0, 2), questions=[0]), hold=True)
    torch.testing.assert_close(swapped[0], before[0, [2, 1, 0, 3]])
    donors = [1, 2, 3, 4, 0]
    torch.testing.assert_close(fed(Patch(donors=donors)), known[donors])
    torch.testing.assert_close(fed(Patch(donors=2, place=1, latents=[0], questions=[4]))[4, 0], known[2, 1])
    added = fed(Add(direction=direction, scale=2.0, latents=[0]))[:, 0] - before[:, 0]
    torch.testing.assert_close(
        added, 2 * torch.tensor(direction, dtype=torch.float32).expand_as(added), atol=1e-4, rtol=1e-4
    )
    one_after_the_other = fed(Zero(latents=[0]), Add(direction=direction, latents=[0]))[:, 0]
    torch.testing.assert_close(one_after_the_other, torch.tensor(direction, dtype=torch.float32).expand_as(added))
    dropped = fed(Drop(share=0.5), hold=True)
    torch.testing.assert_close(dropped[dropped != 0], 2 * before[dropped != 0])
    assert 0.4 < float((dropped == 0).float().mean()) < 0.6


@every_method
def test_noise_is_measured_by_the_latents_and_is_each_latents_own(name: str):
    _, before, after = run(name, Noise(scale=0.5), hold=True)
    off = after - before
    std_K = before.transpose(0, 1).reshape(K, -1).std(dim=1, unbiased=False)
    np.testing.assert_allclose(off.transpose(0, 1).reshape(K, -1).std(dim=1) / std_K, 0.5, rtol=0.25)
    assert len({round(float(v), 5) for v in (off / std_K[None, :, None])[:, :, 0].reshape(-1)}) == len(QUESTIONS) * K
    again = run(name, Noise(scale=0.5), hold=True, batch_size=5)[2]
    torch.testing.assert_close(again, after, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run(name, Noise(scale=0.5, seed=1), hold=True)[2], after, atol=1e-3)


@pytest.mark.parametrize("name", ["coconut", "softcot"])
def test_spared_sets_stay_as_they_are(name: str):
    """Scaling spares the first path: it is the unmodified answer."""
    from unspoken.causal.interventions import edit_of

    asked = model(name)
    plain = asked.answer(QUESTIONS, latents=K)
    known = KnownLatents(
        torch.randn(len(QUESTIONS), K, 32), np.full(len(QUESTIONS), K), [f"question {i}" for i in range(len(QUESTIONS))]
    )
    for one in (Noise(scale=9.0, spare=1), Drop(share=0.9, spare=1)):
        given = asked.sample(QUESTIONS, latents=K, chains=3, edit=edit_of([one], known))
        assert [a[0].text for a in given] == [a.text for a in plain]
        assert any(len({a.text for a in answers}) > 1 for answers in given)


def test_decoded_thoughts_follow():
    done = intervene(model("sim_cot"), QUESTIONS, Zero(), latents=K, explain=True)
    assert done.answers[0].thoughts == done.answers[1].thoughts, "zeros decode alike"
    assert [a.thoughts for a in done.plain] != [a.thoughts for a in done.answers]


def test_the_token_of_the_slots():
    """Pause tokens fed instead of latents are what the loop feeds where there is no source."""
    asked = model("coconut")
    done = intervene(asked, QUESTIONS[:1], Replace(vectors=slot_vector(asked, QUESTIONS[0])), latents=2)
    marker = asked.method.backbone.embed(torch.tensor([asked.method.prompt(QUESTIONS[0], 1).ids[-2]]))[0]
    torch.testing.assert_close(done.traces[0].latents_BKD[0], marker.expand(2, -1))
    with pytest.raises(ConfigError, match="makes no latents while it thinks, so no token stands in their place"):
        slot_vector(model("no-cot"), "How many?")


def test_what_is_known_of_rows_of_different_length():
    rows = {("a", 0): torch.tensor([[1.0, 3.0], [5.0, 5.0]]), ("b", 0): torch.tensor([[3.0, 5.0]])}
    known = KnownLatents.of(rows, ["a", "b"])
    assert known.rows([("b", 1), ("a", 0)]).tolist() == [3, 0]
    with pytest.raises(ConfigError, match="'c' is no question of the unmodified run"):
        known.rows([("c", 0)])
    torch.testing.assert_close(known.mean_KD, torch.tensor([[2.0, 4.0], [5.0, 5.0]]))
    torch.testing.assert_close(known.std_K, torch.tensor([2.0**0.5, 0.0]))
    torch.testing.assert_close(known.at(np.array([1, 0]), np.array([1, 1])), torch.tensor([[3.0, 5.0], [5.0, 5.0]]))
    assert not known.alike
    assert KnownLatents.of({(name, 0): rows["a", 0].clone() for name in "ab"}, ["a", "b"]).alike


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (Zero(latents=[4]), "latent 4 is not there: each question has 4, counted from 0 (from the end: from -1)"),
        (Zero(latents=[-5]), "latent -5 is not there"),
        (Zero(questions=[5]), "question 5 is not there: the call has 5, numbered from 0"),
        (Patch(donors=7), "donors must be a question's number in 0..4, or one for each of 5, got 7"),
        (Patch(donors=[0, 1]), "or one for each of 5, got [0, 1]"),
        (Replace(vectors=[1.0, 2.0]), "vectors must have the width of the model's latents, 32, got (2,)"),
        (Replace(vectors=np.zeros((3, 32))), "or one per latent, 4 of them; got 3"),
        (Add(direction=np.zeros(31)), "direction must have the width of the model's latents, 32, got (31,)"),
    ],
)
def test_what_cannot_be_done(intervention: Any, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run("coconut", intervention)


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match=re.escape("Swap needs two places, e.g. latents=(0, 1), got (1,)")):
        Swap(latents=(1,))
    with pytest.raises(ConfigError, match="the scale of noise must be 0 or more, got -1"):
        Noise(scale=-1)
    with pytest.raises(ConfigError, match=re.escape("the share of dropped entries must be in [0, 1), got 1.0")):
        Drop(share=1.0)
    with pytest.raises(ConfigError, match="no latents were thought, so there is nothing to change"):
        run("coconut", Zero(), latents=0)
    with pytest.raises(ConfigError, match="no latents"):
        intervene(model("no-cot"), QUESTIONS, Zero())
    with pytest.raises(DataError, match="there is no question to intervene in"):
        intervene(model("coconut"), [], Zero())
