"""Several answers to one prompt: it is read once, and each answer is what it would be alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.scheduler_cases import SAMPLED, row, speaker

from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.row import Row


def prompt(length: int = 40, latents: int = 3, seed: int = 0) -> Row:
    return row(np.random.default_rng(seed), length, latents, "one", head=tuple(range(1, 21)))


def scheduler(family: str = "llama", **how: Any) -> Scheduler:
    return Scheduler(speaker(family), Recurrence(), **how)


def serve(one: Scheduler, requests: list[Request], each: bool = False) -> list[tuple[list[int], int]]:
    """Tokens and positions of every request; `each`: one after the other."""
    if each:
        return [serve(one, [request])[0] for request in requests]
    numbers = one.submit_all(requests)
    while not one.idle:
        one.step()
    return [(list(one.done[number].tokens), one.done[number].positions) for number in numbers]


def several(of: Row, count: int) -> list[Request]:
    return [Request(row=of, speaking=SAMPLED, number=number) for number in range(count)]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("latents", [0, 3])
@pytest.mark.parametrize("chunk", [7, 512])
def test_a_prompt_is_read_once(family: str, latents: int, chunk: int):
    one, alone = prompt(latents=latents), scheduler(family, slots=8, chunk=chunk)
    want = serve(alone, several(one, 5), each=True)
    together = scheduler(family, slots=8, chunk=chunk)
    assert serve(together, several(one, 5)) == want
    assert len({tuple(tokens) for tokens, _ in want}) > 1
    length = min(one.start, len(one.ids)) - 1
    assert alone.cost.positions - together.cost.positions == 4 * length


def test_other_prompts_and_later_requests_sit_beside_it():
    """One that comes while the first speaks copies as well; a prompt of its own is read as ever."""
    one, other = prompt(), prompt(seed=5)
    requests = [*several(one, 2), Request(row=other, speaking=SAMPLED, number=9), *several(one, 4)[2:]]
    alone, together = scheduler(slots=8), scheduler(slots=8)
    want = serve(alone, requests, each=True)
    numbers = together.submit_all(requests[:3])
    for _ in range(5):
        together.step()
    numbers += together.submit_all(requests[3:])
    while not together.idle:
        together.step()
    assert [(list(together.done[n].tokens), together.done[n].positions) for n in numbers] == want
    assert alone.cost.positions - together.cost.positions == 3 * (one.start - 1)


def test_fewer_slots_than_answers():
    one = prompt()
    assert serve(scheduler(slots=2), several(one, 5)) == serve(scheduler(slots=8), several(one, 5), each=True)


def test_the_one_that_reads_is_cancelled():
    """Another reads from there on; nobody waits for ever."""
    one, requests = prompt(60), several(prompt(60), 3)
    want = serve(scheduler(slots=4), requests, each=True)
    left = scheduler(slots=4, chunk=4)
    numbers = left.submit_all(requests)
    left.step()
    left.cancel(numbers[0])
    while not left.idle:
        left.step()
    assert [list(left.done[n].tokens) for n in numbers[1:]] == [tokens for tokens, _ in want[1:]]
    assert numbers[0] not in left.done
    assert one.ids == requests[0].row.ids


def test_the_one_that_reads_fails():
    def edit(*_: Any) -> Any:
        raise ValueError("this edit fails")

    one = prompt()
    failing = Request(row=one, speaking=SAMPLED, number=0, edit=edit)
    want = serve(scheduler(slots=4), several(one, 3), each=True)
    both = scheduler(slots=4, isolate=True)
    numbers = both.submit_all([failing, *several(one, 3)[1:]])
    while not both.idle:
        both.step()
    assert both.done[numbers[0]].error is not None
    assert [list(both.done[n].tokens) for n in numbers[1:]] == [tokens for tokens, _ in want[1:]]


def test_short_prompts_are_read_by_each():
    one = Row(ids=(1, 2, 3, 0, 4), labels=(-100,) * 5, start=3, latents=1, name="short")
    together, alone = scheduler(slots=4), scheduler(slots=4)
    assert serve(together, several(one, 3)) == serve(alone, several(one, 3), each=True)
    assert together.cost.positions == alone.cost.positions
