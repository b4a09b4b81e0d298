"""Where latents come from: a `Source` makes the next one from the last state; an `Iterated` one makes all of them at once,
in several passes; `PrecomputedThoughts` has all of them beforehand.

The loop asks a source for the next latents of the rows that think in this pass. Precomputed thoughts are put into the slots
of the prompt, which is then read like text.

Shapes: B rows, N rows that think now (or latents to edit), K latents of the row with most, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unspoken.core.config import config_class
from unspoken.core.rows.batch import Batch
from unspoken.errors import ConfigError


@config_class
class ThinkingConfig:
    """How a run computes recurrent latents, in training and afterwards."""

    parallel: int | None = None  # parallel passes for all of them (core/loop/parallel.py); None = one pass per latent

    def __post_init__(self) -> None:
        if self.parallel is not None and self.parallel < 1:
            raise ConfigError(f"parallel passes over the latents must be 1 or more, got {self.parallel}; null: in turn")


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
class PrecomputedThoughts(Protocol):
    """Thoughts known before the base model's first pass: made by another model, or learned.

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
            [chains x B, K, D]: set c of row b is row c * B + b. Values beyond a row's own latents are ignored.
        """
        ...


class Recurrence:
    """Coconut: the hidden state itself is the next input. CODI: a projection of it is.

    Args:
        transform: applied to the states [N, D], such as a projection; None = the states themselves.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.transform = transform

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`."""
        return hidden_ND if self.transform is None else self.transform(hidden_ND)


class Unfed:
    """Nothing is fed back: a slot holds a learned token, whatever the state before it. The trace keeps these states, so that
    something can read them without recurrence.

    Args:
        token: the slots' token.
        embed: token ids -> embeddings.
    """

    def __init__(self, token: int, embed: Callable[[Tensor], Tensor]) -> None:
        self.token, self.embed = token, embed

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`."""
        return self.embed(torch.full((len(hidden_ND),), self.token, device=hidden_ND.device))


def are_learned(source: Source | PrecomputedThoughts | None) -> bool:
    """Whether slots hold learned tokens, the same for every problem."""
    return source is None or isinstance(source, Unfed)


class Iterated(ABC):
    """A source that makes all latents of a row at once, again in every pass over their slots (`core/loop/parallel.py`).

    Slots start with the embedding of their own token.

    Attributes:
        own_slot: a latent is made from the state at its own slot in the pass before; False: from the state at the position
            before, as a latent made in turn is.

    Args:
        inner: what makes a latent from a state.
    """

    own_slot: ClassVar[bool]

    def __init__(self, inner: Source) -> None:
        self.inner = inner

    @abstractmethod
    def passes_for(self, latents: int) -> int:
        """Passes over the slots of a row with this many latents, 1 or more; the last one also feeds the text after them."""

    def tokens_apart(self, latents: int) -> bool:
        """Whether a row's first pass feeds the slots' own tokens alone, without its first latent."""
        return self.own_slot

    @abstractmethod
    def around(self, inner: Source) -> Iterated:
        """The same passes with other latents."""

    def next(self, hidden_ND: Tensor, rows_N: np.ndarray, index_N: np.ndarray) -> Tensor:
        """See `Source.next`; called once per pass for all latents that change in it."""
        return self.inner.next(hidden_ND, rows_N, index_N)


class Jacobi(Iterated):
    """Latents that are usually made one after the other, made in a fixed number of parallel passes (PCCoT).

    Args:
        inner: what makes a latent from the state before its slot.
        passes: T, passes in which latents are fed. With 1, every latent but the first is its slot's own token.
        tokens_first: read the slots' own tokens in a pass before those, from whose states the first latents are made, as
            PCCoT's code does; else they are fed together with the first latent.

    Raises:
        ConfigError: fewer than one pass.
    """

    own_slot = False

    def __init__(self, inner: Source, passes: int, tokens_first: bool = False) -> None:
        if passes < 1:
            raise ConfigError(f"parallel passes over the latents must be 1 or more, got {passes}; null: in turn")
        super().__init__(inner)
        self.passes, self.tokens_first = passes, tokens_first

    def passes_for(self, latents: int) -> int:
        """As many as were asked for; after one pass per latent all are exact, whatever was fed before."""
        return min(self.passes + self.tokens_first, latents)

    def tokens_apart(self, latents: int) -> bool:
        """See `Iterated.tokens_apart`; for nothing where all latents get exact."""
        return self.tokens_first and self.passes < latents

    def around(self, inner: Source) -> Jacobi:
        """See `Iterated.around`."""
        return Jacobi(inner, self.passes, self.tokens_first)


class Looped(Iterated):
    """Slots that are looped over: each is fed again with the state at the same slot in the pass before (LOTUS).

    Args:
        inner: what makes the slot's next input from the state at it.
        block: slots per loop: a row's slots are looped over once for each block of so many, after a first pass.
    """

    own_slot = True

    def __init__(self, inner: Source, block: int) -> None:
        super().__init__(inner)
        self.block = block

    def passes_for(self, latents: int) -> int:
        """The first pass, and a loop for every block."""
        return 1 + -(-latents // self.block)

    def around(self, inner: Source) -> Looped:
        """See `Iterated.around`."""
        return Looped(inner, self.block)


def parallel(source: Source | PrecomputedThoughts | None, passes: int | None) -> Source | PrecomputedThoughts | None:
    """The source with its latents made in this many parallel passes; None leaves it as it is.

    Raises:
        ConfigError: its latents are not recurrent, or have passes of their own.
    """
    if passes is None:
        return source
    if source is None or isinstance(source, PrecomputedThoughts):
        raise ConfigError("parallel passes are for latents that are made one from the other; here all are known before")
    if isinstance(source, Looped):
        raise ConfigError("parallel passes are for latents that are made one from the other; here all are made in loops "
                          "over their slots; leave thinking.parallel (--parallel) away")  # fmt: skip
    return Jacobi(source.inner if isinstance(source, Jacobi) else source, passes)


def at_once(source: Source | None, passes: int | None) -> Source | None:
    """The source for a model set to this many parallel passes; a source with its own number keeps it."""
    return source if source is None or passes is None or isinstance(source, Iterated) else Jacobi(source, passes)


class SlotTokens:
    """The embeddings of the tokens in the slots (pause tokens) as precomputed thoughts, so that they can be edited.

    Args:
        embed: token ids -> embeddings.
    """

    chains = 1

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        self.embed = embed

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `PrecomputedThoughts.vectors`."""
        place_BK = batch.starts_B[:, None] + np.arange(int(batch.latents_B.max()))[None, :]
        place_BK = np.minimum(place_BK, batch.ids_BT.shape[1] - 1)
        return self.embed(batch.ids_BT.gather(1, torch.from_numpy(place_BK).to(batch.ids_BT.device)))
