"""Change latents after they are made and before they are fed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unspoken.core.loop.sources import Iterated, PrecomputedThoughts, Source
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.row import LatentKey

Edit = Callable[[Tensor, Sequence[LatentKey], np.ndarray], Tensor]
"""(latents_ND, keys_N, index_N) -> latents_ND. The keys say whose latents they are; index is the number of each latent in
its row, from 0."""


class Edited:
    """A source whose latents pass through a function before they are fed; used by controls and interventions.

    Args:
        inner: where the latents come from.
        edit: see `Edit`.
        keys: per row, whose latents they are (`Batch.keys`).
    """

    def __init__(self, inner: Source, edit: Edit, keys: Sequence[LatentKey]) -> None:
        self.inner, self.edit, self.keys = inner, edit, keys

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`."""
        return self.edit(self.inner.next(hidden_ND, rows_N, index_N), [self.keys[row] for row in rows_N], index_N)


class EditedPrompt:
    """`Edited` for prompted thoughts: the function gets all latents in one call.

    More sets may be requested than the inner source has: it then repeats its sets from the first, and the function can
    change each differently.
    """

    def __init__(self, inner: PrecomputedThoughts, edit: Edit) -> None:
        self.inner, self.edit = inner, edit

    @property
    def chains(self) -> int:
        """The inner source's."""
        return self.inner.chains

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `PrecomputedThoughts.vectors`."""
        vectors_BKD = self.inner.vectors(batch, min(chains, self.inner.chains))
        rounds = -(-chains * len(batch) // max(len(vectors_BKD), 1))
        vectors_BKD = vectors_BKD.repeat(rounds, 1, 1)[: chains * len(batch)]
        B, K, D = vectors_BKD.shape
        rows_N, index_N = np.nonzero(np.arange(K)[None, :] < np.tile(batch.latents_B, chains)[:, None])
        if not len(rows_N):
            return vectors_BKD
        flat_N = torch.from_numpy(rows_N * K + index_N).to(vectors_BKD.device)
        flat_ND = vectors_BKD.reshape(B * K, D)
        keys_B = batch.keys(chains)
        edited_ND = self.edit(flat_ND.index_select(0, flat_N), [keys_B[row] for row in rows_N], index_N)
        return flat_ND.index_copy(0, flat_N, edited_ND).view(B, K, D)


def edited(source: Source | PrecomputedThoughts, edit: Edit, keys: Sequence[LatentKey]) -> Source | PrecomputedThoughts:
    """The source with its latents passed through a function; see `Edited`."""
    if isinstance(source, Iterated):
        return source.around(Edited(source.inner, edit, keys))
    return EditedPrompt(source, edit) if isinstance(source, PrecomputedThoughts) else Edited(source, edit, keys)
