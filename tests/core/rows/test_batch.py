"""Rows side by side, and batches by length."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import collate, windows_by_length
from unspoken.core.rows.row import IGNORE, Row

ROWS = [
    Row(ids=(5, 6, 7), labels=(IGNORE, 6, 7), start=3, latents=0, name="a"),
    Row(ids=(1, 2, 0, 0, 9), labels=(IGNORE,) * 4 + (9,), start=2, latents=2, name="b", extra={"own": HostValue((4, 8))}),
]


def test_rows_are_padded_on_the_right():
    batch = collate(ROWS)
    assert batch.ids_BT.tolist() == [[5, 6, 7, 0, 0], [1, 2, 0, 0, 9]]
    assert batch.labels_BT.tolist() == [[IGNORE, 6, 7, IGNORE, IGNORE], [IGNORE] * 4 + [9]]
    assert batch.lengths_B.tolist() == [3, 5]
    assert batch.starts_B.tolist() == [3, 2]
    assert batch.latents_B.tolist() == [0, 2]
    assert (batch.values("own", ()), batch.names, len(batch)) == ([(), (4, 8)], ["a", "b"], 2)
    assert batch.select(np.array([1, 0, 1])).values("own") == [(4, 8), None, (4, 8)]
    assert collate(ROWS[:1]).values("own", 3) == [3]


def test_the_state_before_a_label_predicts_it():
    rows, places, labels = collate(ROWS).label_places()
    assert (rows.tolist(), places.tolist(), labels.tolist()) == ([0, 0, 1], [0, 1, 3], [6, 7, 9])


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 7), st.integers(0, 5), st.randoms())
def test_windows_hold_every_example_once(lengths: list[int], batch: int, window: int, rng):
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = windows_by_length(lengths, order, batch, window)
    assert sorted(i for part in batches for i in part) == list(range(len(lengths)))
    assert all(len(part) == batch for part in batches[:-1] if batches)
    span = batch * max(window, 1)
    for first in range(0, len(order), span):
        flat = [i for part in batches[first // batch : (first + span) // batch] for i in part]
        assert sorted(flat) == sorted(order[first : first + span])
        if window > 1:
            assert [lengths[i] for i in flat] == sorted((lengths[i] for i in flat), reverse=True)
        else:
            assert flat == order[first : first + span]
