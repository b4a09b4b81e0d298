"""Cross-entropy in pieces: the loss, the hits and every gradient are those of one piece, and no large logits exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.watch import OperatorCounter
from unspoken.core.fast.chunked_loss import PIECE, weighted_cross_entropy

N, D, V = 50, 16, 301
WHOLE = 10**9


def linear() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    head = nn.Linear(D, V, bias=False)
    return head, head


def biased() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    head = nn.Linear(D, V)
    return head, head


def capped() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    head = nn.Linear(D, V, bias=False)
    return head, lambda hidden: torch.tanh(head(hidden) / 3.0) * 3.0


def low_rank() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    head = nn.Sequential(nn.Linear(D, 4, bias=False), nn.Linear(4, V, bias=False))
    return head, head


def frozen() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    head = nn.Linear(D, V, bias=False).requires_grad_(False)
    return head, head


def bf16() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    head = nn.Linear(D, V, bias=False)

    def run(hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return head(hidden)

    return head, run


def results(make: Callable[..., Any], piece: int, weighted: bool) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    torch.manual_seed(0)
    module, head = make()
    hidden, labels = torch.randn(N, D, requires_grad=True), torch.randint(0, V, (N,))
    weights = torch.rand(N) if weighted else None
    loss, hits = weighted_cross_entropy(hidden * 2, labels, head, weights, hits=weighted, piece=piece)
    (loss / 7).backward()
    assert hidden.grad is not None
    grads = [hidden.grad, *(p.grad for p in module.parameters() if p.grad is not None)]
    assert len(grads) == 1 + sum(p.requires_grad for p in module.parameters())
    return loss.detach(), hits, grads


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [linear, biased, capped, low_rank, frozen, bf16], ids=lambda f: f.__name__)
def test_pieces_are_the_whole(make: Callable[..., Any], weighted: bool):
    want, want_hits, want_grads = results(make, WHOLE, weighted)
    got, got_hits, got_grads = results(make, 7 * V, weighted)
    near: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2} if make is bf16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b, **near)
    assert (got_hits is None) == (want_hits is None) == (not weighted)
    if want_hits is not None and got_hits is not None:
        assert got_hits.tolist() == want_hits.tolist()


def test_without_gradients_too():
    head = nn.Linear(D, V)
    hidden, labels = torch.randn(N, D), torch.randint(0, V, (N,))
    with torch.no_grad():
        want = weighted_cross_entropy(hidden, labels, head, None, piece=WHOLE)[0]
        with OperatorCounter(V, D) as watch:
            got = weighted_cross_entropy(hidden, labels, head, None, piece=7 * V)[0]
    torch.testing.assert_close(got, want)
    assert not got.requires_grad
    assert watch.most == 7 * V


@pytest.mark.parametrize("make", [linear, biased], ids=lambda f: f.__name__)
def test_logits_never_exist_for_all_targets(make: Callable[..., Any]):
    """Forwards and backwards; and the head runs once for every target, however many pieces there are."""
    module, head = make()
    hidden, labels = torch.randn(N, D, requires_grad=True), torch.randint(0, V, (N,))
    with OperatorCounter(V, D) as watch:
        weighted_cross_entropy(hidden, labels, head, None, piece=7 * V)[0].backward()
    assert watch.most == 7 * V
    assert watch.head_rows == N
    with OperatorCounter(V, D) as watch:
        weighted_cross_entropy(hidden, labels, head, None, piece=WHOLE)[0].backward()
    assert watch.most == N * V
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("words", [50_257, 151_936])
def test_the_largest_logits_do_not_grow_with_the_vocabulary(words: int):
    """The limit that stands in the code, at the vocabularies of GPT-2 and Qwen."""
    head = nn.Linear(8, words, bias=False)
    hidden, labels = torch.randn(700, 8, requires_grad=True), torch.randint(0, words, (700,))
    with OperatorCounter(words, 8) as watch:
        weighted_cross_entropy(hidden, labels, head, None)[0].backward()
    assert 0 < watch.most <= PIECE


def test_a_tied_table_gets_the_gradients_of_both_ends():
    torch.manual_seed(0)
    table = nn.Embedding(V, D)
    ids, labels = torch.randint(0, V, (N,)), torch.randint(0, V, (N,))
    grads = []
    for piece in (WHOLE, 7 * V):
        table.zero_grad()
        weighted_cross_entropy(table(ids), labels, lambda h: h @ table.weight.T, None, piece=piece)[0].backward()
        assert table.weight.grad is not None
        grads.append(table.weight.grad.clone())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-5)


def test_a_second_backward_pass_says_why_it_cannot_be():
    head = nn.Linear(D, V)
    hidden, labels = torch.randn(N, D, requires_grad=True), torch.randint(0, V, (N,))
    loss = weighted_cross_entropy(hidden, labels, head, None, piece=7 * V)[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        loss.backward()
