"""Families beyond the three of the contract: a row in a batch still answers, and explains itself, as the row alone."""

from __future__ import annotations

import pytest
from families import FAMILIES, model

from unspoken.errors import DataError

QUESTIONS = [
    "Ann has 3 pens and buys 4 more. She then doubles them. How many pens?",
    "Bob has 9 figs.",
    "How many are left?",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_is_alone(family: str):
    it = model(family)
    together = it.answer(QUESTIONS, max_new_tokens=8, explain=True)
    alone = [it.answer([question], max_new_tokens=8, explain=True)[0] for question in QUESTIONS]
    assert [(a.tokens, a.thoughts) for a in together] == [(a.tokens, a.thoughts) for a in alone]


def test_padding_beyond_a_sliding_window_is_refused():
    it = model("gemma2", sliding_window=16)
    with pytest.raises(DataError, match=r"exceed the model's attention window of 16.*batch_size=1"):
        it.answer(QUESTIONS, max_new_tokens=8)
    assert len(it.answer(QUESTIONS, max_new_tokens=8, batch_size=1)) == 3
