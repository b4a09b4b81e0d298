"""Gradients of matrices made once for all passes: the same sums, whatever else autograd is asked for."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from contract.cases import training_rows
from support import backbones
from torch.utils._python_dispatch import TorchDispatchMode

from unspoken.core.fast import shared_gradients
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.rows.batch import collate
from unspoken.methods import make_method

METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "first_stage": 0},
    "codi": {"name": "codi", "latents": 4, "trailing": True},
    "sim_cot": {"name": "sim_cot", "inner": {"name": "coconut"}},
}


@pytest.fixture(autouse=True)
def _small_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_gradients, "LEAST", 1)


def method_of(name: str, family: str, lora: bool = False) -> Any:
    base = backbones.backbone(family)
    torch.manual_seed(1)
    method: Any = make_method(METHODS[name], base)
    if lora:
        method.backbone.adapt(LoraSettings(r=4, alpha=8.0))
        for key, weight in method.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.1)
    return method.eval()


def loss_of(method: Any) -> Any:
    batch = collate(training_rows(method))
    return method(batch, method.counts(batch))


def grads_of(method: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def both(method: Any, monkeypatch: pytest.MonkeyPatch, **autocast: Any) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """Loss and gradients as usual, and with shared passes."""
    found = []
    for least in (10**12, 1):
        monkeypatch.setattr(shared_gradients, "LEAST", least)
        method.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(autocast)):
            loss = loss_of(method).total
        loss.backward()
        found.append((float(loss.detach()), grads_of(method)))
    return found


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_single_passes(name: str, family: str, lora: bool, monkeypatch: pytest.MonkeyPatch):
    (want, wanted), (got, grads) = both(method_of(name, family, lora), monkeypatch)
    assert got == pytest.approx(want, rel=1e-6)
    assert grads.keys() == wanted.keys()
    for key, grad in wanted.items():
        torch.testing.assert_close(grads[key], grad, rtol=1e-4, atol=1e-5 * max(1.0, float(grad.abs().max())), msg=key)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_under_autocast(family: str, monkeypatch: pytest.MonkeyPatch):
    """bf16 products, fp32 gradients; adding passes up in fp32 can only be nearer to the truth."""
    (want, wanted), (got, grads) = both(method_of("coconut", family), monkeypatch, bf16=True)
    assert got == pytest.approx(want, rel=1e-3)
    for key, grad in wanted.items():
        assert grads[key].dtype == torch.float32
        assert float((grads[key] - grad).norm()) <= 0.05 * float(grad.norm()) + 1e-4, key


@pytest.mark.parametrize("lora", [False, True])
def test_dropout_draws_the_same(lora: bool, monkeypatch: pytest.MonkeyPatch):
    method = make_method(METHODS["coconut"], backbones.backbone("gpt2", resid_pdrop=0.1, attn_pdrop=0.1))
    if lora:
        method.backbone.adapt(LoraSettings(r=4, alpha=8.0, dropout=0.2))
    method.train()
    found = []
    for least in (10**12, 1):
        monkeypatch.setattr(shared_gradients, "LEAST", least)
        method.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        loss = loss_of(method).total
        loss.backward()
        found.append((float(loss.detach()), grads_of(method)))
    (want, wanted), (got, grads) = found
    assert got == pytest.approx(want, rel=1e-6)
    for key, grad in wanted.items():
        torch.testing.assert_close(grads[key], grad, rtol=1e-4, atol=1e-5 * max(1.0, float(grad.abs().max())), msg=key)


def test_lora_under_autocast_and_a_frozen_bias(monkeypatch: pytest.MonkeyPatch):
    (want, wanted), (got, grads) = both(method_of("coconut", "gpt2", lora=True), monkeypatch, bf16=True)
    assert got == pytest.approx(want, rel=1e-3)
    for key, grad in wanted.items():
        assert float((grads[key] - grad).norm()) <= 0.05 * float(grad.norm()) + 1e-4, key
    method = method_of("coconut", "gpt2")
    for name, weight in method.named_parameters():
        weight.requires_grad_(not name.endswith("c_fc.bias"))
    (_, wanted), (_, grads) = both(method, monkeypatch)
    assert grads.keys() == wanted.keys()
    assert not any(key.endswith("c_fc.bias") for key in grads)


class Products(TorchDispatchMode):
    """Counts products that come out in a given shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.seen = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen += func is torch.ops.aten.mm.default and tuple(out.shape) == self.shape
        return out


