"""One switch: the plain path takes no shortcut at all, and comes to the same losses, gradients and answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.cases import settings, training_rows
from support.backbones import ARCHS, backbone
from support.quick_runs import files, make

import unspoken
from unspoken.core.engine import answering, kv_slots
from unspoken.core.fast import chunked_loss, cpu_linear, malloc, packing, shared_gradients, switch
from unspoken.core.fast.switch import PLAIN, FastConfig, using
from unspoken.core.rows.batch import collate
from unspoken.errors import ConfigError
from unspoken.methods import make_method
from unspoken.runs.model import Model
from unspoken.training.loop import train

__all__ = ["files", "make"]

METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "first_stage": 0},
    "sim_cot codi": {"name": "sim_cot", "inner": {"name": "codi", "latents": 4}},
    "softcot": settings("softcot", "llama"),
}
ASKED = ["How many pens?", "Ann has 3 pens and buys 4 more. She doubles them. How many are that?", "Bob has 9 figs."]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each shortcut was taken from now on; all are worth it for the smallest of models."""
    counts: Counter[str] = Counter()

    def count(name: str, owner: Any, attribute: str) -> None:
        real = getattr(owner, attribute)

        def counted(*given: Any, **named: Any) -> Any:
            counts[name] += 1
            return real(*given, **named)

        monkeypatch.setattr(owner, attribute, counted)

    monkeypatch.setattr(packing, "WORTH", 0.0)
    monkeypatch.setattr(shared_gradients, "LEAST", 1)
    monkeypatch.setattr(chunked_loss, "PIECE", 600)
    monkeypatch.setattr(cpu_linear, "_SMALL", 1)
    count("packed pass", packing.Packed, "__init__")
    count("shared gradient", shared_gradients._Passes, "forward")
    count("loss in pieces", chunked_loss._InPieces, "apply")
    count("layout of oneDNN", cpu_linear, "laid_out")
    count("scheduler", answering, "Scheduler")
    return counts


def learnt(name: str, fast: FastConfig) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the second of two steps on the same rows: what the first has left behind may be used."""
    torch.manual_seed(0)
    with using(fast):
        method: Any = make_method(METHODS[name], backbone("llama")).train()
        batch, total = collate(training_rows(method)), torch.zeros(())
        for _ in range(2):
            method.zero_grad(set_to_none=True)
            total = method(batch, method.counts(batch)).total
            total.backward()
    return float(total.detach()), {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", METHODS)
def test_the_plain_path_trains_the_same(name: str, taken: Counter[str], tmp_path: Path):
    plain, plain_grads = learnt(name, PLAIN)
    assert not taken
    fast, fast_grads = learnt(name, FastConfig(states=str(tmp_path)))
    assert taken["loss in pieces"]
    assert taken["packed pass"]
    assert taken["shared gradient"] or name == "softcot"  # nothing of its models trains
    assert bool(list(tmp_path.iterdir())) == (name == "softcot")
    assert fast == pytest.approx(plain, rel=1e-5)
    assert fast_grads.keys() == plain_grads.keys()
    for key, grad in plain_grads.items():
        torch.testing.assert_close(fast_grads[key], grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max()) + 1e-7, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_the_plain_path_answers_the_same(name: str, taken: Counter[str]):
    torch.manual_seed(0)
    method: Any = make_method(METHODS[name], backbone("llama")).eval()
    cpu_linear.speed_up_linears(method.backbone.lm)
    said = {}
    taken.clear()  # a model is tried packed when it is built
    for fast in (False, True):
        model = Model(method, fast=FastConfig(enabled=fast))
        for how in ({}, {"temperature": 1.0, "seed": 3}):
            said[fast, *how] = [(a.tokens, a.positions, a.passes) for a in model.answer(ASKED, max_new_tokens=8, **how)]
        assert bool(taken) == fast
    assert taken["scheduler"] == 2
    assert taken["layout of oneDNN"] or not torch.backends.mkldnn.is_available()
    assert said[True,] == said[False,]
    assert said[True, "temperature", "seed"] == said[False, "temperature", "seed"]


def test_a_run_says_which_path_it_takes(make: Any, files: Path, taken: Counter[str], tmp_path: Path):
    """The same losses and answers, in training, validation and after loading."""
    losses, said = {}, {}
    backbone = {"arch": ARCHS["llama"], "tokenizer": str(files / "tokenizer")}
    for fast in (False, True):
        config = make(backbone=backbone, steps=6)
        config = replace(config, fast=replace(config.fast, enabled=fast))
        run = train(config, tmp_path / str(fast)).path
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[fast] = [row["loss"] for row in rows if "loss" in row]
        said[fast] = [a.tokens for a in unspoken.load(run).answer(ASKED)]
        assert bool(taken) == fast
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert said[True] == said[False]
    taken.clear()
    assert [a.tokens for a in unspoken.load(tmp_path / "True", fast=False).answer(ASKED)] == said[True]
    assert not taken
    assert [a.tokens for a in unspoken.load(tmp_path / "False", fast=True).answer(ASKED)] == said[True]
    assert taken["scheduler"]


def test_a_process_can_be_told(monkeypatch: pytest.MonkeyPatch):
    assert switch.is_on()
    with malloc.keeping_freed("cpu") as kept:
        usual = kept
    monkeypatch.setenv(switch.VARIABLE, "0")
    with using(FastConfig(states="somewhere")):
        assert not switch.is_on()
        assert switch.settings() == PLAIN
        with malloc.keeping_freed("cpu") as kept:
            assert not kept
    monkeypatch.setenv(switch.VARIABLE, "1")
    assert switch.is_on()
    with malloc.keeping_freed("cpu") as kept:
        assert kept == usual


def test_what_needs_the_scheduler_says_so_on_the_plain_path():
    method = make_method(METHODS["coconut"], backbone("llama"))
    assert kv_slots.supports_kv_slots(method.backbone, 0)
    with pytest.raises(ConfigError, match="a stop rule needs"):
        Model(method, fast=PLAIN).answer(ASKED, stop="confidence:0.9")
    with pytest.raises(ConfigError, match="prefix_gb must be 0 or more, got -1"):
        FastConfig(prefix_gb=-1)
