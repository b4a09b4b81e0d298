"""Where thoughts come from. The loop asks a source for the next latent of the rows that think in this pass.

Shapes: N rows that think now, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import Tensor, nn


class Source(Protocol):
    """Turns the state before a latent's slot into the vector fed there."""

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """The next latents.

        Args:
            hidden_ND: last-layer state (after the final norm) at the position before the slot.
            rows_N: which rows of the batch these are.
            index_N: the number of the latent inside its row, from 0.
        """
        ...


class Recurrence:
    """Coconut: the hidden state itself is the next input. CODI: a projection of it is.

    Args:
        transform: applied to the state; identity if None.
    """

    def __init__(self, transform: nn.Module | None = None) -> None:
        self.transform = transform

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`."""
        return hidden_ND if self.transform is None else self.transform(hidden_ND)


class Edited:
    """A source whose latents pass through a function on their way in: for controls and interventions.

    Args:
        inner: where the latents come from.
        edit: (latents_ND, rows_N, index_N) -> latents_ND.
    """

    def __init__(self, inner: Source, edit: Callable[[Tensor, np.ndarray, np.ndarray], Tensor]) -> None:
        self.inner = inner
        self.edit = edit

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`."""
        return self.edit(self.inner.next(hidden_ND, rows_N, index_N), rows_N, index_N)
