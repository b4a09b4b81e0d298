"""Rows on their way into a step: micro-batches by positions, batches taken as needed, the next step's made ahead."""

from __future__ import annotations

import threading
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import EXAMPLES, training_rows
from support import backbones

from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.methods import make_method
from unspoken.runs.config import TrainConfig
from unspoken.training.feeding.feed import Feed, micro_batches
from unspoken.training.feeding.schedule import Schedule


def rows_of(lengths: list[int]) -> list[Row]:
    return [Row(ids=(1,) * n, labels=(IGNORE,) * n, start=n, latents=0, name=str(i)) for i, n in enumerate(lengths)]


def test_without_a_budget_rows_stay_in_order():
    rows = rows_of([3, 9, 4, 8, 5])
    assert micro_batches(rows, None, None) == [rows]
    assert micro_batches(rows, 2, None) == [rows[:2], rows[2:4], rows[4:]]
    assert micro_batches([], 2, None) == micro_batches([], None, 9) == []


def test_a_budget_puts_rows_of_like_length_together():
    rng = Random(0)
    rows = rows_of([rng.randint(5, 60) for _ in range(64)])
    parts = micro_batches(rows, None, 240)
    assert sorted(int(row.name) for part in parts for row in part) == list(range(64))
    slots = [len(part) * max(row.positions for row in part) for part in parts]
    assert max(slots) <= 240
    assert 1 - sum(row.positions for row in rows) / sum(slots) < 0.15
    assert all(len(part) <= 3 for part in micro_batches(rows, 3, 240))
    assert [len(part) for part in micro_batches(rows_of([500, 2, 2]), None, 240)] == [1, 2]  # one that is longer goes alone


def test_micro_batches_make_the_gradient_of_the_whole():
    method: Any = make_method({"name": "coconut", "first_stage": 0}, backbones.backbone("llama"))
    rows = training_rows(method)
    counts = method.counts(collate(rows))
    grads = []
    for budget in (None, 80):
        method.zero_grad(set_to_none=True)
        parts = micro_batches(rows, None, budget)
        for part in parts:
            method(collate(part), counts).total.backward()
        grads.append({n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None})
    assert len(parts) > 2
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-3, atol=1e-4 * max(1.0, float(grad.abs().max())))


class Counted:
    """A method that counts what it lays out, and by which thread."""

    def __init__(self) -> None:
        self.laid: list[str] = []

    def counts(self, batch: Any) -> Any:
        return {"rows": np.array(float(len(batch)))}

    def layout(self, example: Any, stage: Any, rng: Random) -> Row:
        self.laid.append(threading.current_thread().name)
        n = 3 + len(example.question) % 7
        return Row(ids=(rng.randint(0, 9),) * n, labels=(IGNORE,) * n, start=n, latents=0, name=example.id)


def feed(examples: int = 40, window: int = 2) -> tuple[Feed, Counted]:
    method: Any = Counted()
    from unspoken.core.rows.curriculum import Stage, single

    config = TrainConfig(epochs=2, batch_size=4, length_window=window, seed=3)
    schedule = Schedule(config, single(Stage(removed=None, groups=1)), examples)
    return Feed(method, [EXAMPLES[i % 5] for i in range(examples)], schedule, config), method


def taken(feed: Feed, step: int) -> list[Row]:
    return [row for part in feed.take(step).parts for row in part]


def test_what_is_made_ahead_is_what_the_step_needs():
    ahead, _ = feed()
    plain, _ = feed()
    for step in range(plain.schedule.total):
        assert taken(ahead, step) == plain.rows(step)
        ahead.settle()
    late, _ = feed()
    assert taken(late, 13) == plain.rows(13)  # a resumed run begins in the middle


def test_the_next_step_is_laid_out_by_a_thread_and_the_last_begins_none():
    ahead, method = feed()
    ahead.take(0)
    ahead.settle()
    assert "rows_0" in method.laid
    count = len(method.laid)
    ahead.take(1)
    assert method.laid.count("MainThread") == len([n for n in method.laid[:count] if n == "MainThread"])
    ahead.take(ahead.schedule.total - 1)
    assert ahead._next is None


def test_an_epoch_begins_without_laying_all_of_it_out():
    plain, method = feed(examples=4000, window=2)
    plain.rows(0)
    assert len(method.laid) == 8 + 4
    seen = [i for step in range(1000) for i in plain.batch(step)]
    assert sorted(seen) == list(range(4000))


def test_what_fails_ahead_fails_in_its_own_step():
    ahead, method = feed()
    want = method.layout

    def layout(example: Any, stage: Any, rng: Random) -> Row:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("laid out in vain")
        return want(example, stage, rng)

    method.layout = layout
    ahead.take(0)
    ahead.settle()
    with pytest.raises(ValueError, match="in vain"):
        ahead.take(1)
