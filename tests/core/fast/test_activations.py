"""GPT-2's activation as one operator: the same function, in training, in answering, and not on the plain path."""

from __future__ import annotations

import torch
from support.backbones import backbone
from torch.profiler import ProfilerActivity, profile
from transformers.activations import NewGELUActivation

from unspoken.core.fast.activations import fuse_activations
from unspoken.core.fast.cpu_linear import use_dtype
from unspoken.core.fast.switch import PLAIN, using
from unspoken.core.lm.backbone import Backbone
from unspoken.methods import make_method


def states(one: Backbone) -> tuple[torch.Tensor, int]:
    """What nine positions give, and how many hyperbolic tangents were operators of their own."""
    places, embeds = torch.arange(9)[None], one.embed(torch.arange(9)[None])
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        found = one.step(embeds, positions_BT=places)
    return found, sum(event.count for event in seen.key_averages() if event.key == "aten::tanh")


def test_it_is_one_operator_and_the_same_function():
    fused, spelt = backbone("gpt2"), backbone("gpt2")
    fuse_activations(fused.lm)
    (want, several), (found, none) = states(spelt), states(fused)
    assert several == fused.lm.config.num_hidden_layers
    assert none == 0
    torch.testing.assert_close(found, want)
    with using(PLAIN):
        assert torch.equal(states(fused)[0], want)
    fuse_activations(fused.lm, fused=False)
    assert [type(m) for m in fused.modules()] == [type(m) for m in spelt.modules()]


def test_a_model_that_answers_has_it():
    method = make_method({"name": "coconut", "max_stage": 1}, backbone("gpt2")).eval()
    use_dtype(method, None)
    assert states(method.backbone)[1] == 0


def test_other_activations_stay():
    kinds = [type(m) for m in backbone("llama").modules()]
    one = backbone("llama")
    fuse_activations(one)
    assert [type(m) for m in one.modules()] == kinds
    assert NewGELUActivation not in kinds
