"""Attention of rows that feed one column each, on a CPU.

Such a pass is bound by reading keys and values, yet general products take two to five times as long as reading does. Two
things help: a matrix times a column is quick where the column's strides say that its elements are neighbours, and a sum of
rows by weights, which is what values are for, is what the kernel of embedding bags does. Figures: docs/speed/answering.md.

Shapes: n rows, G key heads, r query heads that share a key head, S columns that are seen, C columns of a slot, E width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unspoken.core.fast.one_row import BAGS_DTYPES, HAS_BAGS


@dataclass(frozen=True)
class Bags:
    """Which values every query head of a pass sums up, for all layers with as many heads.

    Attributes:
        columns: S.
        places: in the list of all values, S of each head.
        begins: where each head's places begin.
    """

    columns: int
    places: Tensor
    begins: Tensor

    @classmethod
    def of(cls, rows: int, heads: int, shared: int, columns: int, size: int) -> Bags:
        """For n rows, G key heads, r query heads of each, and slots of C columns of which S are seen."""
        firsts_m = torch.arange(rows * heads, dtype=torch.int32).repeat_interleave(shared) * size
        places_mS = firsts_m[:, None] + torch.arange(columns, dtype=torch.int32)
        return cls(columns, places_mS.view(-1), torch.arange(0, places_mS.numel(), columns, dtype=torch.int32))


def attend_one_column(
    query_nGrE: Tensor, keys_nGCE: Tensor, values_nGCE: Tensor, bags: Bags, mask: Tensor | None, scale: float
) -> Tensor:
    """Attention of each row's one column to the first columns of its slot: [n, G, r, E].

    Args:
        bags: of this pass.
        mask: added to the scores, [n, 1, 1, S]; None = every row sees all of them.
        scale: of the scores.
    """
    seen = (slice(None), slice(None), slice(bags.columns))
    query_nGEr = (query_nGrE * scale).contiguous().transpose(2, 3)  # a contiguous [n, G, E, 1] takes twice as long
    scores_nGrS = (keys_nGCE[seen] @ query_nGEr).transpose(2, 3)
    weights_nGrS = (scores_nGrS if mask is None else scores_nGrS + mask).softmax(dim=-1)
    if not HAS_BAGS or values_nGCE.dtype not in BAGS_DTYPES or weights_nGrS.dtype != values_nGCE.dtype:  # as under autocast
        return weights_nGrS @ values_nGCE[seen]
    table = values_nGCE.view(-1, values_nGCE.shape[-1])
    summed, *_ = torch.embedding_bag(table, bags.places, bags.begins, False, 0, False, weights_nGrS.reshape(-1))
    return summed.view(*query_nGrE.shape[:-1], -1)
