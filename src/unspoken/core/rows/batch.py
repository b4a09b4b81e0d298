"""A problem as one row: question | bot | latents | eot | steps | answer, with labels, and rows as a batch.

A row says what stands where; how it is forwarded (passes, padding, cache) is decided by the loop and the scheduler. Shapes:
B rows, T positions of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unspoken.core.rows.attachment import BatchAttachment, HostValues
from unspoken.core.rows.row import EMPTY, IGNORE, LatentKey, Row
from unspoken.errors import DataError


@dataclass(kw_only=True)
class Batch:
    """Rows padded on the right to one length. Only the ids are on the device; the bookkeeping stays on the host.

    Attributes:
        ids_BT: token ids, 0 where a row has ended.
        labels_BT: labels on the host, IGNORE where there is no target.
        lengths_B, starts_B, latents_B: per row: positions, first latent's position, number of latents.
        names: per row, `Row.name`.
        unfed_latent_B, capture_at_B: see `Row`; -1 where nothing is captured.
        branch: the rows' branches as a batch of their own, or None where no row has one.
        shared_B: per row, how many leading positions its branch shares.
        gap_at_B, gap_B: `Row.position_gap` of each row.
        num_eos_B: see `Row`.
        extra: the rows' attachments by name; names that no row has are left out.
    """

    ids_BT: Tensor
    labels_BT: np.ndarray
    lengths_B: np.ndarray
    starts_B: np.ndarray
    latents_B: np.ndarray
    names: list[str] = field(default_factory=list)
    unfed_latent_B: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    capture_at_B: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    branch: Batch | None = None
    shared_B: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    gap_at_B: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    gap_B: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    num_eos_B: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    extra: dict[str, BatchAttachment] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths_B)

    def label_places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows_N, positions_N, labels_N) of all targets: the state at a position predicts its label."""
        rows, places = np.nonzero(self.labels_BT[:, 1:] != IGNORE)
        return rows, places, self.labels_BT[rows, places + 1]

    def position_ids(self, places_bW: np.ndarray, index_b: np.ndarray) -> np.ndarray:
        """Position ids of places in the given rows: the places, plus the row's gap from where it begins."""
        behind_bW = places_bW >= self.gap_at_B[index_b][:, None]
        return places_bW + behind_bW * self.gap_B[index_b][:, None]

    def keys(self, chains: int = 1) -> list[LatentKey]:
        """A key per row of `tile(chains)`."""
        return [(name, chain) for chain in range(chains) for name in self.names]

    def values(self, name: str, default: object = None) -> list[Any]:
        """Per row, its `HostValue` of a name; `default` where it has none."""
        found = self.extra.get(name)
        values = found.values if isinstance(found, HostValues) else [None] * len(self)
        return [default if value is None else value for value in values]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its ids on `device`."""
        self.ids_BT = self.ids_BT.to(device, non_blocking=True)
        if self.branch is not None:
            self.branch.to(device)
        self.extra = {name: part.to(device) for name, part in self.extra.items()}
        return self

    def select(self, rows_N: np.ndarray) -> Batch:
        """A batch of some of the rows, each as often as `rows_N` lists it, padded as before."""
        return Batch(
            ids_BT=self.ids_BT[torch.from_numpy(rows_N).to(self.ids_BT.device)],
            labels_BT=self.labels_BT[rows_N],
            lengths_B=self.lengths_B[rows_N],
            starts_B=self.starts_B[rows_N],
            latents_B=self.latents_B[rows_N],
            names=[self.names[b] for b in rows_N],
            unfed_latent_B=self.unfed_latent_B[rows_N],
            capture_at_B=self.capture_at_B[rows_N],
            branch=None if self.branch is None else self.branch.select(rows_N),
            shared_B=self.shared_B[rows_N],
            gap_at_B=self.gap_at_B[rows_N],
            gap_B=self.gap_B[rows_N],
            num_eos_B=self.num_eos_B[rows_N],
            extra={name: part.select(rows_N) for name, part in self.extra.items()},
        )

    def tile(self, copies: int) -> Batch:
        """`copies` copies of every row: copy c of row b is row c * B + b."""
        return self if copies == 1 else self.select(np.tile(np.arange(len(self)), copies))


def longest_first(rows: Sequence[Row]) -> list[int]:
    """Sort prompts so that batches hold rows of similar length: most latents first, then longest."""
    return sorted(range(len(rows)), key=lambda i: (rows[i].latents, len(rows[i].ids)), reverse=True)


def collate(rows: Sequence[Row]) -> Batch:
    """Rows -> Batch, right-padded.

    Raises:
        DataError: no rows, or a branch that does not begin as its row does.
    """
    if not rows:
        raise DataError("cannot make a batch of no rows; give at least one example")
    T = max(len(row.ids) for row in rows)
    ids_BT = np.zeros((len(rows), T), dtype=np.int64)
    labels_BT = np.full((len(rows), T), IGNORE, dtype=np.int64)
    for b, row in enumerate(rows):
        ids_BT[b, : len(row.ids)] = row.ids
        labels_BT[b, : len(row.labels)] = row.labels
    return Batch(
        ids_BT=torch.from_numpy(ids_BT),
        labels_BT=labels_BT,
        lengths_B=np.array([len(row.ids) for row in rows], dtype=np.int64),
        starts_B=np.array([row.start for row in rows], dtype=np.int64),
        latents_B=np.array([row.latents for row in rows], dtype=np.int64),
        names=[row.name for row in rows],
        unfed_latent_B=np.array([row.unfed_latent and row.latents > 0 for row in rows], dtype=bool),
        capture_at_B=np.array([-1 if row.capture_at is None else row.capture_at for row in rows], dtype=np.int64),
        branch=_branches(rows),
        shared_B=np.array([row.shared for row in rows], dtype=np.int64),
        gap_at_B=np.array([row.position_gap[0] for row in rows], dtype=np.int64),
        gap_B=np.array([row.position_gap[1] for row in rows], dtype=np.int64),
        num_eos_B=np.array([row.num_eos for row in rows], dtype=np.int64),
        extra=_extra(rows),
    )


def _extra(rows: Sequence[Row]) -> dict[str, BatchAttachment]:
    """The rows' attachments collated, by name."""
    kinds = {name: type(part) for row in rows for name, part in row.extra.items()}
    return {name: kind.collate([row.extra.get(name) for row in rows]) for name, kind in kinds.items()}


