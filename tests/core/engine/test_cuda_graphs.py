"""Steady passes, as they are recorded on a GPU and run here without: the same answers, whoever sits in the slots."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from support.scheduler_cases import GREEDY, MIXED, ask, many_rows, speaker

from unspoken.core.engine import cuda_graphs
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_graphs, "AFTER", 0)


def said(running: list[Any]) -> list[list[int]]:
    return [active.tokens for active in running]


@pytest.mark.parametrize(("family", "speaking", "slots"), MIXED)
def test_answers_are_those_of_usual_passes(family: str, speaking: SamplingParams, slots: int):
    backbone, rows = speaker(family), many_rows()
    want, _ = ask(backbone, rows, speaking, slots=slots)
    got, queue = ask(backbone, rows, speaking, slots=slots, graphs=True)
    assert said(got) == said(want)
    assert queue.slots.steady.made > 10
    assert queue.cost.positions == sum(active.positions for active in got)


@pytest.mark.parametrize("length", [20, 63, 64, 65, 100])
def test_what_prompts_share_is_never_written_over(length: int):
    """Slots that wait write into their last column; a shared beginning of any length lies before it."""
    backbone = speaker("llama")
    rows = many_rows(12, head=tuple(range(1, length + 1)))
    want, _ = ask(backbone, rows, slots=4)
    got, queue = ask(backbone, rows, slots=4, graphs=True)
    assert said(got) == said(want)
    assert queue.slots.steady.made > 10


def test_requests_that_come_later_and_leave_slots_empty():
    backbone, rows = speaker("llama"), many_rows(9)
    want, _ = ask(backbone, rows, slots=2)
    queue = Scheduler(backbone, Recurrence(), slots=8, graphs=True)
    for i, row in enumerate(rows):
        queue.submit(Request(row=row, speaking=GREEDY, number=i))
        queue.step()
    while not queue.idle:
        queue.step()
    assert said([queue.done[i] for i in range(len(rows))]) == said(want)


def test_prompts_in_small_parts_hold_a_seat_that_feeds_nothing():
    backbone, rows = speaker("llama"), many_rows(16)
    want, _ = ask(backbone, rows, slots=4)
    got, _ = ask(backbone, rows, slots=4, graphs=True, chunk=3)
    assert said(got) == said(want)


def test_slots_are_taken_over_by_the_next_queue_while_the_model_is_the_same():
    backbone, rows = speaker("llama"), many_rows(6)
    want, _ = ask(backbone, rows, slots=3)
    _, first = ask(backbone, rows, slots=3, graphs=True)
    slots, made = first.slots, first.slots.steady.made
    del first
    gc.collect()
    got, second = ask(backbone, rows, slots=3, graphs=True)
    assert second.slots is slots
    assert slots.steady.made == 2 * made
    assert said(got) == said(want)
    del second
    gc.collect()
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.data = weight.data.clone()  # other addresses
    _, third = ask(backbone, rows, slots=3, graphs=True)
    assert third.slots is not slots


def test_weights_changed_in_place_count():
    backbone, rows = speaker("llama"), many_rows(6)
    ask(backbone, rows, slots=3, graphs=True)
    with torch.no_grad():
        for weight in backbone.lm.base_model.layers[0].parameters():
            weight.mul_(0.5)
    want, _ = ask(backbone, rows, slots=3)
    got, _ = ask(backbone, rows, slots=3, graphs=True)
    assert said(got) == said(want)


def test_a_recording_that_fails_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """As where there is no CUDA device at all: the passes go on the usual way."""
    backbone, rows = speaker("llama"), many_rows(6)
    want, _ = ask(backbone, rows, slots=3)

    def refuse(*_: Any) -> None:
        raise RuntimeError("not while a stream is capturing")

    put_back = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "usual")
    monkeypatch.setattr(torch.cuda, "set_stream", put_back.append)
    monkeypatch.setattr(torch.cuda, "Stream", refuse)
    queue = Scheduler(backbone, Recurrence(), slots=3, graphs=True)
    queue.slots.steady._record = True
    numbers = queue.run([Request(row=row, speaking=GREEDY, number=i) for i, row in enumerate(rows)])
    assert said([queue.done[n] for n in numbers]) == said(want)
    assert queue.slots.steady.made == 0
    assert put_back == ["usual"]


def test_no_recorded_pass_under_autocast():
    backbone, rows = speaker("llama"), many_rows(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, queue = ask(backbone, rows, slots=3, graphs=True)
    assert queue.slots.steady.made == 0


def test_slots_that_wait_can_be_let_go():
    backbone = speaker("llama")
    ask(backbone, many_rows(3), slots=3, graphs=True)
    gc.collect()
    assert cuda_graphs._SPARE[backbone]
    cuda_graphs.release(backbone)
    assert backbone not in cuda_graphs._SPARE


def test_passes_are_made_the_usual_way_until_it_pays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_graphs, "AFTER", 10**6)
    _, queue = ask(speaker("llama"), many_rows(3), slots=3, graphs=True)
    assert queue.slots.steady.made == 0


def test_nothing_of_it_on_a_cpu_unless_asked_for():
    _, queue = ask(speaker("llama"), many_rows(3), slots=3)
    assert queue.slots.steady is None
