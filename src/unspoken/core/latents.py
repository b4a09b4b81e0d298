"""Where thoughts come from: a `Source` makes the next latent from the last state, a `Prompted` one knows all before.

The loop asks a source for the next latent of the rows that think in this pass. Prompted thoughts it puts into the slots
of the prompt, which is then read as if it were text.

Shapes: B rows, N rows that think now (or latents to edit), K latents of the row with most, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from unspoken.core.layout import Batch
from unspoken.errors import ConfigError


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


@runtime_checkable
class Prompted(Protocol):
    """Thoughts that are known before the first pass of the base model: another model's, or learned ones.

    Attributes:
        chains: how many sets of thoughts it has for one question.
    """

    @property
    def chains(self) -> int: ...

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """The latents of all slots at once.

        Args:
            batch: the rows that will read them.
            chains: how many sets, from the first on; at most `self.chains`.

        Returns:
            [chains x B, K, D]: set c of row b is row c * B + b. What stands beyond a row's own latents is not used.
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


class Jacobi:
    """A source whose latents are made all at once, in parallel passes, instead of one after the other (`core/jacobi.py`).

    Args:
        inner: what makes a latent from the state before its slot.
        passes: T, passes in which the latents are fed; with 1, only the first is more than its slot's own token.

    Raises:
        ConfigError: no pass at all.
    """

    def __init__(self, inner: Source, passes: int) -> None:
        if passes < 1:
            raise ConfigError(f"parallel passes over the latents must be 1 or more, got {passes}; null makes them in turn")
        self.inner = inner
        self.passes = passes

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`; asked once per pass for every latent but a row's first."""
        return self.inner.next(hidden_ND, rows_N, index_N)


def parallel(source: Source | Prompted | None, passes: int | None) -> Source | Prompted | None:
    """The same source with its latents made in so many parallel passes; None leaves it as it is.

    Raises:
        ConfigError: its latents are not made one from the other.
    """
    if passes is None:
        return source
    if source is None or isinstance(source, Prompted):
        raise ConfigError("parallel passes are for latents that are made one from the other; here all are known before")
    return Jacobi(source.inner if isinstance(source, Jacobi) else source, passes)


def check_parallel(passes: int | None, recurrent: bool = True) -> None:
    """Refuse a method's setting of parallel passes that cannot be.

    Raises:
        ConfigError: no pass, or latents that are not made one from the other.
    """
    if passes is not None:
        parallel(Recurrence() if recurrent else None, passes)


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

    def __init__(self, inner: Prompted, edit: Edit, numbers: Sequence[int] | None = None, total: int | None = None) -> None:
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


class Slots:
    """The embeddings of the tokens that stand in the slots (pause tokens), as prompted thoughts: so they can be edited.

    Args:
        embed: token ids -> embeddings.
    """

    chains = 1

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        self.embed = embed

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `Prompted.vectors`."""
        place_BK = batch.starts_B[:, None] + np.arange(int(batch.latents_B.max()))[None, :]
        place_BK = np.minimum(place_BK, batch.ids_BT.shape[1] - 1)
        return self.embed(batch.ids_BT.gather(1, torch.from_numpy(place_BK).to(batch.ids_BT.device)))


def edited(
    source: Source | Prompted, edit: Edit, numbers: Sequence[int] | None = None, total: int | None = None
) -> Source | Prompted:
    """The same source with a function in the way of its latents; see `Edited`."""
    if isinstance(source, Jacobi):
        return Jacobi(Edited(source.inner, edit, numbers, total), source.passes)
    kind = EditedPrompt if isinstance(source, Prompted) else Edited
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
