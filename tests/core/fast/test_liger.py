"""Liger's kernel in place of ours: where it may stand in, and that it gives the same (in Triton's interpreter, on a CPU)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unspoken.core.fast import chunked_loss

PROGRAM = """
import torch
from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
from unspoken.core import chunked

torch.manual_seed(0)
states, head, labels = torch.randn(40, 16), torch.nn.Linear(16, 301, bias=False), torch.randint(0, 301, (40,))
kernel, found = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32), []
for mine in (None, kernel):
    chunked_loss._liger = lambda _: mine
    given = states.clone().requires_grad_()
    head.zero_grad()
    loss, _ = chunked_loss.weighted_cross_entropy(given, labels, head, None, piece=2000)
    (2 * loss).backward()
    found.append((loss.detach(), given.grad, head.weight.grad.clone()))
for got, want in zip(*found):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
print("alike")
"""


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
def test_it_gives_what_ours_gives():
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.stdout.strip().endswith("alike"), said.stderr


class Kernel:
    """Stands for it: counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, matrix_VD: Tensor, states_ND: Tensor, labels_N: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(states_ND @ matrix_VD.T, labels_N, reduction="sum")


def autocast(head: nn.Module) -> Any:
    def run(states: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return head(states)

    return run


CASES: dict[str, tuple[Any, dict[str, Any], int]] = {
    "one matrix": (lambda head: head, {}, 1),
    "one matrix, autocast": (autocast, {}, 1),
    "scaled": (lambda head: lambda x: head(x) * 0.5, {}, 0),
    "capped": (lambda head: lambda x: torch.tanh(head(x)), {}, 0),
    "weighted": (lambda head: head, {"weights_N": torch.ones(6)}, 0),
    "hits": (lambda head: head, {"hits": True}, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_where_it_stands_in(case: str, monkeypatch: pytest.MonkeyPatch):
    wrap, how, calls = CASES[case]
    kernel = Kernel()
    monkeypatch.setattr(chunked_loss, "_liger", lambda _: kernel)
    states, labels = torch.randn(6, 8), torch.randint(0, 20, (6,))
    how = {"weights_N": None, **how}
    chunked_loss.weighted_cross_entropy(states, labels, wrap(nn.Linear(8, 20, bias=False)), **how)
    assert kernel.calls == calls
    chunked_loss.weighted_cross_entropy(states, labels, wrap(nn.Linear(8, 20)), **how)  # with a bias
    with torch.no_grad():
        chunked_loss.weighted_cross_entropy(states, labels, wrap(nn.Linear(8, 20, bias=False)), **how)
    assert kernel.calls == calls


def test_it_is_asked_for_on_a_gpu_only():
    assert chunked_loss._liger("cpu") is None
