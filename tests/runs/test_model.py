"""`Model`: what a user calls."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import backbones

from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError, UnspokenError
from unspoken.methods import make_method
from unspoken.runs.model import Model

QUESTIONS = ["Ann has 3 pens?", "Bob has 9 figs. He eats 2. How many are left?"]


def model(method: Any = "coconut", **more: Any) -> Model:
    """A random model."""
    return Model(make_method(method, backbones.backbone()), SamplingParams(max_new_tokens=6), **more)


SIM_COT = {"name": "sim_cot", "inner": "coconut", "max_step_tokens": 4}


def test_answers_in_order():
    asked = model()
    answers = asked.answer(QUESTIONS * 3, batch_size=4)
    assert [a.tokens for a in answers[:2]] == [a.tokens for a in answers[2:4]] == [a.tokens for a in answers[4:]]
    assert all(a.latents == 6 and a.thoughts is None for a in answers)
    assert asked.answer(["  Ann has 3 pens?\n"])[0].tokens == answers[0].tokens


def test_how_many_latents():
    assert [a.latents for a in model(latents=3).answer(QUESTIONS)] == [3, 3]
    assert [a.latents for a in model(latents=3).answer(QUESTIONS, latents=0)] == [0, 0]
    assert model().think(QUESTIONS, latents=5).latents_BKD.shape == (2, 5, 32)
    with pytest.raises(ConfigError, match="the number of latents must be 0 or more, got -1"):
        model().answer(QUESTIONS, latents=-1)
    with pytest.raises(ConfigError, match="method 'cot' thinks in words or not at all: it takes 0 latents, got 2"):
        model("cot").answer(QUESTIONS, latents=2)


def test_speaking_of_one_call():
    asked = model()
    assert len(asked.answer(QUESTIONS, max_new_tokens=2)[0].tokens) <= 2
    sampled = [asked.answer(QUESTIONS, temperature=1.0, seed=seed)[0].tokens for seed in range(4)]
    assert len(set(sampled)) > 1
    assert asked.speaking == SamplingParams(max_new_tokens=6)
    with pytest.raises(ConfigError, match="unknown speaking option 'temp'; known: max_new_tokens, temperature, "):
        asked.answer(QUESTIONS, temp=1)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="temperature must be 0"):
        asked.answer(QUESTIONS, temperature=-1)


def test_thoughts_in_words():
    answers = model(SIM_COT).answer(QUESTIONS, explain=True)
    assert all(a.thoughts is not None and len(a.thoughts) == 3 for a in answers)
    explained = model(SIM_COT)
    assert explained.explain(explained.think(QUESTIONS)) == [a.thoughts for a in answers]
    for call in (lambda m: m.answer(QUESTIONS, explain=True), lambda m: m.explain(m.think(QUESTIONS))):
        with pytest.raises(ConfigError, match="this model has no auxiliary decoder, so its thoughts cannot be shown"):
            call(model())


def test_questions_that_are_none():
    asked = model()
    assert asked.answer([]) == []
    with pytest.raises(DataError, match=re.escape("questions must be a list of texts, got one text; write [question]")):
        asked.answer("How many?")
    with pytest.raises(DataError, match="question 1 must be a text that is not empty, got ' '"):
        asked.answer(["How many?", " "])
    with pytest.raises(DataError, match="b must be a text that is not empty, got 3"):
        asked.answer(["How many?", 3], names=["a", "b"])  # pyright: ignore[reportArgumentType]


def test_dropout_is_off_while_answering_and_back_on_after():
    method: Any = make_method("coconut", backbones.backbone("gpt2", resid_pdrop=0.5, attn_pdrop=0.5))
    asked = Model(method, SamplingParams(max_new_tokens=6))
    method.train()
    first = asked.answer(QUESTIONS)
    assert method.training
    assert [a.tokens for a in asked.answer(QUESTIONS)] == [a.tokens for a in first]
    torch.testing.assert_close(asked.think(QUESTIONS).latents_BKD, asked.think(QUESTIONS).latents_BKD)
    assert method.training


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": " "}, "example 'x': field 'question' is empty; give some text or drop the row"),
        ({"answer": 3}, "example 'x': field 'answer' must be a string, got int (3)"),
        ({"steps": ["a"]}, "example 'x': field 'steps' must be a list of strings, got ['a']"),
        ({"steps": ("a", 1)}, "example 'x': field 'steps' must be a list of strings"),
    ],
)
def test_examples_are_checked(fields: dict[str, Any], message: str):
    with pytest.raises(DataError, match=re.escape(message)):
        Example(**{"question": "q", "answer": "a", "id": "x", **fields})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": "4"}, "batch_size must be a whole number, got '4' (str)"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"samples": None, "latents": "2"}, "latents must be a whole number"),
        ({"samples": True}, "samples must be a whole number, got True (bool)"),
        ({"latents": 1.5}, "latents must be a whole number"),
        ({"names": ["one"]}, "names must be one per question, got 1 for 2"),
        ({"numbers": [0, 1, 2]}, "numbers must be one per question, got 3 for 2"),
        ({"expect": 3}, "expect must be a text"),
        ({"samples": 10**6, "temperature": 1.0}, "1000000 answers to each question are more than fit"),
        ({"temperature": "warm"}, "'temperature'"),
        ({"max_new_tokens": 2.5}, "'max_new_tokens'"),
        ({"questions": None}, "questions must be a list of texts, got NoneType"),
        ({"questions": 7}, "questions must be a list of texts, got int"),
        ({"questions": ["a", 7]}, "question 1 must be a text"),
        ({"questions": ["fine", "half \ud83d pair"]}, "question 1 holds half of a surrogate pair"),
    ],
)
def test_arguments_of_the_wrong_kind(more: dict[str, Any], message: str):
    """One line that names the argument, never a TypeError from somewhere inside."""
    questions = more.pop("questions", QUESTIONS)
    with pytest.raises((ConfigError, DataError)) as caught:
        model().sample(questions, **{k: v for k, v in more.items() if v is not None})
    assert message in str(caught.value)


@pytest.mark.parametrize("ask", ["answer", "think", "batches", "its own"])
def test_more_latents_than_positions_are_refused_before_a_row_is_built(ask: str):
    asked = model(latents=10**12 if ask == "its own" else None)
    more: Any = {} if ask == "its own" else {"latents": 10**12}  # 8 TB as a row
    call: Any = {"think": asked.think, "batches": lambda given, **how: asked.batches(given, 2, **how)}.get(ask, asked.answer)
    with pytest.raises(ConfigError, match="1000000000000 latents do not fit into the model, which takes 256 positions"):
        call(QUESTIONS, **more)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "codi", "latents": 10**12},
        {"name": "pause", "pauses": 10**12},
        {"name": "coconut", "max_stage": 10**12},
        {"name": "coconut", "latents_per_step": 10**12},
        {"name": "sim_cot", "inner": {"name": "codi", "latents": 10**12}},
    ],
)
def test_a_method_of_more_latents_than_positions_is_refused(method: Any):
    with pytest.raises(ConfigError, match="latents do not fit into the model, which takes 256 positions"):
        make_method(method, backbones.backbone())


VALUES = [
    None, True, -1, 0, 1, 2, 10**9, 10**30, -0.0, 0.5, 1e-45, math.nan, math.inf, "", "2", "confidence:0.9", "\ud800", b"2",
    [], ["a"], (1, 2), {}, {"a": 1}, object(),
]  # fmt: skip
TAKEN = (
    "latents", "names", "batch_size", "explain", "stop", "expect", "numbers", "chains", "samples", "temperature", "top_p",
    "top_k", "seed", "max_new_tokens", "speed",
)  # fmt: skip


@pytest.fixture(scope="module")
def asked() -> Model:
    return Model(make_method("coconut", backbones.backbone()), SamplingParams(max_new_tokens=2))


@settings(max_examples=100, deadline=None)
@given(more=st.dictionaries(st.sampled_from(TAKEN), st.sampled_from(VALUES), max_size=3))
def test_arguments_of_any_kind(asked: Model, more: dict[str, Any]):
    """Answers, or an error of ours."""
    with contextlib.suppress(UnspokenError):
        answers = asked.sample(QUESTIONS, **more)
        each = more.get("samples", 1) * more.get("chains", 1)
        assert [len(some) for some in answers] == [each, each]
