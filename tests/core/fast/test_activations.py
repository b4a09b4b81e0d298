"""GPT-2's activation as one operator: the same function, in training, in answering, and not on the plain path."""

from __future__ import annotations

import copy

import pytest
import torch
from support.backbones import backbone
from torch.profiler import ProfilerActivity, profile
from transformers.activations import NewGELUActivation

from unspoken.core.fast import activations
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


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_norms_are_one_operator_where_a_device_has_a_kernel(family, monkeypatch):
    monkeypatch.setattr(activations, "NORM_DEVICES", {"cpu"})
    fused, spelt = backbone(family), backbone(family)
    for one in (fused, spelt):
        torch.manual_seed(1)
        for name, weight in one.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(weight, 0.5, 2.0)
    fuse_activations(fused.lm)
    norms = [m for m in fused.modules() if "RMSNorm" in type(m).__name__]
    assert norms
    assert all(type(m).__name__.startswith("Fused") for m in norms)
    found, want = passes(fused), passes(spelt)
    assert [name for name, _ in fused.named_parameters()] == [name for name, _ in spelt.named_parameters()]
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with using(PLAIN):
        assert all(torch.equal(one, other) for one, other in zip(passes(fused), want, strict=True))
    low = copy.deepcopy(spelt).to(torch.bfloat16)  # transformers rounds between: not the same function
    both = states(low)[0], states(fused.to(torch.bfloat16))[0]
    assert torch.equal(*both)
    fuse_activations(fused.lm, fused=False)
    assert [type(m) for m in fused.modules()] == [type(m) for m in spelt.modules()]


def passes(one: Backbone) -> list[torch.Tensor]:
    """What nine positions give, and the gradients of every weight."""
    one.zero_grad()
    found = one.step(one.embed(torch.arange(9)[None]), positions_BT=torch.arange(9)[None])
    found.square().sum().backward()
    return [found.detach(), *(p.grad.clone() for p in one.parameters() if p.grad is not None)]


@pytest.mark.parametrize("fused", [True, False])
def test_other_classes_stay(fused):
    class Odd(torch.nn.Module):
        def plain(self): ...

    odd = Odd()
    fuse_activations(odd, fused)
    assert type(odd) is Odd


def test_other_activations_stay():
    kinds = [type(m) for m in backbone("nanochat").modules()]
    one = backbone("nanochat")
    fuse_activations(one)
    assert [type(m) for m in one.modules()] == kinds
    assert NewGELUActivation not in kinds
