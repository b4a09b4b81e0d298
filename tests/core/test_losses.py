"""Losses are sums; who calls divides."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from unspoken.core.loop.trace import Trace
from unspoken.core.losses import cross_entropy_sum, labelled_cross_entropy_sum
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row

torch.manual_seed(0)
HEAD = torch.nn.Linear(6, 11)
HIDDEN = torch.randn(5, 6)
LABELS = torch.tensor([0, 3, 10, 3, 7])


def test_a_sum_over_targets():
    want = F.cross_entropy(HEAD(HIDDEN), LABELS, reduction="sum")
    torch.testing.assert_close(cross_entropy_sum(HIDDEN, LABELS, HEAD), want)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5])
    parts = F.cross_entropy(HEAD(HIDDEN), LABELS, reduction="none")
    torch.testing.assert_close(cross_entropy_sum(HIDDEN, LABELS, HEAD, weights), (parts * weights).sum())


def test_no_target_is_zero_with_a_graph():
    hidden = torch.randn(0, 6, requires_grad=True)
    loss = cross_entropy_sum(hidden, torch.zeros(0, dtype=torch.long), HEAD)
    loss.backward()
    assert float(loss.detach()) == 0


def test_low_precision_states_give_a_float32_loss():
    loss = cross_entropy_sum(HIDDEN.bfloat16(), LABELS, torch.nn.Linear(6, 11, dtype=torch.bfloat16))
    assert loss.dtype == torch.float32


def test_labels_are_predicted_by_the_state_before_them():
    """Also where columns of the pass are not positions of the row."""
    rows = [
        Row(ids=(1, 2, 3), labels=(IGNORE, 2, 3), start=3, latents=0),
        Row(ids=(4, 5), labels=(IGNORE, 5), start=2, latents=0),
    ]
    hidden = torch.randn(2, 4, 6)
    columns = np.array([[0, 2, 3], [1, 3, -1]])
    trace = Trace(
        latents_BKD=torch.zeros(2, 0, 6), states_BKD=None, counts_B=np.zeros(2, int), starts_B=np.array([3, 2]),
        hidden_BSD=hidden, column_BT=columns,
    )  # fmt: skip
    states = torch.stack([hidden[0, 0], hidden[0, 2], hidden[1, 1]])
    want = F.cross_entropy(HEAD(states), torch.tensor([2, 3, 5]), reduction="sum")
    torch.testing.assert_close(labelled_cross_entropy_sum(trace, collate(rows), HEAD), want)