def _branches(rows: Sequence[Row]) -> Batch | None:
    """The rows' branches as a batch; an empty row where there is none."""
    if all(row.branch is None for row in rows):
        return None
    for row in rows:
        branch = row.branch or EMPTY
        if row.shared > row.start or branch.ids[: row.shared] != row.ids[: row.shared] or branch.latents or branch.branch:
            raise DataError(
                f"{row.name or 'a row'}: its branch must begin with the row's first {row.shared} positions, which lie "
                "before the first latent, and have no latents or branch of its own; this is a bug of the row's method"
            )
    return collate([row.branch or EMPTY for row in rows])


def windows_by_length(lengths: Sequence[int], order: Sequence[int], batch: int, window: int) -> list[list[int]]:
    """Cut `order` into windows of `window` batches and sort each window by length before batching, so that little is
    padding.

    Args:
        lengths: a length per example.
        order: example indices in the order in which they should be seen.
        batch: rows per batch.
        window: batches per window; 1 keeps the order as it is.

    Returns:
        Batches of indices, longest rows first inside a window. Every index occurs exactly once; the last batch may be
        smaller.
    """
    batches: list[list[int]] = []
    span = batch * max(window, 1)
    for first in range(0, len(order), span):
        part = list(order[first : first + span])
        if window > 1:
            part.sort(key=lambda i: lengths[i], reverse=True)
        batches.extend(part[i : i + batch] for i in range(0, len(part), batch))
    return batches
