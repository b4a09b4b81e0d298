"""Ratios counted while a loss is computed, and added up over passes and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A sum over labels and its denominator, kept apart so that the metrics of parts add up to that of the whole.

    Attributes:
        value: a scalar or a vector; stays on its device until `compute`.
        total: the denominator, of the same shape; None for a plain sum.
    """

    value: Tensor | np.ndarray
    total: np.ndarray | None = None

    def __add__(self, other: Metric) -> Metric:
        total = None if self.total is None or other.total is None else self.total + other.total
        return Metric(value=self.value + other.value, total=total)

    def on_host(self) -> Metric:
        """The same with its value copied to the host."""
        value = self.value
        return Metric(value=value.cpu().double().numpy() if isinstance(value, Tensor) else value, total=self.total)

    def compute(self) -> Any:
        """The rounded ratio: a number, or a list up to the last non-zero denominator; None stands for 0 / 0."""
        value = np.asarray(self.on_host().value, dtype=np.float64)  # two 0-d arrays add up to a number, not to an array
        if self.total is None:
            return value.tolist()
        total = np.asarray(self.total)
        rates = [round(float(v) / float(n), 6) if n > 0 else None for v, n in zip(value.flat, total.flat, strict=True)]
        if not value.ndim:
            return rates[0]
        last = max((i for i, rate in enumerate(rates) if rate is not None), default=-1)
        return rates[: last + 1]


Metrics = dict[str, Metric]
"""What is logged of a training step besides its loss, by name."""


def add_metrics(parts: Sequence[Metrics]) -> Metrics:
    """The metrics of a whole from those of its parts."""
    total: Metrics = {}
    for part in parts:
        for name, metric in part.items():
            total[name] = total[name] + metric if name in total else metric
    return total
