"""What each label of a row is to the reasoning: its weight in the loss, the step it belongs to, whether it is its result;
and how often a model predicts such labels, as sums that add up over micro-batches, processes and steps.

Shapes: B rows, T positions, N labels, M rates, I step numbers that are counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unspoken.core.rows.metrics import Metric, Metrics

STEPS_APART = 16
"""I. Steps that the accuracy per step tells apart; those behind the last count with it. GSM8K has at most 9."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """One entry per position of a row, about the label there.

    Attributes:
        weights: factor of its loss; 1 is plain.
        steps: number of the step it belongs to, from 0; -1 for none.
        results: it is part of what its step states as its result.
        track: count how often such labels are predicted.
    """

    weights: tuple[float, ...]
    steps: tuple[int, ...]
    results: tuple[bool, ...]
    track: bool = True

    def placed(self, which: Sequence[int], at: Sequence[int], length: int) -> Marks:
        """Some of the entries at some positions of a row of another length; nothing is marked elsewhere."""
        weights, steps, results = [1.0] * length, [-1] * length, [False] * length
        for mine, there in zip(which, at, strict=True):
            weights[there], steps[there], results[there] = self.weights[mine], self.steps[mine], self.results[mine]
        return Marks(weights=tuple(weights), steps=tuple(steps), results=tuple(results), track=self.track)


@dataclass(frozen=True, kw_only=True)
class BatchMarks:
    """The marks of the rows of a batch, on the host; rows without marks have weight 1 and no step."""

    weights_BT: np.ndarray
    steps_BT: np.ndarray
    results_BT: np.ndarray
    track: bool

    @staticmethod
    def of(rows: Sequence[Marks | None], T: int) -> BatchMarks | None:
        """Side by side, padded to T; None where no row is marked."""
        if all(marks is None for marks in rows):
            return None
        weights_BT = np.ones((len(rows), T), dtype=np.float64)
        steps_BT = np.full((len(rows), T), -1, dtype=np.int64)
        results_BT = np.zeros((len(rows), T), dtype=bool)
        for b, marks in enumerate(rows):
            if marks is not None:
                weights_BT[b, : len(marks.weights)] = marks.weights
                steps_BT[b, : len(marks.steps)] = marks.steps
                results_BT[b, : len(marks.results)] = marks.results
        track = any(marks is not None and marks.track for marks in rows)
        return BatchMarks(weights_BT=weights_BT, steps_BT=steps_BT, results_BT=results_BT, track=track)

    def select(self, rows_N: np.ndarray) -> BatchMarks:
        """Those of some of the rows."""
        parts = {name: getattr(self, name)[rows_N] for name in ("weights_BT", "steps_BT", "results_BT")}
        return BatchMarks(**parts, track=self.track)


def label_metrics(hits_N: Tensor | None, weights_N: np.ndarray, steps_N: np.ndarray, results_N: np.ndarray) -> Metrics:
    """How many labels there are, what they weigh, and how many of them are predicted: of all, of the steps, of the
    steps' results, and of each step by its number.

    Args:
        hits_N: which labels are the likeliest token at their place; None = do not count that.
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
    # One product, on the device: nothing is waited for. Sums of zeros and ones are exact up to 2^24.
    hits_M = torch.from_numpy(masks_MN).to(hits_N.device, torch.float32) @ hits_N.float()
    totals_M = masks_MN.sum(axis=1).astype(np.float64)
    for m, name in enumerate(("token_accuracy", "step_accuracy", "result_accuracy")):
        metrics[name] = Metric(value=hits_M[m], total=totals_M[m : m + 1].reshape(()))
    metrics["step_accuracy_by_step"] = Metric(value=hits_M[3:], total=totals_M[3:])
    return metrics
