"""Activations made again: the loss, every gradient and every dropout draw are the same, and far less is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.cases import training_rows
from support import backbones
from torch.profiler import ProfilerActivity, profile
from transformers import DynamicCache

from unspoken.core.fast import packing
from unspoken.core.fast.activation_checkpointing import PassLayer, checkpoint_activations
from unspoken.core.loop.generate import generate
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Jacobi, Recurrence
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.methods import make_method

METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "first_stage": 0},
    "codi": {"name": "codi", "latents": 4, "trailing": True},
    "coconut parallel": {"name": "coconut", "first_stage": 0},
    "sim_cot": {"name": "sim_cot", "inner": {"name": "coconut"}, "decoder": {"dropout": True}},
}


def step(name: str, family: str, checkpointing: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a step with dropout."""
    dropout: dict[str, Any] = {"resid_pdrop": 0.1, "attn_pdrop": 0.1} if family == "gpt2" else {}
    base = backbones.backbone(family, **dropout)
    torch.manual_seed(1)
    base.parallel = 2 if name.endswith("parallel") else None
    method: Any = make_method(METHODS[name], base)
    method.train()
    checkpoint_activations(method, checkpointing)
    batch = collate(training_rows(method))
    torch.manual_seed(5)
    loss = method(batch, method.counts(batch)).total
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_same(name: str, family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "WORTH", 1.0)  # a packed pass draws its dropout for the real columns only
    want, want_grads = step(name, family, False)
    got, got_grads = step(name, family, True)
    assert got == pytest.approx(want, rel=1e-6)
    assert got_grads.keys() == want_grads.keys()
    for key, grad in want_grads.items():
        torch.testing.assert_close(got_grads[key], grad, rtol=1e-4, atol=1e-5 * max(1.0, float(grad.abs().max())), msg=key)


def kept_bytes(checkpointing: bool, family: str, source: Any) -> int:
    """What a forward pass leaves behind for its backward pass: all that was allocated in it, less what was freed."""
    backbone = backbones.backbone(family, **({"n_layer": 6} if family == "gpt2" else {"num_hidden_layers": 6}))
    backbone.checkpointing = checkpointing
    batch = collate([Row(ids=(5,) * 60, labels=(IGNORE,) * 60, start=40, latents=6)] * 4)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trace = unroll(backbone, batch, source)
    assert trace.hidden_BSD is not None
    return sum(event.self_cpu_memory_usage for event in seen.key_averages())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("source", [Recurrence(), Jacobi(Recurrence(), 2)], ids=["in turn", "parallel"])
def test_far_less_is_kept(family: str, source: Any):
    assert 0 < kept_bytes(True, family, source) < 0.3 * kept_bytes(False, family, source)


def test_inference_has_an_ordinary_cache():
    backbone = backbones.backbone("llama")
    backbone.checkpointing = True
    rows = [Row(ids=(5,) * 20, labels=(IGNORE,) * 20, start=12, latents=3)]
    said = generate(backbone, rows, Recurrence(), SamplingParams(max_new_tokens=4))
    backbone.checkpointing = False
    assert said[0].tokens == generate(backbone, rows, Recurrence(), SamplingParams(max_new_tokens=4))[0].tokens
    with torch.no_grad():
        assert not any(isinstance(layer, PassLayer) for layer in backbone.new_cache().layers)
    assert type(backbone.new_cache()) is DynamicCache


def test_the_layers_are_their_own_again():
    """Also after a pass that failed."""
    backbone = backbones.backbone("llama")
    backbone.checkpointing = True
    with pytest.raises(RuntimeError):
        backbone.step(torch.zeros(1, 3, 7), positions_BT=torch.arange(3)[None], cache=backbone.new_cache())
    assert all("forward" not in vars(module) for module in backbone.modules())
