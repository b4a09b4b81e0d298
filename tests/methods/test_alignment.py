"""Steps and thought groups of different number: what each group stands for, in training targets and in evaluation."""

from __future__ import annotations

from random import Random

import pytest
from support import backbones
from support.attachments import step_targets
from support.fakes.evaluation import FakeTask

from unspoken.core.text.example import Example
from unspoken.evaluation.evaluator import evaluate
from unspoken.methods import make_method
from unspoken.methods.sim_cot import align
from unspoken.runs.model import Model


@pytest.mark.parametrize(
    ("steps", "groups", "surplus", "missing", "want"),
    [
        (3, 3, "merge", "nothing", [(0,), (1,), (2,)]),
        (5, 3, "merge", "nothing", [(0,), (1,), (2, 3, 4)]),
        (5, 3, "spread", "nothing", [(0,), (1, 2), (3, 4)]),
        (2, 4, "merge", "nothing", [(0,), (1,), (), ()]),
        (2, 4, "merge", "spread", [(), (0,), (), (1,)]),
        (0, 2, "merge", "spread", [(), ()]),
        (4, 0, "merge", "nothing", []),
    ],
)
def test_align(steps, groups, surplus, missing, want):
    assert align(steps, groups, surplus, missing) == want


@pytest.mark.parametrize(("surplus", "missing"), [("merge", "nothing"), ("spread", "nothing"), ("merge", "spread")])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_evaluation_expects_what_training_taught(surplus, missing, count):
    """The words of a row's targets are the words that evaluation holds the thoughts against."""
    config = {"name": "sim_cot", "inner": {"name": "coconut", "max_stage": 3}, "surplus": surplus, "missing": missing}
    method = make_method(config, backbones.backbone())
    steps = tuple(f"<<{k}+1={k + 1}>>" for k in range(count))
    example = Example(question="Ann has 3 pens.", steps=steps, answer="7", id="a")
    row = method.layout(example, method.curriculum().last, Random(0))
    taught = [method.backbone.decode(t[:-1]) if t else None for t in step_targets(row)]
    assert list(Model(method).expected(example, len(taught)) or ()) == taught


def test_latents_of_codi_stand_for_what_the_teacher_writes():
    """Not for the last step; one more latent than is fed can be explained."""
    config = {"name": "sim_cot", "inner": {"name": "codi", "latents": 2, "trailing": True}}
    method = make_method(config, backbones.backbone())
    steps = ("<<1+1=2>>", "<<2+1=3>>", "<<3+1=4>>", "<<4+1=5>>")
    example = Example(question="Ann has 3 pens.", steps=steps, answer="5")
    row = method.layout(example, method.curriculum().last, Random(0))
    assert [method.backbone.decode(t[:-1]) for t in step_targets(row)] == list(steps[:3])
    assert Model(method).expected(example, 3) == steps[:3]
    thoughts = Model(method).answer(["Ann has 3 pens."], explain=True, max_new_tokens=2)[0].thoughts
    assert thoughts is not None
    assert len(thoughts) == 3


def test_step_accuracy_counts_merged_groups():
    config = {"name": "sim_cot", "inner": {"name": "coconut", "max_stage": 2}}
    model = Model(make_method(config, backbones.backbone()))
    steps = ("<<1+1=2>>", "<<2+1=3>>", "<<3+1=4>>")

    task = FakeTask(examples=[Example(question="Ann has 3 pens.", steps=steps, answer="4", id="a")])
    model.method.explain = lambda trace: [("<<1+1=2>>", "<<2+1=3>>\n<<3+1=4>>")]
    report = evaluate(model, task, "test", explain=True, max_new_tokens=2)
    assert report.step_accuracy is not None
    assert (report.step_accuracy.overall.correct, report.step_accuracy.overall.n) == (2, 2)
