"""Marks on a row's labels: the weight in the loss, the step a label belongs to, whether it is the step's result. And how
often a model predicts such labels, as sums that add up over micro-batches, processes and steps.

Shapes: B rows, T positions, N labels, M rates, I step numbers that are counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unspoken.core.rows.attachment import Attachment
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.metrics import Metric, Metrics

LABEL_MARKS = "label_marks"
"""Their name in `Row.extra`."""

STEPS_APART = 16
"""I: step numbers with an accuracy of their own; later steps count with the last one. GSM8K has at most 9 steps."""


@dataclass(frozen=True, kw_only=True)
class Marks(Attachment):
    """One entry per position of a row, about the label there.

    Attributes:
        weights: factor of its loss.
        steps: number of the step it belongs to, from 0; -1 for none.
        results: whether it is part of the step's result.
        track: whether to count how often such labels are predicted.
    """

    weights: tuple[float, ...]
    steps: tuple[int, ...]
    results: tuple[bool, ...]
    track: bool = True

    def placed(self, which: Sequence[int], at: Sequence[int], length: int) -> Marks:
        """Copy some entries to some positions of a row of another length; other positions are unmarked."""
        weights, steps, results = [1.0] * length, [-1] * length, [False] * length
        for mine, there in zip(which, at, strict=True):
            weights[there], steps[there], results[there] = self.weights[mine], self.steps[mine], self.results[mine]
        return Marks(weights=tuple(weights), steps=tuple(steps), results=tuple(results), track=self.track)

    @classmethod
    def collate(cls, parts: Sequence[Marks | None], /) -> BatchMarks:
        """See `Attachment.collate`. The last column is unmarked: it stands for all positions beyond the longest marked
        row."""
        T = max(len(marks.weights) for marks in parts if marks is not None)
        weights_BT = np.ones((len(parts), T + 1), dtype=np.float64)
        steps_BT = np.full((len(parts), T + 1), -1, dtype=np.int64)
        results_BT = np.zeros((len(parts), T + 1), dtype=bool)
        for b, marks in enumerate(parts):
            if marks is not None:
                weights_BT[b, : len(marks.weights)] = marks.weights
                steps_BT[b, : len(marks.steps)] = marks.steps
                results_BT[b, : len(marks.results)] = marks.results
        track = any(marks is not None and marks.track for marks in parts)
        return BatchMarks(weights_BT=weights_BT, steps_BT=steps_BT, results_BT=results_BT, track=track)


@dataclass(frozen=True, kw_only=True)
class BatchMarks:
    """The marks of the rows of a batch, on the host; rows without marks have weight 1 and no step."""

    weights_BT: np.ndarray
    steps_BT: np.ndarray
    results_BT: np.ndarray
    track: bool

    def select(self, rows_N: np.ndarray, /) -> BatchMarks:
        """Those of some of the rows."""
        parts = {name: getattr(self, name)[rows_N] for name in ("weights_BT", "steps_BT", "results_BT")}
        return BatchMarks(**parts, track=self.track)

    def to(self, device: torch.device | str, /) -> BatchMarks:
        """Itself: nothing of it is on a device."""
        return self

    def at(self, rows_N: np.ndarray, positions_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(weights_N, steps_N, results_N) of the labels at some positions of some rows."""
        at = np.s_[rows_N, np.minimum(positions_N, self.weights_BT.shape[1] - 1)]
        return self.weights_BT[at], self.steps_BT[at], self.results_BT[at]


def marks_of(batch: Batch) -> BatchMarks | None:
    """The marks of a batch; None where no row has any."""
    marks = batch.extra.get(LABEL_MARKS)
    assert marks is None or isinstance(marks, BatchMarks)
    return marks


def label_weights(batch: Batch) -> np.ndarray | None:
    """Weight of each target, in the order of `Batch.label_places`; None = all 1."""
    if (marks := marks_of(batch)) is None:
        return None
    rows, places, _ = batch.label_places()
    return marks.at(rows, places + 1)[0]


def label_metrics(hits_N: Tensor | None, weights_N: np.ndarray, steps_N: np.ndarray, results_N: np.ndarray) -> Metrics:
    """Number and weight of labels, and how many are predicted: of all labels, of steps, of steps' results, and of each step
    number.

    Args:
        hits_N: which labels are the most likely token at their place; None = not counted.
        weights_N, steps_N, results_N: see `Marks`.
    """
    metrics: Metrics = {
        "num_tokens": Metric(value=np.array(float(len(weights_N)))),
        "weighted_tokens": Metric(value=np.array(weights_N.sum())),
    }
    if hits_N is None:
        return metrics
    inside_N = steps_N >= 0
    metrics["step_tokens"] = Metric(value=np.array(float(inside_N.sum())))
    apart_IN = np.minimum(steps_N, STEPS_APART - 1) == np.arange(STEPS_APART)[:, None]
    masks_MN = np.concatenate([np.ones((1, len(steps_N)), dtype=bool), [inside_N, inside_N & results_N], apart_IN])
    # One matrix product on the device, without synchronising. Sums of zeros and ones are exact up to 2^24.
    hits_M = torch.from_numpy(masks_MN).to(hits_N.device, torch.float32) @ hits_N.float()
    totals_M = masks_MN.sum(axis=1).astype(np.float64)
    for m, name in enumerate(("token_accuracy", "step_accuracy", "result_accuracy")):
        metrics[name] = Metric(value=hits_M[m], total=totals_M[m : m + 1].reshape(()))
    metrics["step_accuracy_by_step"] = Metric(value=hits_M[3:], total=totals_M[3:])
    return metrics
