"""Marks on labels, and the accuracies that are counted from them."""

from __future__ import annotations

import numpy as np
import torch

from unspoken.core.rows.batch import collate
from unspoken.core.rows.label_marks import LABEL_MARKS, STEPS_APART, Marks, label_metrics, label_weights, marks_of
from unspoken.core.rows.metrics import Metric, add_metrics
from unspoken.core.rows.row import IGNORE, Row

WEIGHTS = np.array([1.0, 2.0, 2.0, 2.0, 1.0, 2.0])
STEPS = np.array([-1, 0, 0, 1, -1, 2])
RESULTS = np.array([False, False, True, True, False, False])


def told(hits: list[int] | None, which: slice = slice(None)) -> dict:
    hits_N = None if hits is None else torch.tensor(hits, dtype=torch.bool)[which]
    metrics = label_metrics(hits_N, WEIGHTS[which], STEPS[which], RESULTS[which])
    return {name: metric.compute() for name, metric in metrics.items()}


def test_accuracies_of_all_labels_of_steps_of_results_and_by_step() -> None:
    assert told([1, 1, 0, 1, 0, 0]) == {
        "num_tokens": 6.0,
        "weighted_tokens": 10.0,
        "step_tokens": 4.0,
        "token_accuracy": 0.5,
        "step_accuracy": 0.5,
        "result_accuracy": 0.5,
        "step_accuracy_by_step": [0.5, 1.0, 0.0],
    }
    assert told([1] * 6)["step_accuracy"] == 1.0
    assert told([1, 0, 0, 0, 1, 0])["step_accuracy"] == 0.0


def test_nothing_to_count_is_none_and_not_zero() -> None:
    nothing = told([1, 1, 1, 1, 1, 1], slice(0, 1))
    assert nothing["token_accuracy"] == 1.0
    assert nothing["step_accuracy"] is None
    assert nothing["result_accuracy"] is None
    assert nothing["step_accuracy_by_step"] == []
    assert told(None) == {"num_tokens": 6.0, "weighted_tokens": 10.0}
    gap = label_metrics(torch.tensor([True]), np.ones(1), np.array([2]), np.array([False]))
    assert gap["step_accuracy_by_step"].compute() == [None, None, 1.0]


def test_steps_behind_the_last_that_is_told_apart_count_with_it() -> None:
    steps_N = np.array([STEPS_APART - 1, STEPS_APART, STEPS_APART + 40])
    metrics = label_metrics(torch.tensor([True, False, True]), np.ones(3), steps_N, np.zeros(3, dtype=bool))
    assert metrics["step_accuracy_by_step"].compute() == [None] * (STEPS_APART - 1) + [round(2 / 3, 6)]


def test_metrics_of_parts_add_up_to_those_of_the_whole() -> None:
    hits = torch.tensor([1, 1, 0, 1, 0, 0], dtype=torch.bool)
    whole = label_metrics(hits, WEIGHTS, STEPS, RESULTS)
    for cut in range(1, 6):
        halves = [label_metrics(hits[s], WEIGHTS[s], STEPS[s], RESULTS[s]) for s in (slice(0, cut), slice(cut, 6))]
        assert {n: m.compute() for n, m in add_metrics(halves).items()} == {n: m.compute() for n, m in whole.items()}
        assert {n: m.on_host().compute() for n, m in add_metrics(halves).items()} == {
            n: m.compute() for n, m in whole.items()
        }
    assert add_metrics([{}, whole]).keys() == whole.keys()
    assert Metric(value=np.array(3.0)).compute() == 3.0


def test_marks_stand_beside_their_labels_in_a_batch() -> None:
    marks = Marks(weights=(1.0, 2.0, 3.0), steps=(-1, 0, 1), results=(False, False, True))
    placed = marks.placed([1, 2], [3, 4], 5)
    assert placed == Marks(weights=(1, 1, 1, 2, 3), steps=(-1, -1, -1, 0, 1), results=(False,) * 4 + (True,))
    rows = [
        Row(ids=(5, 6, 7), labels=(IGNORE, 6, 7), start=3, latents=0, extra={LABEL_MARKS: marks}),
        Row(ids=(1, 2, 3, 4), labels=(IGNORE, 2, 3, 4), start=4, latents=0),
    ]
    batch = collate(rows)
    weights = label_weights(batch)
    assert weights is not None
    assert weights.tolist() == [2.0, 3.0, 1.0, 1.0, 1.0]
    found = marks_of(batch)
    assert found is not None
    assert found.steps_BT.tolist() == [[-1, 0, 1, -1], [-1] * 4]
    assert marks_of(batch.select(np.array([1]))) is not None
    assert label_weights(collate(rows[1:])) is None
