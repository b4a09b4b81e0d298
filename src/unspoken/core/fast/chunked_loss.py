"""Cross-entropy over a large vocabulary in pieces: only the logits of a few targets exist at a time.

The gradient is computed in the forward pass, piece by piece, and kept for the backward pass: one vector per target and one
tensor per parameter of the head. So memory does not grow with vocabulary x targets, and the head still runs once forward
and once backward.

On a GPU, Liger's kernel does the same if liger-kernel is installed (the extra `gpu`), the head is one matrix, and targets
have no weights.

Shapes: N targets, n targets of a piece, D width, V words.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from unspoken.core.fast.cpu_linear import has_layout, product
from unspoken.core.fast.switch import is_on

Head = Callable[[Tensor], Tensor]
"""States [..., D] -> logits [..., V]."""

PIECE = 2**24
"""Logits per piece: 64 MB in fp32, or 333 targets with GPT-2's vocabulary."""


def weighted_cross_entropy(
    hidden_ND: Tensor,
    labels_N: Tensor,
    head: Head,
    weights_N: Tensor | None,
    *,
    hits: bool = False,
    piece: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Summed cross-entropy in fp32, and whether each label is the most likely token.

    Args:
        hidden_ND: the state that predicts each target; N is at least 1.
        labels_N: token ids.
        head: states -> logits.
        weights_N: a factor per target, without gradient; None = 1.
        hits: also return which labels are the most likely token.
        piece: logits per piece; None = `PIECE`.

    Returns:
        A scalar with gradient into the states and the head's parameters; bool [N] or None.
    """
    if not is_on():
        return _piece(hidden_ND, labels_N, head, weights_N, hits)
    # Run the head on an empty batch to learn the vocabulary size and its parameters.
    with torch.enable_grad():
        probe = head(hidden_ND[:0].detach().requires_grad_())
    leaves = [leaf for leaf in _leaves(probe) if leaf.requires_grad] if torch.is_grad_enabled() else []
    kernel = _liger(hidden_ND.device.type)
    if kernel is not None and weights_N is None and not hits and len(leaves) == 1 and _product_alone(probe):
        return kernel(leaves[0], hidden_ND, labels_N), None
    most = max((PIECE if piece is None else piece) // probe.shape[-1], 1)
    rows = -(-len(hidden_ND) // -(-len(hidden_ND) // most))  # as few pieces as possible, of equal size
    if not torch.is_grad_enabled() or len(hidden_ND) <= most:
        losses, found = [], []
        for part in _parts(len(hidden_ND), rows):
            loss, hit_n = _piece(hidden_ND[part], labels_N[part], head, None if weights_N is None else weights_N[part], hits)
            losses.append(loss)
            found.append(hit_n)
        return sum(losses[1:], start=losses[0]), torch.cat(found) if hits else None
    settings = (weights_N, hits, rows, _matrix(probe, leaves))
    loss, hits_N = _InPieces.apply(hidden_ND, labels_N, head, *settings, *leaves)
    return loss, hits_N


@functools.cache
def _liger(device_type: str) -> Any:
    """Liger's fused head and cross-entropy, called with matrix, states and labels; None if not available."""
    if device_type != "cuda":
        return None
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)


def _product_alone(output: Tensor) -> bool:
    """Whether the graph is a product with one matrix, in any precision, and nothing else."""
    ahead, products = [output.grad_fn], 0
    while ahead:
        node: Any = ahead.pop()
        if node is None or hasattr(node, "variable"):
            continue
        if node.name() not in ("MmBackward0", "TBackward0", "ToCopyBackward0"):
            return False
        products += node.name() == "MmBackward0"
        ahead.extend(before for before, _ in node.next_functions)
    return products == 1


def _parts(count: int, rows: int) -> Iterator[slice]:
    return (slice(first, first + rows) for first in range(0, count, rows))


def _piece(
    hidden_nD: Tensor, labels_n: Tensor, head: Head, weights_n: Tensor | None, hits: bool
) -> tuple[Tensor, Tensor | None]:
    logits_nV = head(hidden_nD)
    losses_n = F.cross_entropy(logits_nV.float(), labels_n, reduction="none")
    hit_n = logits_nV.detach().argmax(dim=1) == labels_n if hits else None
    return losses_n.sum() if weights_n is None else (losses_n * weights_n).sum(), hit_n


def _leaves(output: Tensor) -> list[Tensor]:
    """The leaf tensors of a graph: the head's parameters and its input."""
    seen, found, ahead = set(), [], [output.grad_fn]
    while ahead:
        node: Any = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        ahead.extend(before for before, _ in node.next_functions)
    return [leaf for leaf in found if leaf.numel()]  # the empty state is none of the head's


