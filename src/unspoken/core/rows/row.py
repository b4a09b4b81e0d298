"""One problem as a row: its token ids, where its latents are, which tokens are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack

from unspoken.core.rows.attachment import Attachment

IGNORE = -100
"""The label of a position that is no target, as in `torch.nn.functional.cross_entropy`."""

LatentKey = tuple[str, int]
"""Identifies latents: the row's name and the number of the set of thoughts, from 0."""


class RowFields(TypedDict, total=False):
    """Fields of `Row` that may be left out."""

    steps_covered: int
    name: str
    unfed_latent: bool
    capture_at: int | None
    branch: Row | None
    shared: int
    position_gap: tuple[int, int]
    num_eos: int
    extra: Mapping[str, Attachment]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence, ready to be forwarded.

    Attributes:
        ids: a token id per position; latent slots hold a placeholder id.
        labels: the id to predict *at* each position (its own id, as Hugging Face has it), or IGNORE.
        start: position of the first latent; equals `len(ids)` where there is none.
        latents: number of latent slots, contiguous from `start`.
        steps_covered: how many leading steps of the problem the latents stand for.
        name: the example's id, used in errors and to identify the row's latents (`LatentKey`).
        unfed_latent: make one more latent from the state at the last one. It is never fed; a step decoder may read it.
        capture_at: position at which the states of every layer are kept, or None.
        branch: another sequence that begins with this row's first `shared` positions, which are forwarded once for both.
            Neither attends to the rest of the other. It has no latents and no branch of its own.
        shared: how many leading positions the branch shares; at most `start`.
        position_gap: (place, size): position ids are larger by `size` from that place on, as if removed text were still
            there.
        num_eos: how many eos tokens end the answer; more than 1 if eos also separates its parts.
        extra: what the method attaches to the row, by name (core/rows/attachment.py).
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    start: int
    latents: int
    steps_covered: int = 0
    name: str = ""
    unfed_latent: bool = False
    capture_at: int | None = None
    branch: Row | None = None
    shared: int = 0
    position_gap: tuple[int, int] = (0, 0)
    num_eos: int = 1
    extra: Mapping[str, Attachment] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """Positions to forward, those of the branch included."""
        return len(self.ids) + (len(self.branch.ids) - self.shared if self.branch is not None else 0)

    @property
    def longest(self) -> int:
        """Length of the longer of row and branch, gaps included: what must fit into the model's context."""
        return max(len(self.ids) + self.position_gap[1], self.branch.longest if self.branch is not None else 0)

    def followed_by(self, text: tuple[int, ...], *, start: int | None = None, **changes: Unpack[RowFields]) -> Row:
        """The row with more text behind it, each token of which is to be predicted."""
        start = self.start if start is None else start
        return replace(self, ids=(*self.ids, *text), labels=(*self.labels, *text), start=start, **changes)

    def value(self, name: str, default: object = None) -> Any:
        """The `HostValue` of a name; `default` where the row has none."""
        return getattr(self.extra.get(name), "value", default)

    def positions_elsewhere(self, chain: int, sample: int) -> int:
        """Positions that other models forward for a sample of a set of thoughts."""
        return sum(part.positions_elsewhere(chain, sample) for part in self.extra.values())


def unlabelled(ids: tuple[int, ...], *, start: int | None = None, latents: int = 0, **fields: Unpack[RowFields]) -> Row:
    """A row of which nothing is to be predicted, such as a prompt; without latents unless told otherwise."""
    start = len(ids) if start is None else start
    return Row(ids=ids, labels=(IGNORE,) * len(ids), start=start, latents=latents, **fields)


EMPTY = Row(ids=(), labels=(), start=0, latents=0)
"""Takes the place of a missing branch in a batch."""
