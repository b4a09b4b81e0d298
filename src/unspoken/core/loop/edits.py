"""Changing latents between the place that makes them and the place that they are fed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unspoken.core.loop.sources import Jacobi, PrecomputedThoughts, Source
from unspoken.core.rows.batch import Batch

Edit = Callable[[Tensor, np.ndarray, np.ndarray], Tensor]
"""(latents_ND, rows_N, index_N) -> latents_ND.

`rows_N` says whose latents they are: set c of question i of the call has the number c x questions + i, whatever batch it
is in. `index_N` is the number of the latent inside its row, from 0.
"""


class Edited:
    """A source whose latents pass through a function on their way in: for controls and interventions.

    Args:
        inner: where the latents come from.
        edit: see `Edit`.
        numbers: the number of each row of the batch in the call; None = its place in the batch.
        total: how many questions the call has; None = as many as the batch.
    """

    def __init__(self, inner: Source, edit: Edit, numbers: Sequence[int] | None = None, total: int | None = None) -> None:
        self.inner = inner
        self.edit = _numbered(edit, numbers, total)

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`."""
        return self.edit(self.inner.next(hidden_ND, rows_N, index_N), rows_N, index_N)


class EditedPrompt:
    """`Edited` for prompted thoughts: the function gets all latents in one call.

    More sets may be asked for than the inner source has: they start over from its first, and the function may tell them
    apart.
    """

    def __init__(
        self, inner: PrecomputedThoughts, edit: Edit, numbers: Sequence[int] | None = None, total: int | None = None
    ) -> None:
        self.inner = inner
        self.edit = _numbered(edit, numbers, total)

    @property
    def chains(self) -> int:
        """The inner source's."""
        return self.inner.chains

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `Prompted.vectors`."""
        vectors_BKD = self.inner.vectors(batch, min(chains, self.inner.chains))
        rounds = -(-chains * len(batch) // max(len(vectors_BKD), 1))
        vectors_BKD = vectors_BKD.repeat(rounds, 1, 1)[: chains * len(batch)]
        B, K, D = vectors_BKD.shape
        rows_N, index_N = np.nonzero(np.arange(K)[None, :] < np.tile(batch.latents_B, chains)[:, None])
        if not len(rows_N):
            return vectors_BKD
        flat_N = torch.from_numpy(rows_N * K + index_N).to(vectors_BKD.device)
        flat_ND = vectors_BKD.reshape(B * K, D)
        edited_ND = self.edit(flat_ND.index_select(0, flat_N), rows_N, index_N)
        return flat_ND.index_copy(0, flat_N, edited_ND).view(B, K, D)


def edited(
    source: Source | PrecomputedThoughts, edit: Edit, numbers: Sequence[int] | None = None, total: int | None = None
) -> Source | PrecomputedThoughts:
    """The same source with a function in the way of its latents; see `Edited`."""
    if isinstance(source, Jacobi):
        return Jacobi(Edited(source.inner, edit, numbers, total), source.passes)
    kind = EditedPrompt if isinstance(source, PrecomputedThoughts) else Edited
    return kind(source, edit, numbers, total)  # pyright: ignore[reportArgumentType]


def _numbered(edit: Edit, numbers: Sequence[int] | None, total: int | None) -> Edit:
    """A function that is told the numbers of a call, for rows that are counted inside a batch."""
    if numbers is None:
        return edit
    number_B, whole = np.asarray(numbers), len(numbers) if total is None else total

    def told(latents_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        chain_N, row_N = np.divmod(rows_N, len(number_B))
        return edit(latents_ND, chain_N * whole + number_B[row_N], index_N)

    return told
