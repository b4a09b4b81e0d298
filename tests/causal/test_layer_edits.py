"""Interventions in layers: exactly the named states change, to exactly what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract import cases as cases

from unspoken.causal.interventions import Add, Mean, Noise, Patch, Replace, Swap, Zero, edit_of, intervene
from unspoken.causal.known import KnownLatents, KnownStates
from unspoken.core.loop.layers import Columns, LayerWatch
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError
from unspoken.runs.model import Model

QUESTIONS = [e.question for e in cases.EXAMPLES]
every_method = pytest.mark.parametrize("name", ["coconut", "codi", "softcot", "pause", "sim_cot"])
both = pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])


def model(name: str = "coconut", family: str = "llama") -> Model:
    """A random model of a case of the contract."""
    return Model(cases.shared(name, family), SamplingParams(max_new_tokens=6))


def by_hand(it: Model, layer: int, new: dict[int, Any], part: Any, number: int, **how: Any) -> list[str]:
    """Answers with states [D] put in at one place of some questions, by an edit that knows nothing of interventions."""

    def edit(now: int, states_BWD: torch.Tensor, columns: Columns) -> torch.Tensor:
        if now != layer:
            return states_BWD
        states_BWD = states_BWD.clone()
        for b, w in columns.at(part, number).nonzero().tolist():
            if int(columns.rows_B[b]) in new:
                states_BWD[b, w] = new[int(columns.rows_B[b])]
        return states_BWD

    return [a.text for a in it.answer(QUESTIONS, watch=LayerWatch(edit=edit), **how)]


@both
@every_method
def test_a_patch_puts_in_the_donors_state(name: str, family: str) -> None:
    it = model(name, family)
    how: dict[str, Any] = {"latents": 3, "batch_size": 2}
    traced = it.trace(QUESTIONS, **how)
    done = intervene(it, QUESTIONS, Patch(donors=1, layer=1, latents=[1], questions=[0, 3]), **how)
    donor = traced.at("latent", 1)[1, 1]
    assert [a.text for a in done.answers] == by_hand(it, 1, {0: donor, 3: donor}, "latent", 1, **how)
    assert [a.tokens for a in done.plain] == [a.tokens for a in it.answer(QUESTIONS, **how)]
    assert set(done.changed) <= {0, 3}


def test_positions_are_aligned_at_the_end_of_the_prompt() -> None:
    """Questions have unlike lengths; -1 is the last position of each."""
    it = model()
    traced = it.trace(QUESTIONS)
    assert len(set(traced.prompts_B.tolist())) > 1
    done = intervene(it, QUESTIONS, Patch(donors=2, layer=-1, positions=[-1]))
    donor = traced.at("prompt", 2)[-1, -1]
    want = by_hand(it, 2, dict.fromkeys(range(len(QUESTIONS)), donor), "prompt", -1)
    assert [a.text for a in done.answers] == want
    assert done.changed, "the state that the first token is chosen from is another question's"
    assert len({a.tokens[0] for a in done.answers}) == 1


@pytest.mark.parametrize("place", [0, 3, -2])
def test_a_direction_is_added_at_a_position(place: int) -> None:
    it = model("coconut", "gpt2")
    shift = 40 * torch.randn(it.method.backbone.width, generator=torch.Generator().manual_seed(0))
    traced = it.trace(QUESTIONS)
    done = intervene(it, QUESTIONS, Add(direction=shift, layer=1, positions=[place], questions=[1, 2]))
    new = {q: traced.at("prompt", q)[1, place] + shift for q in (1, 2)}
    assert [a.text for a in done.answers] == by_hand(it, 1, new, "prompt", place)
    assert done.changed
    assert set(done.changed) <= {1, 2}


def test_spoken_tokens_and_the_embeddings() -> None:
    it = model()
    vector = torch.randn(it.method.backbone.width, generator=torch.Generator().manual_seed(1))
    done = intervene(it, QUESTIONS, Replace(vectors=vector, layer=0, spoken=[0]))
    want = by_hand(it, 0, dict.fromkeys(range(len(QUESTIONS)), vector), "spoken", 0)
    assert [a.text for a in done.answers] == want
    assert all(a.tokens[0] == b.tokens[0] for a, b in zip(done.plain, done.answers, strict=True))
    assert done.changed


def test_means_and_fed_vectors_together() -> None:
    """Fed vectors are changed first, then what layers make of them; the mean is the plain run's at that layer."""
    it = model()
    traced = it.trace(QUESTIONS)
    means = traced.states_LBTD[1, torch.arange(len(QUESTIONS)), torch.from_numpy(traced.starts_B)].mean(dim=0)
    done = intervene(it, QUESTIONS, Mean(layer=1, latents=[0]))
    assert [a.text for a in done.answers] == by_hand(it, 1, dict.fromkeys(range(len(QUESTIONS)), means), "latent", 0)
    both = intervene(it, QUESTIONS, Zero(latents=[1]), Mean(layer=1, latents=[0]))
    assert not any(trace.latents_BKD[0, 1].any() for trace in both.traces)
    held = intervene(it, QUESTIONS, Mean(layer=1, latents=[0]), hold=True)
    for before, after in zip(held.plain_traces, held.traces, strict=True):
        torch.testing.assert_close(before.latents_BKD, after.latents_BKD)
    assert not torch.allclose(done.traces[0].latents_BKD[0, 1], done.plain_traces[0].latents_BKD[0, 1])


def test_nothing_changes_where_the_state_is_its_own() -> None:
    it = model()
    own = Patch(donors=range(len(QUESTIONS)), layer=1)
    done = intervene(it, QUESTIONS, own, Swap(layer=2, latents=(0, 0)), Noise(scale=0.0, layer=1))
    assert done.changed == []


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Zero(layer=9), "0 is what enters the first of 2 layers"),
        (lambda: Zero(layer=1, latents=[7]), "latent 7 is not there"),
        (lambda: Zero(layer=1, positions=[500]), "position 500 is not there"),
        (lambda: Zero(layer=1, spoken=[-1]), "counted from 0"),
        (lambda: Zero(layer=1, questions=[99]), "question 99 is not there"),
        (lambda: Zero(positions=[0]), "positions and spoken tokens are places in a layer"),
        (lambda: Swap(layer=1, latents=(0, 1), positions=[0]), "Swap changes two latents"),
        (lambda: Replace(vectors=torch.zeros(3), layer=1), "must have the width"),
        (lambda: Replace(vectors=torch.zeros(9, 32), layer=1, positions=[-1]), r"one vector \[D\]"),
        (lambda: Patch(donors=0, place=3, layer=1, positions=[-1]), "from the end"),
    ],
)  # fmt: skip
def test_what_is_refused(made: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        intervene(model(), QUESTIONS, made(), latents=3)


def test_a_layer_is_no_edit_of_what_is_fed() -> None:
    with pytest.raises(ConfigError, match="states of a layer are changed by `intervene`"):
        edit_of([Zero(layer=1)], KnownLatents.of({("a", 0): torch.ones(2, 4)}, ["a"]))


def test_a_donor_that_has_said_less_has_no_state_to_give() -> None:
    traced = model().trace(QUESTIONS)
    known = KnownStates(traced, 1, "prompt", False, [str(i) for i in range(len(QUESTIONS))])
    shortest = int(traced.prompts_B.argmin())
    with pytest.raises(ConfigError, match=f"question {shortest} has no place {traced.prompts_B[shortest]} of its prompt"):
        known.at(np.array([shortest]), np.array([traced.prompts_B[shortest]]))
