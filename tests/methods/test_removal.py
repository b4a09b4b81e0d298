"""The schedule that removes tokens one by one, and the rows it makes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import backbones
from support.attachments import without_tokens

from unspoken.core.rows.curriculum import Curriculum, Stage
from unspoken.core.rows.row import IGNORE
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.methods import make_method, method_config
from unspoken.methods.icot_si import RemovedTokens, TokenRemoval, removed_tokens

EXAMPLE = Example(question="Ann has 3 pens.", steps=("<<1+2=3>>", "<<3+3=6>>"), answer="6", id="train-1")


def never() -> int:
    """For schedules that need not know how much is written."""
    raise AssertionError("nobody should have to lay out all rows")


def gone(stages: Iterable[Stage]) -> list[int | None]:
    """Tokens that are gone at each stage."""
    return [removed_tokens(stage).count for stage in stages]


def counts(curriculum: Curriculum, steps_per_epoch: int, steps: int) -> list[int | None]:
    """Tokens that are gone at every optimizer step."""
    return gone(curriculum.at(step / steps_per_epoch) for step in range(steps))


def test_exact_distances():
    """As the paper writes it: floor(per_epoch * epochs)."""
    curriculum = TokenRemoval(per_epoch=2, longest=3, smoothing=4.0, restart=True)
    assert gone(map(curriculum.at, (0, 0.49, 0.5, 0.99, 1, 1.49, 1.5, 9))) == [0, 0, 1, 1, 2, 2, None, None]
    assert curriculum.boundaries() == [0.5, 1.0, 1.5]
    assert [phase.stage.restart for phase in curriculum.phases] == [False, True, True, True]
    assert [phase.stage.index for phase in curriculum.phases] == [0, 1, 2, 3]
    assert curriculum.last == without_tokens(None, index=3, removed=None, restart=True)


@given(
    steps_per_epoch=st.integers(1, 40),
    per_epoch=st.floats(0.2, 90),
    wait=st.integers(0, 3),
    first=st.integers(0, 5),
    beyond=st.none() | st.integers(6, 12),
)
def test_whole_steps(steps_per_epoch: int, per_epoch: float, wait: int, first: int, beyond: int | None):
    """As a counter of steps would have it, which begins with the first epoch that removes."""
    distance = round(steps_per_epoch / per_epoch)
    curriculum = TokenRemoval(per_epoch=per_epoch, longest=10, first=first, wait=wait, beyond=beyond).fit(
        steps_per_epoch, lambda: 99
    )
    gone, since, want = first, 0, []
    for step in range(wait * steps_per_epoch + 12 * max(distance, 1)):
        if step >= wait * steps_per_epoch:
            if since == distance:
                gone, since = gone + 1, 0
            since += 1 if distance else 0
        want.append(None if gone >= min(beyond or 10, 10) else gone)
    assert counts(curriculum, steps_per_epoch, len(want)) == want


def test_half_a_step_goes_to_the_even_side():
    """5 steps and 2 tokens an epoch are 2.5 steps a token: 2 of them; with 0.5 there is no step between two tokens."""
    assert counts(TokenRemoval(per_epoch=2, longest=3).fit(5, lambda: 3), 5, 7) == [0, 0, 1, 1, 2, 2, None]
    assert counts(TokenRemoval(per_epoch=4, longest=3).fit(2, lambda: 3), 2, 4) == [1, 2, None, None]


def test_nothing_goes_by_chance_before_the_first_distance():
    curriculum = TokenRemoval(per_epoch=1, longest=9, first=2, wait=1.5, smoothing=0.5)
    assert [removed_tokens(curriculum.at(epoch)) for epoch in (0, 1.4, 1.5, 2.4, 2.5)] == [
        RemovedTokens(count=count, smoothing=rate) for count, rate in ((2, None), (2, None), (2, 0.5), (2, 0.5), (3, 0.5))
    ]


def test_it_ends_with_the_longest_chain():
    """A stage beyond it would change no row, and restart the optimizer for nothing."""
    curriculum = TokenRemoval(per_epoch=8, longest=1024, first=1, restart=True)
    fitted = curriculum.fit(16, lambda: 4)
    assert len(curriculum.phases) == 1024
    assert gone(phase.stage for phase in fitted.phases) == [1, 2, 3, 4, None]
    assert fitted.fit(16, lambda: 4) == fitted
    assert gone(TokenRemoval(per_epoch=8, longest=1024, beyond=2).fit(16, never).extremes()) == [0, None]
    assert TokenRemoval(per_epoch=8, longest=5, first=7).phases == TokenRemoval(per_epoch=3, longest=7, first=7).phases


def test_other_schedules_need_not_know_more():
    curriculum = make_method("coconut", backbones.backbone()).curriculum()
    assert curriculum.fit(7, never) is curriculum
    assert curriculum.extremes() == tuple(phase.stage for phase in curriculum.phases)


def rows(stage: Stage, draw: float = 0.0, example: Example = EXAMPLE, **config: Any) -> list[str]:
    """The parts of a row between its eos, in words."""

    class Dice(Random):
        def random(self) -> float:
            return draw

    method = make_method({"name": "icot_si", **config}, backbones.backbone())
    row = method.layout(example, stage, Dice())
    eos = method.backbone.tokenizer.eos_token_id
    assert row.ids.count(eos) == 3
    assert row.ids[-1] == eos
    first = row.ids.index(eos)
    assert row.labels == (IGNORE,) * (first + 1) + row.ids[first + 1 :]
    parts: list[list[int]] = [[]]
    for token in row.ids[:-1]:
        parts[-1].append(token)
        if token == eos:
            parts.append([])
    return [method.backbone.decode(part) for part in parts]


def test_rows_lose_tokens_from_one_end():
    backbone = backbones.backbone()
    chain = backbone.encode(" <<1+2=3>> <<3+3=6>> ")
    question, answer = " Ann has 3 pens. ", " #### 6 "
    assert rows(Stage()) == [question, backbone.decode(chain), answer]
    assert rows(without_tokens(2)) == [question, backbone.decode(chain[2:]), answer]
    assert rows(without_tokens(2), side="right") == [question, backbone.decode(chain[:-2]), answer]
    assert rows(without_tokens(500)) == rows(without_tokens(None)) == [question, "", answer]
    # Three quarters of all rows lose no more than 2 further tokens at a rate of ln 2: 1/2, 1/4, ...
    assert rows(without_tokens(2, smoothing=0.6931), draw=0.76) == [question, backbone.decode(chain[4:]), answer]
    assert rows(without_tokens(2, smoothing=None), draw=0.76) == rows(without_tokens(2))


def test_a_problem_without_steps_has_an_empty_chain():
    example = Example(question="How many?", answer="6")
    assert rows(Stage(), example=example) == [" How many? ", "  ", " #### 6 "]
    assert rows(without_tokens(1), example=example) == [" How many? ", " ", " #### 6 "]


@pytest.mark.parametrize(("side", "before"), [("left", 0), ("right", 4)])
def test_what_is_left_keeps_its_positions(side: str, before: int):
    """From the token before the hole on, as released."""
    method = make_method({"name": "icot_si", "side": side, "keep_position": True}, backbones.backbone())
    whole, question = method.layout(EXAMPLE, Stage(), Random(0)), method.prompt(EXAMPLE.question)
    chain = len(method.backbone.encode(" <<1+2=3>> <<3+3=6>> "))
    row = method.layout(EXAMPLE, without_tokens(chain - 4 if before else 3), Random(0))
    assert whole.position_gap == question.position_gap == (0, 0)
    assert row.position_gap == (len(question.ids) + before - 1, len(whole.ids) - len(row.ids))
    assert row.longest == len(whole.ids)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"remove_per_epoch": 0.0}, "remove_per_epoch must be positive and finite, got 0.0"),
        ({"remove_all_beyond": 0}, "remove_all_beyond must be at least 1, got 0; null never removes all"),
        ({"remove_from": -1}, "remove_from must be 0 or more, got -1"),
        ({"pretrain_epochs": -1.0}, "pretrain_epochs must be 0 or more and finite, got -1.0"),
        ({"smoothing": 0.0}, "smoothing must be positive and finite, got 0.0; null is no smoothing"),
        ({"chain": " "}, "field 'chain' must contain {chain}, got ' '"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        method_config({"name": "icot_si", **fields})


def test_there_are_no_latents():
    method = make_method("icot_si", backbones.backbone())
    with pytest.raises(ConfigError, match="method 'icot_si' thinks without latents: it takes 0 of them, got 2"):
        method.prompt("How many?", 2)
