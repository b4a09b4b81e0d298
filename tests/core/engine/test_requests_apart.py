"""Requests of one scheduler go their own ways: cancelled, failing, stopped, edited, too many, and nobody else notices."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.cases import settings
from support import backbones
from support.scheduler_cases import GREEDY, SAMPLED, ask, many_rows, speaker

from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.errors import DataError, OverloadError
from unspoken.experimental.stopping import RuleDecider, StopConfig
from unspoken.methods import make_method
from unspoken.runs.model import Model


def finish(queue: Scheduler) -> None:
    while not queue.idle:
        queue.step()


@pytest.mark.parametrize("passes", [0, 1, 4, 9])
def test_a_cancelled_request_is_gone_at_once_and_changes_nothing(passes: int):
    """Waiting, thinking or speaking."""
    backbone, rows = speaker("llama"), many_rows(9)
    want, _ = ask(backbone, rows)
    queue = Scheduler(backbone, Recurrence(), slots=3)
    numbers = queue.submit_all([Request(row=r, speaking=GREEDY, number=i) for i, r in enumerate(rows)])
    for _ in range(passes):
        queue.step()
    gone = {number for number in (0, 1, 5) if number not in queue.done}
    assert gone
    for number in gone:
        queue.cancel(number)
    queue.cancel(10_000)  # nobody
    queue.step()
    assert not gone & {active.place for active in queue.running}
    finish(queue)
    assert set(queue.done) == set(numbers) - gone
    assert all(queue.done[i].tokens == want[i].tokens for i in queue.done)


def test_cancelling_all_leaves_an_idle_scheduler():
    queue = Scheduler(speaker("gpt2"), Recurrence(), slots=2)
    for number in queue.submit_all([Request(row=r, speaking=GREEDY) for r in many_rows(5)]):
        queue.cancel(number)
    assert queue.step() == []
    assert queue.idle
    assert not queue.done


def test_too_many_are_refused_together():
    queue, rows = Scheduler(speaker("llama"), Recurrence(), slots=2, max_waiting=3), many_rows(9)
    requests = [Request(row=r, speaking=GREEDY) for r in rows]
    with pytest.raises(OverloadError, match="0 requests wait already; try again"):
        queue.submit_all(requests[:6])
    assert queue.idle
    queue.submit_all(requests[:5])  # two of them take the slots
    with pytest.raises(OverloadError, match="5 requests wait already"):
        queue.submit(requests[5])
    queue.step()
    assert len(queue.waiting) == 3
    with pytest.raises(OverloadError):
        queue.submit(requests[5])
    finish(queue)
    assert len(queue.done) == 5
    queue.submit(requests[5])


class _Fails:
    """Raises whatever it is asked."""

    tries = False

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("this one")

        return fail


@pytest.mark.parametrize("where", ["pass", "source", "edit", "decider"])
def test_a_request_that_fails_ends_alone(where: str, monkeypatch: pytest.MonkeyPatch):
    """Wherever it does: in passes that all share, or in what is only its own."""
    backbone, rows = speaker("llama"), many_rows(10)
    want, _ = ask(backbone, rows)
    ill, source = 6, Recurrence()
    odd = min(set(range(backbone.vocabulary)) - {i for r in rows for i in r.ids} - {i for a in want for i in a.tokens})
    assert rows[ill].latents > 2
    rows[ill] = replace(rows[ill], ids=(odd, *rows[ill].ids[1:]))
    embed, latents = backbone.embed, source.next

    def refuse(failing: bool) -> None:
        if failing:
            raise ZeroDivisionError("this one")

    if where == "pass":
        monkeypatch.setattr(backbone, "embed", lambda ids: (refuse(odd in ids.tolist()), embed(ids))[1])
    if where == "source":
        monkeypatch.setattr(
            source, "next", lambda h, rows_N, index_N: (refuse(ill in rows_N.tolist()), latents(h, rows_N, index_N))[1]
        )
    more = {"edit": {"edit": _Fails().edit}, "decider": {"decider": _Fails()}}.get(where, {})
    requests = [Request(row=r, speaking=GREEDY, number=i, **(more if i == ill else {})) for i, r in enumerate(rows)]
    queue = Scheduler(backbone, source, slots=4, isolate=True)
    queue.submit_all(requests)
    finish(queue)
    assert isinstance(queue.done[ill].error, ZeroDivisionError)
    assert queue.done[ill].finish_reason == "error"
    assert all(queue.done[i].tokens == want[i].tokens for i in range(10) if i != ill)
    with pytest.raises(ZeroDivisionError):  # a batch is told
        Scheduler(backbone, source, slots=4).run(requests)


def test_each_request_has_its_own_rule_edit_and_kept_latents():
    """Beside others that have none: as if each had been asked alone."""
    backbone, rows = speaker("llama"), [r for r in many_rows(14) if r.latents > 3]
    rule = RuleDecider(StopConfig.parse("fixed:2"))
    ways: list[dict[str, Any]] = [{}, {"decider": rule}, {"edit": lambda latents, keys, index: latents * 0}, {"keep": True}]
    requests = [Request(row=r, speaking=GREEDY, number=i, **ways[i % 4]) for i, r in enumerate(rows)]
    queue = Scheduler(backbone, Recurrence(), slots=5)
    numbers = queue.run(requests)
    for number, request in zip(numbers, requests, strict=True):
        alone = Scheduler(backbone, Recurrence(), slots=1)
        (place,) = alone.run([request])
        assert queue.done[number].tokens == alone.done[place].tokens
        assert queue.done[number].skipped == (request.row.latents - 2 if request.decider else 0)
        assert len(queue.done[number].latents) == (request.row.latents if request.keep else 0)


@pytest.mark.parametrize("name", ["softcot_pp", "pause"])
def test_sets_of_thoughts_and_edits_of_prompted_ones(name: str):
    """Samples of every set, beside each other, as the loop makes them; an edit of one request is nobody else's."""
    torch.manual_seed(0)
    method: Any = make_method(settings(name, "llama") if name != "pause" else {"name": "pause"}, backbones.backbone("llama"))
    model = Model(method.eval())
    asked = ["How many pens?", "Ann has 3 pens and buys 4 more."]
    how: Any = {"temperature": 1.0, "seed": 5, "max_new_tokens": 8}
    want = [a for answers in model.sample(asked, chains=model.chains, samples=2, **how) for a in answers]
    places = [(q, c, s) for q in range(2) for c in range(model.chains) for s in range(2)]
    rows = model.rows(asked, None, None)
    requests = [Request(row=rows[q], speaking=SamplingParams(**how), number=(q, c, s), chain=c) for q, c, s in places]
    zero = replace(requests[0], edit=lambda latents, keys, index: latents * 0)
    queue = Scheduler(method.backbone, model.source, slots=3)
    numbers = queue.run([*requests, zero])
    assert [tuple(queue.done[n].tokens) for n in numbers[:-1]] == [a.tokens for a in want]
    edited = model.answer(asked[:1], edit=zero.edit, **how)[0]
    assert tuple(queue.done[numbers[-1]].tokens) == edited.tokens != want[0].tokens


