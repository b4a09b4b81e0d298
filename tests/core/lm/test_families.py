"""Families beyond the three of the contract: a row in a batch still explains itself as the row alone.

How each answers and trains: `tests/bench/test_families.py`.
"""

from __future__ import annotations

import pytest
from support.families import model

QUESTIONS = [
    "Ann has 3 pens and buys 4 more. She then doubles them. How many pens?",
    "Bob has 9 figs.",
    "How many are left?",
]


@pytest.mark.parametrize(
    "family", ["gemma2", "bloom", "opt", "qwen3_moe", "granite", "qwen3_5_text", "lfm2", "mpt", "mamba"]
)
def test_batched_is_alone(family: str):
    it = model(family)
    together = it.answer(QUESTIONS, max_new_tokens=8, explain=True)
    alone = [it.answer([question], max_new_tokens=8, explain=True)[0] for question in QUESTIONS]
    assert [(a.tokens, a.thoughts) for a in together] == [(a.tokens, a.thoughts) for a in alone]
