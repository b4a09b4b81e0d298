"""Families beyond the three of the contract: a row in a batch still answers, and explains itself, as the row alone."""

from __future__ import annotations

import pytest
from support.families import FAMILIES, UNPADDED, model

QUESTIONS = [
    "Ann has 3 pens and buys 4 more. She then doubles them. How many pens?",
    "Bob has 9 figs.",
    "How many are left?",
]


@pytest.mark.parametrize("family", [*FAMILIES, *UNPADDED])
def test_batched_is_alone(family: str):
    it = model(family)
    together = it.answer(QUESTIONS, max_new_tokens=8, explain=True)
    alone = [it.answer([question], max_new_tokens=8, explain=True)[0] for question in QUESTIONS]
    assert [(a.tokens, a.thoughts) for a in together] == [(a.tokens, a.thoughts) for a in alone]