def test_stop_texts_stop_tokens_and_the_reasons_of_an_end():
    backbone, rows = speaker("llama"), many_rows(8)
    plain, _ = ask(backbone, rows)
    longest = max(range(8), key=lambda i: len(plain[i].tokens))
    tokens = plain[longest].tokens
    assert len(tokens) > 6
    at = next(i for i in range(2, len(tokens)) if tokens[i] not in tokens[:i])
    word = backbone.decode(tokens[at : at + 1])
    text = backbone.decode(tokens[:at])
    stop = text[-1] + word
    assert stop in backbone.decode(tokens)
    queue = Scheduler(backbone, Recurrence())
    base = {"row": rows[longest], "speaking": GREEDY, "number": longest}
    by_token, by_text, plain_again, short = (
        queue.done[n]
        for n in queue.run(
            [
                Request(**base, stop_token_ids=frozenset([tokens[at]])),
                Request(**base, stops=("not there", stop)),
                Request(**base, incremental=True),
                Request(**{**base, "speaking": SamplingParams(max_new_tokens=2)}),
            ]
        )
    )
    assert (by_token.finish_reason, by_token.stop_reason, by_token.tokens) == ("stop", tokens[at], tokens[: at + 1])
    assert list(by_token.spoken) == tokens[:at]
    assert (by_text.finish_reason, by_text.stop_reason) == ("stop", stop)
    assert by_text.text is not None
    assert plain_again.text is not None
    assert by_text.text.whole(by_text.spoken) == backbone.decode(tokens)[: backbone.decode(tokens).index(stop)]
    assert plain_again.tokens == tokens
    assert plain_again.text.whole(plain_again.spoken) == backbone.decode(list(plain_again.spoken))
    assert (short.finish_reason, short.stop_reason) == ("length", None)


