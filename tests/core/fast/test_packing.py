"""Passes without padding give what padded ones give: states, losses, gradients; and the matrices see no padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import training_rows
from support import backbones, families

from unspoken.core.fast import packing
from unspoken.core.rows.batch import collate
from unspoken.methods import make_method

METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "first_stage": 0},
    "codi": {"name": "codi", "latents": 4, "trailing": True},
    "coconut parallel": {"name": "coconut", "first_stage": 0},
    "sim_cot": {"name": "sim_cot", "inner": {"name": "coconut"}},
}
PADDED = {"bloom", "opt", "gemma2", "mistral"}
"""Families that are run padded: they count columns, or have a sliding window."""


def step(method: Any) -> tuple[float, dict[str, torch.Tensor], Any]:
    """Loss, gradients and cost of a step."""
    method.zero_grad(set_to_none=True)
    batch = collate(training_rows(method))
    report = method(batch, method.counts(batch))
    report.total.backward()
    grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return float(report.total.detach()), grads, report.trace.cost


def assert_alike(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]):
    assert got.keys() == want.keys()
    for key, grad in want.items():
        torch.testing.assert_close(got[key], grad, rtol=1e-4, atol=1e-5 * max(1.0, float(grad.abs().max())), msg=key)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_that_of_padded_passes(name: str, family: str, monkeypatch: pytest.MonkeyPatch):
    base = backbones.backbone(family)
    base.parallel = 2 if name.endswith("parallel") else None
    method: Any = make_method(METHODS[name], base)
    monkeypatch.setattr(packing, "WORTH", 1.0)
    want, want_grads, padded = step(method)
    monkeypatch.setattr(packing, "WORTH", 0.04)
    got, got_grads, packed = step(method)
    assert got == pytest.approx(want, rel=1e-6)
    assert_alike(got_grads, want_grads)
    assert packed.positions == padded.positions
    assert packed.slots < padded.slots


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_gives_the_same(family: str, monkeypatch: pytest.MonkeyPatch):
    method: Any = families.model(family).method.eval()
    assert packing.takes_packing(method.backbone.lm) == (family not in PADDED)
    monkeypatch.setattr(packing, "WORTH", 1.0)
    want, want_grads, _ = step(method)
    monkeypatch.setattr(packing, "WORTH", 0.0)
    got, got_grads, _ = step(method)
    assert got == pytest.approx(want, rel=1e-5)
    assert_alike(got_grads, want_grads)


def test_matrices_see_the_real_columns_only():
    method: Any = make_method(METHODS["coconut"], backbones.backbone("llama"))
    seen: list[int] = []
    layer = method.backbone.lm.base_model.layers[0].mlp
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:2].numel()))
    _, _, cost = step(method)
    assert sum(seen) == cost.slots
    assert cost.slots < 1.04 * cost.positions


def test_padding_gets_no_state_and_real_columns_theirs():
    backbone = backbones.backbone("llama")
    embeds_BWD = backbone.embed(torch.arange(1, 11).view(2, 5))
    real_BW = np.arange(5) < np.array([[5], [2]])
    real = torch.from_numpy(real_BW)
    given: Any = {"positions_BT": torch.arange(5).expand(2, -1), "mask": real.long()}
    packed_BWD = backbone.step(embeds_BWD, **given, real=real_BW)
    assert (packed_BWD[1, 2:] == 0).all()
    torch.testing.assert_close(packed_BWD[real], backbone.step(embeds_BWD, **given)[real])
    assert backbone.lm.config._attn_implementation == "sdpa"


def test_eager_attention_is_run_padded():
    backbone = backbones.backbone("llama")
    backbone.lm.set_attn_implementation("eager")
    del backbone.lm._takes_packing, backbone.lm._takes_pairs
    assert not packing.takes_packing(backbone.lm)
