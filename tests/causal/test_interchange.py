"""Interchange interventions on models whose insides are known: one computes with its latents, one does not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.fakes.evaluation import record, report

from unspoken.causal import interchange as module
from unspoken.causal.interchange import interchange
from unspoken.errors import ConfigError
from unspoken.tasks import make_task

TINY = make_task({"name": "tiny", "min_steps": 3, "max_steps": 3, "train_size": 4, "validation_size": 4, "test_size": 60})
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "%": lambda a, b: a % b}


def operations(steps: tuple[str, ...]) -> list[tuple[int, str, int]]:
    found = []
    for step in steps:
        left = step.strip("<>").split("=")[0]
        sign = next(sign for sign in OPERATIONS if sign in left)
        found.append((int(left.split(sign)[0]), sign, int(left.split(sign)[1])))
    return found


def think(steps: tuple[str, ...], change: Callable[[int, float], float]) -> list[float]:
    """A model whose latent k is the result of step k, computed from the latent before it."""
    chain = operations(steps)
    value, latents = float(chain[0][0]), []
    for k, (_, sign, by) in enumerate(chain):
        value = change(k, OPERATIONS[sign](value, by))
        latents.append(value)
    return latents


def model(source: Any = "recurrence", latents: int = 1) -> Any:
    return SimpleNamespace(method=SimpleNamespace(latents_per_group=latents, source=lambda: source))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """`evaluate` of that model; with "idle" it answers what it would have answered, whatever its latents are."""
    how = {"idle": False}

    def evaluate(
        _: Any, task: Any, split: str, *, edit: Any = None, on_trace: Any = None, limit: int | None = None, **__: Any
    ):
        records = []
        for i, example in enumerate(task.examples(split)[:limit]):

            def change(k: int, value: float, name: str = example.id) -> float:
                return value if edit is None else float(edit(torch.tensor([[value]]), [(name, 0)], np.array([k]))[0, 0])

            latents = think(example.steps, change)
            said = example.answer if how["idle"] else f"{latents[-1]:g}"
            records.append(
                record(i, said == example.answer, id=example.id, steps=example.steps, answer=example.answer, extracted=said)
            )
            if on_trace is not None:
                trace = SimpleNamespace(latents_BKD=torch.tensor(latents)[None, :, None], counts_B=[len(latents)])
                on_trace(trace, [(example.id, 0)])
        return report([True] * len(records), records=tuple(records))

    monkeypatch.setattr(module, "evaluate", evaluate)
    return how


def test_a_model_that_computes_with_its_latents_follows(answers: dict[str, bool]):
    found = interchange(model(), TINY, limit=None)
    assert [one.place for one in found] == [0, 1, 2]
    for one in found:
        assert one.follows.n > 10
        assert one.follows.value == 1.0
        assert one.stays.value == 0.0


def test_one_that_does_not_stays(answers: dict[str, bool]):
    answers["idle"] = True
    for one in interchange(model(), TINY, limit=None):
        assert (one.follows.value, one.stays.value) == (0.0, 1.0)


def test_chance_decides_whose_thought_and_nothing_else(answers: dict[str, bool]):
    assert interchange(model(), TINY, donor_seed=1) == interchange(model(), TINY, donor_seed=1)
    assert interchange(model(), TINY, donor_seed=1)[0].follows.n != interchange(model(), TINY, donor_seed=2)[0].follows.n


def test_there_must_be_something_to_interchange(answers: dict[str, bool]):
    for bad in (model(source=None), model(latents=0)):
        with pytest.raises(ConfigError, match="none to interchange"):
            interchange(bad, TINY)
    assert interchange(model(), TINY, limit=1) == ()  # no other problem