@pytest.mark.parametrize("speaking", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_logprobs_are_those_of_the_chosen_tokens(speaking: SamplingParams):
    backbone, rows = speaker("llama"), many_rows(5)
    plain, _ = ask(backbone, rows, speaking)
    queue = Scheduler(backbone, Recurrence(), slots=3)
    numbers = queue.run(
        [Request(row=r, speaking=speaking, number=i, logprobs=(None, 0, 3)[i % 3]) for i, r in enumerate(rows)]
    )
    for i, number in enumerate(numbers):
        active = queue.done[number]
        assert active.tokens == plain[i].tokens
        assert len(active.logprobs) == (0 if i % 3 == 0 else len(active.tokens))
        for token, told in zip(active.tokens, active.logprobs, strict=False):
            assert len(told.top) == (0, 3)[i % 3 == 2]
            assert told.logprob <= 0
            if told.top:
                assert [p for _, p in told.top] == sorted((p for _, p in told.top), reverse=True)
                assert told.top[0][1] >= told.logprob
                assert dict(told.top).get(token, told.logprob) == told.logprob
                if speaking is GREEDY:
                    assert told.top[0][0] == token


def test_a_long_life_leaves_nothing_behind():
    """Numbers, seeds and ways to speak of all kinds, taken out as they finish."""
    backbone, rows = speaker("llama"), many_rows(6)
    queue = Scheduler(backbone, Recurrence(), slots=2)
    for k in range(40):
        way = SamplingParams(max_new_tokens=3, temperature=0.5 + k / 100, seed=k)
        number = queue.submit(Request(row=rows[k % 6], speaking=way, number=k))
        if k % 3 == 0:
            queue.cancel(number)
        finish(queue)
        queue.done.pop(number, None)
    held = {name: len(value) for name, value in vars(queue).items() if isinstance(value, (dict, set, list, deque))}
    assert not any(held.values()), held


def test_requests_come_and_go_from_other_threads():
    backbone, rows = speaker("llama"), many_rows(12)
    want, _ = ask(backbone, rows)
    queue = Scheduler(backbone, Recurrence(), slots=4)
    numbers: dict[int, int] = {}

    def come(i: int) -> None:
        numbers[i] = queue.submit(Request(row=rows[i], speaking=GREEDY, number=i))
        if i % 4 == 0:
            queue.cancel(numbers[i])

    threads = [threading.Thread(target=come, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not queue.idle:
        queue.step()
    assert all(queue.done[numbers[i]].tokens == want[i].tokens for i in range(12) if i % 4)


def test_a_request_that_does_not_fit_is_refused_and_takes_none_with_it():
    backbone = speaker("llama")
    queue, (row,) = Scheduler(backbone, Recurrence(), slots=2), many_rows(1)
    with pytest.raises(DataError, match="too long"):
        queue.submit_all(
            [Request(row=row, speaking=GREEDY), Request(row=row, speaking=SamplingParams(max_new_tokens=10**6))]
        )
    assert queue.idle
