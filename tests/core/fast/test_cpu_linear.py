"""Fast linear layers: the same numbers, and the usual way wherever a copy could be wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import backbones
from torch import nn
from transformers.pytorch_utils import Conv1D

from unspoken.core.fast import cpu_linear
from unspoken.core.fast.cpu_linear import look_again, speed_up_linears, use_dtype
from unspoken.core.fast.one_row import has_one_row
from unspoken.errors import ConfigError
from unspoken.experimental.int8 import round_linears
from unspoken.methods import make_method
from unspoken.methods.base import Method

KINDS = {"linear": lambda bias: nn.Linear(160, 128, bias=bias), "conv1d": lambda bias: Conv1D(128, 160)}


def pair(kind: str, dtype: torch.dtype = torch.float32, bias: bool = True, int8: bool = False) -> tuple[Any, Any]:
    """A layer as it is, and a fast one with the same weights."""
    torch.manual_seed(0)
    slow = nn.Sequential(KINDS[kind](bias).to(dtype))
    torch.manual_seed(0)
    fast = nn.Sequential(KINDS[kind](bias).to(dtype))
    assert (round_linears if int8 else speed_up_linears)(fast) == 1
    return slow, fast


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 4, 40])
def test_numbers_are_the_same(kind: str, bias: bool, rows: int):
    slow, fast = pair(kind, bias=bias)
    x = torch.randn(2, rows, 160)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), slow(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near(kind: str):
    slow, fast = pair(kind, torch.bfloat16)
    x = torch.randn(5, 160, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), slow(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_weights_are_seen(kind: str):
    """A copy of old weights would answer for another model."""
    _, fast = pair(kind)
    x = torch.randn(8, 160)
    with torch.inference_mode():
        before = fast(x)
    with torch.no_grad():
        fast[0].weight.mul_(2)
        fast[0].bias.zero_()
        after = fast(x)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, x @ (fast[0].weight if kind == "conv1d" else fast[0].weight.T), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eight", [True, False])
def test_gradients_go_the_usual_way(kind: str, eight: bool):
    slow, fast = pair(kind, int8=eight)
    x = torch.randn(8, 160)
    for layer in (slow, fast):
        layer(x).square().sum().backward()
    torch.testing.assert_close(fast[0].weight.grad, slow[0].weight.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bits_are_near(kind: str):
    slow, fast = pair(kind, int8=True)
    x = torch.randn(64, 160)
    with torch.inference_mode():
        want, got = slow(x), fast(x)
    error = (got - want).norm() / want.norm()
    assert 0 < error < 0.03


def test_a_copy_is_used(monkeypatch: pytest.MonkeyPatch):
    """Made once, not in every call."""
    made: list[tuple[int, ...]] = []
    lay_out = cpu_linear.laid_out
    monkeypatch.setattr(
        cpu_linear, "laid_out", lambda weight, rows: (made.append(tuple(weight.shape)), lay_out(weight, rows))[1]
    )
    _, fast = pair("linear")
    with torch.inference_mode():
        for _ in range(3):
            fast(torch.randn(8, 160))
        fast(torch.randn(1, 160))
    assert made == [(128, 160)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.skipif(not has_one_row(torch.float32), reason="needs fbgemm and AVX-512")
def test_a_single_row_has_a_copy_of_its_own(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """Made once beside the other one, and both are made again for other weights."""
    made: list[str] = []
    for name in ("laid_out", "in_panels"):
        old = getattr(cpu_linear, name)
        monkeypatch.setattr(cpu_linear, name, lambda *args, name=name, old=old: (made.append(name), old(*args))[1])
    slow, fast = pair("conv1d", dtype)
    with torch.inference_mode():
        for rows in (8, 1, 8, 1, 1):
            fast(torch.randn(rows, 160, dtype=dtype))
    assert made == ["laid_out", "in_panels"]
    with torch.no_grad():
        for layer in (slow, fast):
            layer[0].weight.mul_(2)
    x = torch.randn(1, 160, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), slow(x), rtol=2e-2, atol=2e-2)
    assert made[2:] == ["in_panels"]


def test_a_model_has_its_precision():
    def method() -> Method:
        return make_method({"name": "coconut"}, backbones.backbone(hidden_size=128, intermediate_size=256))

    one = method()
    use_dtype(one, "bfloat16")
    assert {p.dtype for p in one.parameters()} == {torch.bfloat16}
    use_dtype(method(), "int8")
    with pytest.raises(ConfigError, match="unknown dtype 'int4'; known: float32, bfloat16, int8"):
        use_dtype(method(), "int4")
    with pytest.raises(
        ConfigError, match="needs linear layers in float32 on the CPU, and this model has none; use bfloat16"
    ):
        round_linears(nn.Sequential(nn.Linear(4, 4)))


@pytest.mark.parametrize("eight", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["fused", "data", "one weight", "swapped rows", "bias", "assigned", "replaced", "moved"])
def test_no_write_goes_unseen(kind: str, eight: bool, how: str):
    """PyTorch does not count all of them: fused optimizers, `.data`, memory that is given out again."""
    slow, fast = pair(kind, int8=eight)
    layer: Any = fast[0]
    x = torch.randn(8, 160)
    with torch.inference_mode():
        fast(x)
    if how == "fused":
        layer.weight.grad, layer.bias.grad = torch.randn_like(layer.weight), torch.randn_like(layer.bias)
        torch.optim.AdamW(layer.parameters(), lr=0.05, fused=True).step()
    elif how == "data":
        layer.weight.data.mul_(0.5)
    elif how == "one weight":  # seen where answers begin
        layer.weight.data[7, 9] += 3.0
    elif how == "swapped rows":
        layer.weight.data[[5, 7]] = layer.weight.data[[7, 5]]
    elif how == "bias":
        layer.bias.data.add_(1.0)
    elif how == "assigned":
        layer.load_state_dict({key: value * 0.5 for key, value in layer.state_dict().items()}, assign=True)
    elif how == "replaced":
        layer.weight = nn.Parameter(layer.weight.detach() * 0.5)
    else:  # there and back, into memory that may be the same
        layer.to(torch.bfloat16).to(torch.float32)
    slow.load_state_dict(fast.state_dict())
    if eight:
        round_linears(slow)
    look_again()
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), slow(x), rtol=1e-5, atol=1e-5)


def test_a_model_answers_with_its_present_weights():
    """Trained by a fused optimizer, or written through `.data`, between two calls of one loaded model."""
    import unspoken

    model, again = (unspoken.load("builtin:tiny", device="cpu") for _ in range(2))
    questions = ["Ann has 18 figs. She doubles her figs. How many figs has Ann?"] * 8
    first = model.answer(questions)
    parameters: list[Any] = list(model.method.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.05, fused=True)
    for write in ("fused", "data"):
        if write == "fused":
            for p in parameters:
                p.grad = torch.randn_like(p)
            optimizer.step()
        else:
            parameters[3].data[5] += 1.0
        again.method.load_state_dict(model.method.state_dict())
        want = again.think(questions).latents_BKD
        assert torch.equal(model.think(questions).latents_BKD, want)
        assert [a.tokens for a in model.answer(questions)] == [a.tokens for a in again.answer(questions)]
    assert first[0].tokens != model.answer(questions)[0].tokens


def test_weights_made_in_inference_mode_have_no_count_of_writes():
    """Only what they are is held against the copy, where answers begin."""
    with torch.inference_mode():
        _, fast = pair("linear")
        x, before = torch.randn(8, 160), fast(torch.ones(8, 160))
        fast[0].weight.mul_(0.5)
        look_again()
        torch.testing.assert_close(fast(x), nn.functional.linear(x, fast[0].weight, fast[0].bias))
        assert not torch.equal(fast(torch.ones(8, 160)), before)