def test_one_product_per_matrix_instead_of_one_per_pass(monkeypatch: pytest.MonkeyPatch):
    method = method_of("coconut", "llama")
    seen = []
    for least in (10**12, 1):
        monkeypatch.setattr(shared_gradients, "LEAST", least)
        report = loss_of(method)
        with Products((48, 32)) as products:  # gate and up of two layers; a Linear's gradient is made as out x in
            report.total.backward()
        seen.append(products.seen)
    assert seen == [4 * report.trace.cost.passes, 4]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_layouts_change_nothing_but_rounding(family: str, monkeypatch: pytest.MonkeyPatch):
    method, made = method_of("coconut", family), []
    laid_out = shared_gradients.laid_out
    monkeypatch.setattr(shared_gradients, "laid_out", lambda *given: made.append(given) or laid_out(*given))
    found = []
    for many in (10**9, 1):
        monkeypatch.setattr(shared_gradients, "MANY", many)
        method.zero_grad(set_to_none=True)
        assert not made
        loss = loss_of(method).total
        loss.backward()
        found.append((float(loss.detach()), grads_of(method)))
    layers = sum(type(m).__name__ in ("Linear", "Conv1D") for m in method.backbone.lm.base_model.modules())
    assert len(made) == 2 * layers  # once forwards, once back, whatever the number of passes
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    for key, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], grad, rtol=1e-4, atol=1e-5 * max(1.0, float(grad.abs().max())), msg=key)


def test_large_passes_are_multiplied_by_themselves(monkeypatch: pytest.MonkeyPatch):
    method = method_of("coconut", "gpt2")
    want = both(method, monkeypatch)[1][1]
    monkeypatch.setattr(shared_gradients, "ALONE", 20)  # the first pass and the last; the latents' stay together
    got = both(method, monkeypatch)[1][1]
    for key, grad in want.items():
        torch.testing.assert_close(got[key], grad, rtol=1e-4, atol=1e-5 * max(1.0, float(grad.abs().max())), msg=key)


def test_another_backward_pass_does_not_count_what_it_did_not_see():
    """The embeddings' gradient alone is asked for first, then everything; then once more, which adds it again."""
    method = method_of("coconut", "llama")
    loss_of(method).total.backward()
    want = grads_of(method)
    method.zero_grad(set_to_none=True)
    report = loss_of(method)
    table = method.backbone.lm.get_input_embeddings().weight
    torch.autograd.grad(report.total, table, retain_graph=True)
    report.total.backward(retain_graph=True)
    for key, grad in grads_of(method).items():
        torch.testing.assert_close(grad, want[key], rtol=1e-5, atol=1e-7)
    report.total.backward()
    for key, grad in grads_of(method).items():
        torch.testing.assert_close(grad, 2 * want[key], rtol=1e-5, atol=1e-7)


def test_weights_changed_before_the_backward_pass_are_noticed():
    method = method_of("coconut", "llama")
    loss = loss_of(method).total
    with torch.no_grad():
        for weight in method.parameters():
            weight.add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_is_left_behind():
    """Layers are themselves again, also after an error, and what the passes noted is freed without a search for cycles."""
    method = method_of("coconut", "gpt2")
    model = method.backbone.lm.base_model
    known: list[Any] = []
    made = shared_gradients._PendingGradient.__init__

    def noted(self: Any, *given: Any) -> None:
        made(self, *given)
        known.append(weakref.ref(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_gradients._PendingGradient, "__init__", noted)
        gc.disable()
        try:
            loss_of(method).total.backward()
            assert known
            assert all(notes() is None for notes in known)
        finally:
            gc.enable()
    with pytest.raises(KeyError), shared_gradients.share_gradients(model):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_frozen_matrices_and_inference_are_left_alone():
    method = method_of("coconut", "llama")
    model = method.backbone.lm.base_model
    model.layers[0].requires_grad_(False)
    with shared_gradients.share_gradients(model):
        assert "forward" in vars(model.layers[1].mlp.up_proj)
        assert "forward" not in vars(model.layers[0].mlp.up_proj)
    with torch.no_grad(), shared_gradients.share_gradients(model):
        assert "forward" not in vars(model.layers[1].mlp.up_proj)
