"""One problem as a row: its token ids, where its latents lie, which places are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unspoken.core.rows.attachment import Attachment

IGNORE = -100
"""The label of a position that is no target, as in `torch.nn.functional.cross_entropy`."""

LatentKey = tuple[str, int]
"""Whose latents they are: the row's name, and the number of the set of thoughts, from 0."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence, ready to be forwarded.

    Attributes:
        ids: a token id per position; latent slots hold a placeholder id.
        labels: the id to predict *at* each position (its own id, as Hugging Face has it), or IGNORE.
        start: position of the first latent; equals `len(ids)` where there is none.
        latents: number of latent slots, contiguous from `start`.
        steps_covered: how many leading steps of the problem the latents stand for.
        name: its example's id: how errors name the row, and what tells its latents from others' (`LatentKey`).
        unfed_latent: make one more latent, from the state at the last one, that is never fed; only a step decoder reads it.
        capture_at: position at which the states of every layer are kept, or None.
        branch: another sequence that begins with this row's first `shared` positions; these are forwarded once, for
            both. Neither sees the rest of the other. It has no latents and no branch of its own.
        shared: how many leading positions the branch shares; at most `start`.
        position_gap: (place, size): position ids are larger by `size` from that place on, as if something still stood there.
        num_eos: how many eos end what the row goes on to speak: more than 1 where eos also separates its parts.
        extra: what the row's method needs besides, by name.
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

    def value(self, name: str, default: Any = None) -> Any:
        """The `HostValue` of a name; `default` where the row has none."""
        return getattr(self.extra.get(name), "value", default)

    def positions_elsewhere(self, chain: int, sample: int) -> int:
        """Positions that other models forward for a sample of a set of thoughts."""
        return sum(part.positions_elsewhere(chain, sample) for part in self.extra.values())


EMPTY = Row(ids=(), labels=(), start=0, latents=0)
"""Stands where other rows of a batch have a further row, e.g. a branch."""
