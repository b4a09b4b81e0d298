"""Training's short cuts on a CUDA device: the same loss and gradients with and without. Skipped without one."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from contract.cases import training_rows
from support import backbones

from benchmarks import train
from benchmarks.workloads import Load
from unspoken.core.fast import chunked_loss, packing, shared_gradients
from unspoken.core.fast.activations import fuse_activations
from unspoken.core.rows.batch import collate
from unspoken.methods import make_method

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "first_stage": 0},
    "codi": {"name": "codi", "latents": 4, "trailing": True},
    "sim_cot": {"name": "sim_cot", "inner": {"name": "coconut"}},
}


def step(method: Any, precision: str) -> tuple[float, torch.Tensor]:
    """Loss and all gradients of a step."""
    method.zero_grad(set_to_none=True)
    batch = collate(training_rows(method)).to("cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
        total = method(batch, method.counts(batch)).total
    total.backward()
    return float(total.detach()), torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", backbones.ARCHS)
@pytest.mark.parametrize("name", METHODS)
def test_packed_passes_and_shared_gradients(name, family, precision, monkeypatch):
    torch.backends.cuda.matmul.allow_tf32 = False
    method: Any = make_method(METHODS[name], backbones.backbone(family)).cuda().eval()
    monkeypatch.setattr(packing, "WORTH", 1.0)
    monkeypatch.setattr(shared_gradients, "LEAST", 10**12)
    want, wanted = step(method, precision)
    monkeypatch.setattr(packing, "WORTH", 0.0)
    monkeypatch.setattr(shared_gradients, "LEAST", 1)
    monkeypatch.setattr(shared_gradients, "ON_GPU", True)
    got, grads = step(method, precision)
    assert got == pytest.approx(want, rel=1e-5 if precision == "fp32" else 1e-2)
    assert float((grads - wanted).norm() / wanted.norm()) < (1e-4 if precision == "fp32" else 5e-2)


def test_attention_makes_no_plan_for_each_shape():
    method: Any = make_method(METHODS["coconut"], backbones.backbone("llama")).cuda().eval()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step(method, "bf16")
    names = {event.key for event in found.key_averages()}
    assert any("attention" in name for name in names)
    assert not any("cudnn_attention" in name for name in names)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_norm_is_one_kernel(precision):
    torch.backends.cuda.matmul.allow_tf32 = False
    method: Any = make_method(METHODS["coconut"], backbones.backbone("llama")).cuda().eval()
    want, wanted = step(method, precision)
    fuse_activations(method)
    got, grads = step(method, precision)
    assert got == pytest.approx(want, rel=1e-5 if precision == "fp32" else 1e-2)
    assert float((grads - wanted).norm() / wanted.norm()) < (1e-4 if precision == "fp32" else 5e-2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step(method, precision)
    assert not any(event.key == "aten::rsqrt" for event in found.key_averages())


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ligers_kernel(dtype, monkeypatch):
    torch.manual_seed(0)
    head, labels = torch.nn.Linear(64, 5003, bias=False).cuda(), torch.randint(0, 5003, (300,)).cuda()
    states, found = torch.randn(300, 64, device="cuda"), []
    kernel = chunked_loss._liger("cuda")
    for mine in (None, kernel):
        monkeypatch.setattr(chunked_loss, "_liger", lambda _, mine=mine: mine)
        given = states.clone().requires_grad_()
        head.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss, _ = chunked_loss.weighted_cross_entropy(given, labels, head, None, piece=100_000)
        loss.backward()
        assert head.weight.grad is not None
        found.append((float(loss), given.grad, head.weight.grad.clone()))
    rough = 1e-4 if dtype == torch.float32 else 3e-2
    assert found[1][0] == pytest.approx(found[0][0], rel=rough)
    for got, want in zip(found[1][1:], found[0][1:], strict=True):
        assert float((got - want).norm() / want.norm()) < rough


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bench_runs_and_no_step_waits(precision, monkeypatch):
    monkeypatch.setattr(chunked_loss, "_liger", lambda _: None)  # its kernel looks at the labels and waits
    load = Load(rows=4, length=60, labels=20)
    report = train.measure("small-test", ["sim_cot", "codi"], rounds=1, precision=precision, load=load, codi_batch=8)
    for found in report["workloads"].values():
        for name, side in found["sides"].items():
            assert side["peak_memory"] > 0
            if "ours" in name:
                assert side["waits"] == 0