def _matrix(output: Tensor, leaves: list[Tensor]) -> bool:
    """The matrix, if the graph is states x (one parameter) transposed and nothing else: true of most heads outside
    autocast."""
    node: Any = output.grad_fn
    if node is None or node.name() != "MmBackward0" or len(leaves) != 1 or output.dtype != torch.float32:
        return False
    turned = node.next_functions[1][0]
    return turned is not None and turned.name() == "TBackward0" and hasattr(turned.next_functions[0][0], "variable")


class _Pieces(FunctionCtx):
    made: tuple[Tensor | None, list[Tensor] | None]
    kinds: list[torch.dtype]
    needs_input_grad: tuple[bool, ...]


class _InPieces(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(ctx: _Pieces, *given: Any) -> tuple[Tensor, Tensor | None]:
        """Loss and gradients of every piece, one piece after the other."""
        hidden_ND, labels_N, head, weights_N, hits, rows, matrix, *leaves = given
        wants = ctx.needs_input_grad[0]
        grad_ND = torch.empty_like(hidden_ND) if wants else None
        # Sums over many pieces stay exact enough in fp32 where the head is kept in bf16.
        fresh = torch.empty_like if matrix else torch.zeros_like  # zeros as large as the head are not free
        sums = [fresh(leaf, dtype=torch.float32) for leaf in leaves]
        total, found = hidden_ND.new_zeros((), dtype=torch.float32), []
        for part in _parts(len(hidden_ND), rows):
            state_nD, labels_n = hidden_ND[part].detach(), labels_N[part]
            weights_n = None if weights_N is None else weights_N[part].detach()
            if matrix:
                kept = (sums[0], float(part.start > 0))
                loss, hit_n, grad_nD = _product(state_nD, labels_n, leaves[0], kept, weights_n, hits)
            else:
                loss, hit_n, grad_nD = _through(
                    state_nD.requires_grad_(wants), labels_n, head, leaves, sums, weights_n, hits
                )
            total += loss
            found.append(hit_n)
            if grad_ND is not None and grad_nD is not None:
                grad_ND[part] = grad_nD
        # Not saved with save_for_backward: a tensor with two owners is copied when it becomes a parameter's gradient.
        ctx.made, ctx.kinds = (grad_ND, sums), [leaf.dtype for leaf in leaves]
        hits_N = torch.cat(found) if hits else None
        if hits_N is not None:
            ctx.mark_non_differentiable(hits_N)
        return total, hits_N

    @staticmethod
    def backward(ctx: _Pieces, *outer: Any) -> tuple[Tensor | None, ...]:
        """Scale the gradients that `forward` has computed."""
        (hidden, sums), ctx.made = ctx.made, (None, None)
        if sums is None:
            raise RuntimeError(
                "a loss over a large vocabulary can be differentiated once: its gradients have been given away"
            )
        hidden = None if hidden is None else hidden.mul_(outer[0].to(hidden.dtype))
        return hidden, *(None,) * 6, *(s.mul_(outer[0]).to(kind) for s, kind in zip(sums, ctx.kinds, strict=True))


def _product(
    state_nD: Tensor,
    labels_n: Tensor,
    matrix_VD: Tensor,
    kept: tuple[Tensor, float],
    weights_n: Tensor | None,
    hits: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """A piece for a head that is one matrix; its gradient times `kept`'s factor is added to `kept`'s tensor."""
    fast = has_layout(matrix_VD) and state_nD.dtype == matrix_VD.dtype
    logits_nV = product(state_nD, matrix_VD.detach()) if fast else state_nD @ matrix_VD.detach().T
    hit_n = logits_nV.argmax(dim=1) == labels_n if hits else None
    grad_nV = torch.log_softmax(logits_nV, dim=1)
    del logits_nV
    losses_n = -grad_nV.gather(1, labels_n[:, None])[:, 0]
    grad_nV.exp_().scatter_add_(1, labels_n[:, None], grad_nV.new_full((len(labels_n), 1), -1.0))
    if weights_n is not None:
        grad_nV *= weights_n[:, None]
        losses_n = losses_n * weights_n
    sum_VD, before = kept
    sum_VD.addmm_(grad_nV.T, state_nD, beta=before)
    return losses_n.sum(), hit_n, grad_nV @ matrix_VD.detach()


def _through(
    state_nD: Tensor,
    labels_n: Tensor,
    head: Head,
    leaves: list[Tensor],
    sums: list[Tensor],
    weights_n: Tensor | None,
    hits: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A piece for any other head, differentiated by autograd."""
    with torch.enable_grad():
        loss, hit_n = _piece(state_nD, labels_n, head, weights_n, hits)
    wants = state_nD.requires_grad
    grads = torch.autograd.grad(loss, [*([state_nD] if wants else []), *leaves], allow_unused=True)
    for kept, grad in zip(sums, grads[len(grads) - len(leaves) :], strict=True):
        if grad is not None:
            kept += grad
    return loss.detach(), hit_n, grads[0] if wants else None
