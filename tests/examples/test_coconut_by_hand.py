"""The lesson in examples/coconut_by_hand.py computes what `coconut` computes."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch
from support.backbones import backbone

from unspoken import Example, Model, build
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.rows.batch import collate
from unspoken.methods import make_method

LESSON = Path(__file__).resolve().parents[2] / "examples" / "coconut_by_hand.py"
PROBLEMS = [
    Example(question="Ann has 3 pens and buys 4 more.", steps=("<<3+4=7>>", "<<7*2=14>>"), answer="14", id="a"),
    Example(question="Bob has 9 figs.", steps=("<<9-2=7>>",), answer="7", id="b"),
    Example(question="How many are left? 12", steps=("<<1+2=3>>", "<<3+4=7>>", "<<7*7=49>>"), answer="49", id="c"),
]


@pytest.fixture(scope="module")
def lesson() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coconut_by_hand", LESSON)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["gpt2", "llama"])
def pair(request: pytest.FixtureRequest, lesson: ModuleType):
    """Our method, and a copy of its model and tokenizer for the lesson."""
    base = backbone(request.param)
    config = {"name": "coconut", "latents_per_step": lesson.LATENTS_PER_STEP, "max_stage": lesson.MAX_STAGE}
    method = make_method(config, base)
    return method, copy.deepcopy(base.lm), copy.deepcopy(base.tokenizer)


@pytest.mark.parametrize("number", range(4))
def test_loss_and_gradients_are_equal(pair, lesson: ModuleType, number: int):
    method, lm, tokenizer = pair
    # Rows of every stage: a stage that removes more steps than a problem has, and problems longer than MAX_STAGE.
    stage = method._all_stages()[number]
    batch = collate([method.layout(problem, stage, Random(0)) for problem in PROBLEMS])
    ours = method(batch, method.counts(batch)).total
    ours.backward()
    theirs = lesson.loss_of(lm, tokenizer, PROBLEMS, number)
    theirs.backward()
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    grads = {name: p.grad for name, p in method.backbone.lm.named_parameters()}
    for name, p in lm.named_parameters():
        assert (p.grad is None) == (grads[name] is None), name
        torch.testing.assert_close(p.grad, grads[name], atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert any(grad is not None and grad.abs().max() > 1e-2 for grad in grads.values())


def test_answers_are_equal(pair, lesson: ModuleType):
    method, lm, tokenizer = pair
    method.eval()
    said = Model(method, build(SamplingParams, {"max_new_tokens": 12})).answer([p.question for p in PROBLEMS])
    assert [lesson.answer(lm.eval(), tokenizer, p.question, 12) for p in PROBLEMS] == [a.text for a in said]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_markers_begin_as_ours_do(lesson: ModuleType, family: str):
    base, fresh = backbone(family), backbone(family)
    method: Any = make_method({"name": "coconut"}, base)
    lesson.add_markers(fresh.lm, fresh.tokenizer)
    ids = [method.markers.bot, method.markers.eot]
    assert fresh.tokenizer.convert_tokens_to_ids([lesson.BOT, lesson.EOT]) == ids
    for get in ("get_input_embeddings", "get_output_embeddings"):
        torch.testing.assert_close(getattr(fresh.lm, get)().weight[ids], getattr(base.lm, get)().weight[ids])
    lesson.add_markers(fresh.lm, fresh.tokenizer)  # a second time changes nothing
    assert len(fresh.tokenizer) == max(ids) + 1


def test_it_runs(lesson: ModuleType, capsys: pytest.CaptureFixture[str]):
    share = lesson.main(steps_per_stage=2, questions=3)
    assert 0 <= share <= 1
    assert "of 3 new problems right" in capsys.readouterr().out


def test_training_lowers_the_loss(lesson: ModuleType):
    """On one problem, which it can learn by heart."""
    base = backbone("llama")
    lesson.add_markers(base.lm, base.tokenizer)
    said: list[str] = []
    lesson.train(base.lm, base.tokenizer, PROBLEMS[:1], steps_per_stage=50, batch_size=1, lr=1e-2, report=said.append)
    assert len(said) == lesson.MAX_STAGE + 1
    assert lesson.answer(base.lm.eval(), base.tokenizer, PROBLEMS[0].question) == "### 14"
