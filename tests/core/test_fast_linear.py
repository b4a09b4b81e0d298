"""Fast linear layers: the same numbers, and the usual way wherever a copy could be wrong."""

from __future__ import annotations

import backbones
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from unspoken.core import fast_linear
from unspoken.core.fast_linear import quicken, use_dtype
from unspoken.errors import ConfigError
from unspoken.methods import make_method

KINDS = {"linear": lambda bias: nn.Linear(160, 128, bias=bias), "conv1d": lambda bias: Conv1D(128, 160)}


def pair(kind: str, dtype: torch.dtype = torch.float32, bias: bool = True, **how: bool) -> tuple[nn.Module, nn.Module]:
    """A layer as it is, and a fast one with the same weights."""
    torch.manual_seed(0)
    slow = nn.Sequential(KINDS[kind](bias).to(dtype))
    torch.manual_seed(0)
    fast = nn.Sequential(KINDS[kind](bias).to(dtype))
    assert quicken(fast, **how) == 1
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
        fast[0].weight.mul_(2)  # type: ignore[index]
        fast[0].bias.zero_()  # type: ignore[index]
        after = fast(x)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, x @ (fast[0].weight if kind == "conv1d" else fast[0].weight.T), rtol=1e-4, atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eight", [True, False])
def test_gradients_go_the_usual_way(kind: str, eight: bool):
    slow, fast = pair(kind, eight_bits=eight)
    x = torch.randn(8, 160)
    for layer in (slow, fast):
        layer(x).square().sum().backward()
    torch.testing.assert_close(fast[0].weight.grad, slow[0].weight.grad)  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bits_are_near(kind: str):
    slow, fast = pair(kind, eight_bits=True)
    x = torch.randn(64, 160)
    with torch.inference_mode():
        want, got = slow(x), fast(x)
    error = (got - want).norm() / want.norm()
    assert 0 < error < 0.03


def test_a_copy_is_used(monkeypatch: pytest.MonkeyPatch):
    """Made once, not in every call."""
    made: list[tuple[int, ...]] = []
    lay_out = fast_linear.laid_out
    monkeypatch.setattr(
        fast_linear, "laid_out", lambda weight, rows: (made.append(tuple(weight.shape)), lay_out(weight, rows))[1]
    )
    _, fast = pair("linear")
    with torch.inference_mode():
        for _ in range(3):
            fast(torch.randn(8, 160))
        fast(torch.randn(1, 160))
    assert made == [(128, 160)]


def test_a_model_has_its_precision():
    def method() -> object:
        return make_method({"name": "coconut"}, backbones.backbone(hidden_size=128, intermediate_size=256))

    one = method()
    use_dtype(one, "bfloat16")
    assert {p.dtype for p in one.parameters()} == {torch.bfloat16}  # type: ignore[attr-defined]
    use_dtype(method(), "int8")
    with pytest.raises(ConfigError, match="unknown dtype 'int4'; known: float32, bfloat16, int8"):
        use_dtype(method(), "int4")
    with pytest.raises(
        ConfigError, match="needs linear layers in float32 on the CPU, and this model has none; use bfloat16"
    ):
        quicken(nn.Sequential(nn.Linear(4, 4)), eight_bits=True)
