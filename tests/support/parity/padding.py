"""The released CODI's attention to padding, imitated; nothing but the reference tests needs it.

The released code masks the left padding of a question while it reads it, and forgets that mask for the latents and the
answer (parity/README.md, "Traps"). Ours masks padding in every pass. So that the padded cases can be held against it all
the same, `padded` writes the padding into our rows as if it were text, and `AttendsPadding` is a backbone that changes the
loop's masks into the released ones. Method, loop and losses run on it as they are.
Shapes: B rows, Q columns of the question pass (padding and bot included), W columns of a pass, S columns so far, D width.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unspoken.core.lm.backbone import Backbone
from unspoken.core.rows.protocol import PassOptions
from unspoken.core.rows.row import IGNORE, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Padding:
    """How the released code pads some questions, and who sees that.

    Attributes:
        left: columns of padding in front of each row.
        question: Q.
        hidden: the answer does not see the padding (the released `fix_attn_mask`); the latents always do.
    """

    left: tuple[int, ...]
    question: int
    hidden: bool = False


class AttendsPadding(Backbone):
    """A backbone that sees padding where the released CODI does; an ordinary one while `padding` is None.

    - Question pass: a real column sees the real columns up to itself. A padding column has every score at the least
      float, so that it attends to all Q columns alike, later ones too. Of other columns (a branch's) it sees none.
    - Later passes: everything is seen. Under `hidden`, eot and answer do not see the padding, but the last latent, which
      our loop feeds together with them, does.
    """

    padding: Padding | None = None

    def step(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> Tensor:
        """`Backbone.step` under the released mask."""
        return super().step(embeds_BTD, **self._under_released(embeds_BTD, how))

    def states(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> tuple[Tensor, ...]:
        """`Backbone.states` under the released mask."""
        return super().states(embeds_BTD, **self._under_released(embeds_BTD, how))

    def _under_released(self, embeds_BWD: Tensor, how: PassOptions) -> PassOptions:
        """What a pass is told, under the released mask. Padding that is seen is forwarded."""
        changed = how.copy()
        changed["mask"] = self._released(embeds_BWD, how.get("mask"), how.get("cache"))
        if self.padding is not None:
            changed["real"] = None
        return changed

    def _released(self, embeds_BWD: Tensor, mask: Tensor | None, cache: Any) -> Tensor | None:
        """The released mask in place of the loop's. (The loop masks what pads a pass on the right, and branches.)"""
        if self.padding is None:
            return mask
        B, W = embeds_BWD.shape[:2]
        S = W + (0 if cache is None else cache.get_seq_length())
        causal_WS = torch.ones(W, S, dtype=torch.bool).tril(S - W)
        if S == W:
            sees_B1WW = causal_WS.expand(B, 1, W, W) if mask is None else mask
            return self._reading(sees_B1WW, embeds_BWD.dtype)
        if not self.padding.hidden or W == 1:
            return mask
        sees_BWS = causal_WS.repeat(B, 1, 1)
        if mask is not None:
            sees_BWS &= mask[:, None].bool()
        sees_BWS[:, 1:] &= (torch.arange(S) >= self._left_B1)[:, None]
        return sees_BWS[:, None]

    def _reading(self, sees_B1WW: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of the question pass."""
        assert self.padding is not None
        Q = self.padding.question
        columns_Q = torch.arange(Q)
        sees_BQQ = (columns_Q <= columns_Q[:, None]) & (columns_Q >= self._left_B1)[:, None]
        added_B1WW = torch.zeros(sees_B1WW.shape, dtype=dtype).masked_fill(~sees_B1WW, -torch.inf)
        # The least float, not minus infinity: it swallows the score it is added to, so that a row of them is uniform.
        added_B1WW[:, 0, :Q, :Q] = torch.zeros(sees_BQQ.shape, dtype=dtype).masked_fill(~sees_BQQ, torch.finfo(dtype).min)
        return added_B1WW

    @property
    def _left_B1(self) -> Tensor:
        assert self.padding is not None
        return torch.tensor(self.padding.left)[:, None]


@contextlib.contextmanager
def attended(backbone: AttendsPadding, padding: Padding | None, *, math: bool = True) -> Iterator[None]:
    """Inside, the backbone sees `padding`; None changes nothing.

    Args:
        math: run attention on torch's math kernel, as the fixtures did: the CPU flash kernel has a wrong backward for
            rows that are all least floats.
    """
    backbone.padding = padding
    try:
        with sdpa_kernel(SDPBackend.MATH) if padding is not None and math else contextlib.nullcontext():
            yield
    finally:
        backbone.padding = None


def padded(rows: Sequence[Row], padding: Padding | None, pad: int) -> list[Row]:
    """Rows with `padding` in front as if it were text; a branch, which the released code runs apart, then shares nothing."""
    if padding is None:
        return list(rows)
    return [
        dataclasses.replace(
            row,
            ids=(pad,) * left + row.ids,
            labels=(IGNORE,) * left + row.labels,
            start=row.start + left,
            capture_at=None if row.capture_at is None else row.capture_at + left,
            shared=0,
        )
        for row, left in zip(rows, padding.left, strict=True)
    ]
