"""What a method adds to its rows, beyond where tokens and latents lie: attachments, which travel with rows and batches.

The core carries them without knowing what they are; the method, or the part of it that has made one, finds it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

T = TypeVar("T")


class BatchAttachment(Protocol):
    """The attachments of one name of a batch's rows."""

    def select(self, rows_N: np.ndarray, /) -> BatchAttachment:
        """Those of some of the rows, each as often as `rows_N` names it."""
        ...

    def to(self, device: torch.device | str, /) -> BatchAttachment:
        """The same with its tensors on `device`."""
        ...


class Attachment(Protocol):
    """What one row carries under a name in `Row.extra`. All rows of a batch have the same type of it, or none."""

    @classmethod
    def collate(cls, parts: Sequence[Any], /) -> BatchAttachment:
        """Side by side; `parts` holds an attachment of this type per row, or None where a row has none."""
        ...

    def positions_elsewhere(self, chain: int, sample: int) -> int:
        """Positions that another model forwards for a sample of a set of thoughts; none by default."""
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
        """Itself: nothing of it is on a device."""
        return self
