"""One model, several threads: every answer is the one that the model gives alone."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support.backbones import backbone

from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import DataError
from unspoken.methods import make_method
from unspoken.runs.model import Model

SIM_COT = {"name": "sim_cot", "inner": "coconut", "max_step_tokens": 4}
QUESTIONS = [f"Ann has {n} pens. She finds {n % 7}. How many pens has Ann?" for n in range(24)]


def model(method: str | dict[str, Any] = "coconut") -> Model:
    return Model(make_method(method, backbone()), SamplingParams(max_new_tokens=6))


@pytest.mark.parametrize("method", ["coconut", "cot", SIM_COT])
def test_threads_take_turns(method: Any):
    asked = model(method)
    alone = [asked.answer([question])[0].tokens for question in QUESTIONS]
    latents = asked.think(QUESTIONS[:3]).latents_BKD
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda question: asked.answer([question])[0].tokens, QUESTIONS * 2))
        thought = list(pool.map(lambda _: asked.think(QUESTIONS[:3]).latents_BKD, range(6)))
    assert said == alone * 2
    assert all(torch.equal(one, latents) for one in thought)


def test_two_models_on_one_base():
    base = backbone()
    first = Model(make_method("coconut", base), SamplingParams(max_new_tokens=6))
    second = Model(make_method("cot", base), SamplingParams(max_new_tokens=6))
    jobs = [(one, question) for question in QUESTIONS for one in (first, second)]
    alone = [one.answer([question])[0].tokens for one, question in jobs]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda job: job[0].answer([job[1]])[0].tokens, jobs)) == alone


def test_an_error_in_one_thread_leaves_the_others_be():
    asked = model()
    want = asked.answer(QUESTIONS[:1])[0].tokens
    with ThreadPoolExecutor(4) as pool:
        bad = [pool.submit(asked.answer, [""]) for _ in range(6)]
        good = [pool.submit(asked.answer, QUESTIONS[:1]) for _ in range(6)]
        for one in bad:
            with pytest.raises(DataError):
                one.result()
        assert all(one.result()[0].tokens == want for one in good)


def test_a_model_that_has_answered_can_be_copied():
    asked = model()
    asked.answer(QUESTIONS[:1])
    again = Model(copy.deepcopy(asked.method), asked.speaking)
    assert again.answer(QUESTIONS[:1])[0].tokens == asked.answer(QUESTIONS[:1])[0].tokens
