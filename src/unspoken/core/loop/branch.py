"""Which columns see which when a row and its branch are forwarded in one pass.

Both begin with the same positions, which are forwarded once. The row's own columns and the branch's columns follow; neither
attends to the other, so each gets the states it would get alone. Shapes: b rows, W columns of the pass.
"""

from __future__ import annotations

import numpy as np


def column_layout(
    take_b: np.ndarray, more_b: np.ndarray, cursor_b: np.ndarray, shared_b: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Lay out the columns of a pass: per row `take_b` of its own, then `more_b` of its branch, then padding.

    Args:
        take_b, more_b: own columns, branch columns.
        cursor_b: position of the first own column.
        shared_b: position, inside the branch, of its first column.

    Returns:
        own_bW, branch_bW: whether a column belongs to the row or to its branch; positions_bW: its position in that
            sequence, 0 for padding.
    """
    offsets_W = np.arange(int((take_b + more_b).max()))[None, :]
    own_bW = offsets_W < take_b[:, None]
    branch_bW = ~own_bW & (offsets_W < (take_b + more_b)[:, None])
    behind_bW = shared_b[:, None] + offsets_W - take_b[:, None]
    positions_bW = np.where(own_bW, cursor_b[:, None] + offsets_W, np.where(branch_bW, behind_bW, 0))
    return own_bW, branch_bW, positions_bW


def visible(own_bW: np.ndarray, branch_bW: np.ndarray, positions_bW: np.ndarray, shared_b: np.ndarray) -> np.ndarray:
    """Attention mask of a first pass with branches: bool [b, 1, W, W], query columns by key columns.

    Padding attends to the first column, because a softmax over nothing is NaN in some kernels.
    """
    query, key = np.s_[:, :, None], np.s_[:, None, :]
    causal = positions_bW[key] <= positions_bW[query]
    common = own_bW & (positions_bW < shared_b[:, None])
    sees = (own_bW[query] & own_bW[key]) | (branch_bW[query] & (branch_bW[key] | common[key]))
    sees &= causal
    sees[:, :, 0] |= ~(own_bW | branch_bW)
    return sees[:, None]


def note_columns(
    columns_BT: np.ndarray, index_b: np.ndarray, real_bW: np.ndarray, positions_bW: np.ndarray, first: int
) -> None:
    """Record the column of each given position; positions of generated tokens are not recorded."""
    row_N, offset_N = np.nonzero(real_bW)
    place_N = positions_bW[row_N, offset_N]
    given_N = place_N < columns_BT.shape[1]
    columns_BT[index_b[row_N[given_N]], place_N[given_N]] = first + offset_N[given_N]
