"""Attachments: what a method adds to its rows besides tokens and the places of latents. They travel with rows and batches.

The core carries them without knowing what they are; the method, or part, that made one finds it by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

T = TypeVar("T")


class BatchAttachment(Protocol):
    """The attachments of a batch's rows under one name."""

    def select(self, rows_N: np.ndarray, /) -> BatchAttachment:
        """The attachments of some rows, each as often as `rows_N` lists it."""
        ...

    def to(self, device: torch.device | str, /) -> BatchAttachment:
        """The same with its tensors on `device`."""
        ...


class Attachment(Protocol):
    """What one row carries under a name in `Row.extra`. In a batch, every row has the same type under a name, or
    nothing."""

    @classmethod
    def collate(cls, parts: Sequence[Any], /) -> BatchAttachment:
        """Make one `BatchAttachment` of the rows' attachments; None for a row without one."""
        ...

    def positions_elsewhere(self, chain: int, sample: int) -> int:
        """Positions that another model forwards for a sample of a set of thoughts; 0 by default."""
        return 0


@dataclass(frozen=True)
class HostValue(Attachment, Generic[T]):
    """A plain value, which stays on the host; found again by `Row.value` and `Batch.values`."""

    value: T

    @classmethod
    def collate(cls, parts: Sequence[HostValue[T] | None], /) -> HostValues[T]:
        """See `Attachment.collate`."""
        return HostValues([None if part is None else part.value for part in parts])


@dataclass(frozen=True)
class HostValues(Generic[T]):
    """The values of a batch's rows, None where a row has none."""

    values: list[T | None]

    def select(self, rows_N: np.ndarray, /) -> HostValues[T]:
        """See `BatchAttachment.select`."""
        return HostValues([self.values[b] for b in rows_N])

    def to(self, device: torch.device | str, /) -> HostValues[T]:
        """Returns itself: nothing of it is on a device."""
        return self
