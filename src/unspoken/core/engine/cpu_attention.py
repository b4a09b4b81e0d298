"""Attention of rows that feed one column each, on a CPU.

Such a pass is bound by reading keys and values, yet general products take two to five times as long as reading does. Two
things help: a matrix times a column is quick where the column's strides say that its elements are neighbours, and a sum of
rows by weights, which is what values are for, is what the kernel of embedding bags does. In bfloat16 the general product
also copies the keys first. There slots hold them turned (`turns_keys`), so that scores are sums of rows too: what the query
has at place e weighs the keys at e of a block of columns. Figures: docs/speed/answering.md.

Shapes: n rows, G key heads, r query heads that share a key head, S columns that are seen, C columns of a slot in blocks of
W, E width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

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


def turns_keys(like: Tensor) -> bool:
    """Whether slots for keys of this type should lie as [R, G, E, C] in memory, not as [R, G, C, E]."""
    return HAS_BAGS and like.device.type == "cpu" and like.dtype == torch.bfloat16


@lru_cache(maxsize=16)
def _key_bags(heads: int, shared: int, width: int, blocks: int, seen: int) -> tuple[Tensor, Tensor]:
    """For r query heads of each of n x G key heads, a bag for each block that is seen, of E rows each, as in `Bags`."""
    with torch.inference_mode(False):
        heads_m = torch.arange(heads, dtype=torch.int32).repeat_interleave(shared)
        rows_mE = heads_m[:, None] * width + torch.arange(width, dtype=torch.int32)
        places_mbE = rows_mE[:, None] * blocks + torch.arange(seen, dtype=torch.int32)[:, None]
        return places_mbE.reshape(-1), torch.arange(0, places_mbE.numel(), width, dtype=torch.int32)


def _scores(query_nGrE: Tensor, keys_nGCE: Tensor, columns: int) -> Tensor:
    """Query times keys that lie as [n, G, E, C]: [n, G, r, S]."""
    n, G, r, E = query_nGrE.shape
    C = keys_nGCE.shape[2]
    W = math.gcd(C, 64)
    seen = -(-columns // W)
    places, begins = _key_bags(n * G, r, E, C // W, seen)
    table = keys_nGCE.transpose(2, 3).view(-1, W)
    weights = query_nGrE.reshape(-1, 1, E).expand(-1, seen, E).reshape(-1)
    scores, *_ = torch.embedding_bag(table, places, begins, False, 0, False, weights)
    return scores.view(n, G, r, seen * W)[..., :columns]


def attend_one_column(
    query_nGrE: Tensor, keys_nGCE: Tensor, values_nGCE: Tensor, bags: Bags, mask: Tensor | None, scale: float
) -> Tensor:
    """Attention of each row's one column to the first columns of its slot: [n, G, r, E].

    Args:
        keys_nGCE: if `turns_keys`, the transpose of a contiguous [n, G, E, C].
        bags: of this pass.
        mask: added to the scores, [n, 1, 1, S]; None = every row sees all of them.
        scale: of the scores.
    """
    seen = (slice(None), slice(None), slice(bags.columns))
    query_nGrE = (query_nGrE * scale).contiguous()
    if turns_keys(keys_nGCE) and query_nGrE.dtype == keys_nGCE.dtype:
        scores_nGrS = _scores(query_nGrE, keys_nGCE, bags.columns)
    else:  # a contiguous [n, G, E, 1] would take twice as long
        scores_nGrS = (keys_nGCE[seen] @ query_nGrE.transpose(2, 3)).transpose(2, 3)
    weights_nGrS = (scores_nGrS if mask is None else scores_nGrS + mask).softmax(dim=-1)
    if not HAS_BAGS or values_nGCE.dtype not in BAGS_DTYPES or weights_nGrS.dtype != values_nGCE.dtype:  # as under autocast
        return weights_nGrS @ values_nGCE[seen]
    table = values_nGCE.view(-1, values_nGCE.shape[-1])
    summed, *_ = torch.embedding_bag(table, bags.places, bags.begins, False, 0, False, weights_nGrS.reshape(-1))
    return summed.view(*query_nGrE.shape[:-1], -1)
