"""SemCoT in the ordinary commands: stages, resuming, saving, exporting, evaluating, several processes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.backbones import ARCHS, tokenizer
from support.forks import in_two
from transformers import BertConfig, BertModel

import unspoken
from unspoken.core.config import dump
from unspoken.core.fast.switch import FastConfig
from unspoken.errors import ConfigError
from unspoken.methods.semcot_generator import SemCotGenerator
from unspoken.methods.sim_cot import SimCot
from unspoken.runs.directory import RunDir
from unspoken.training.loop import Training, train
from unspoken.training.progress import Quiet

QUESTIONS = ["Ann has 3 pens and buys 4 more. She doubles them.", "Ann has 9 pens.", "How many pens has Ann, who had 12?"]
THIRD = 0.35
"""Epochs of a stage: with 24 rows, 4 a step, stages begin at steps 0, 3, 5 and 7."""


@pytest.fixture
def semcot(make):
    """semcot(**settings) -> the method's settings; the generator has the small model's shape."""

    def settings(**more: Any) -> dict[str, Any]:
        small = {"arch": {**ARCHS["llama"], "hidden_size": 24}, "tokenizer": make().backbone.tokenizer}
        inner = {"name": "semcot_generator", "assistant": small, "latents": 2, "warmup": {"epochs": THIRD, "lr": 0.01}}
        encoder = {"encoder": {"width": 8}, "encoder_warmup": {"epochs": THIRD}, "encoder_training": {"epochs": THIRD}}
        return {"name": "semcot", "inner": inner, **encoder, "condensed": "rule", **more}

    return settings


def rows(run: Any, kind: str = "train") -> list[dict[str, Any]]:
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if row["kind"] == kind]


def test_stages_have_their_terms_and_rates(make, semcot, tmp_path):
    method = semcot(encoder_training={"epochs": THIRD, "lr": 0.002})
    run = train(make(method, weight_decay=0.5), tmp_path / "run").path
    assert [row["stage"] for row in rows(run)] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    terms = [set(row["terms"]) for row in rows(run)]
    assert terms == [{"contrast"}] * 5 + [{"answer", "align"}] * 7
    assert [row["lr"] for row in rows(run)] == pytest.approx([3e-3] * 3 + [2e-3] * 2 + [1e-2] * 2 + [3e-3] * 5)
    assert [row["passes"] for row in rows(run)] == [0] * 5 + [2] * 7


def test_what_waits_does_not_move(make, semcot, tmp_path):
    """Not even by weight decay, which is strong here. The base model never moves."""
    training = Training(make(semcot(), weight_decay=0.5), tmp_path / "run", Quiet())
    method: Any = training.method
    parts = {
        "head": method.encoder.head,
        "body": method.encoder.body,
        "projection": method.at_inference.projection,
        "generator": method.at_inference.assistant,
        "base": training.method.backbone,
    }
    moves = {}
    for step in range(9):
        before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
        training._train_step()
        after = {name: list(part.parameters()) for name, part in parts.items()}
        moves[step] = {n for n in parts if not all(map(torch.equal, before[n], after[n]))}
    want = [{"head"}] * 3 + [{"head", "body"}] * 2 + [{"projection"}] * 2 + [{"projection", "generator"}] * 2
    assert [moves[step] for step in range(9)] == want


def test_a_stages_weight_decay_counts(make, semcot, tmp_path):
    training = Training(
        make(semcot(encoder_warmup={"epochs": THIRD, "weight_decay": 0.25}), weight_decay=0.5), tmp_path, Quiet()
    )
    seen = []
    for _ in range(4):
        training._train_step()
        seen.append([group["weight_decay"] for group in training.optimizer.param_groups])
    assert seen == [[0.25, 0.0]] * 3 + [[0.5, 0.0]]


@pytest.mark.parametrize("dies_at", [2, 3, 6, 10])
def test_resumed_run_equals_uninterrupted_one(make, semcot, tmp_path, monkeypatch, dies_at):
    # A cache of prefixes would hold what other batches read: a resumed run then goes on up to rounding only.
    config = replace(make(semcot(), save_every=2), fast=FastConfig(prefix_gb=0.0))
    train(config, tmp_path / "whole")
    step = Training._train_step

    def dying(self):
        if self.step == dies_at:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(Training, "_train_step", step)
    train(config, tmp_path / "parts")
    for row, other in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert (row["step"], row["loss"]) == (other["step"], other["loss"])
    a, b = (load_file(next((tmp_path / n / "state").glob("step-*")) / "state.safetensors") for n in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_micro_batches_change_nothing(make, semcot, tmp_path):
    """Also the encoder's loss, whose negatives are those of the whole step."""
    start = {"arch": ARCHS["llama"], "tokenizer": make().backbone.tokenizer}  # without dropout
    whole = train(make(semcot(), start), tmp_path / "whole").path
    parts = train(make(semcot(), start, micro_batch_size=1), tmp_path / "parts").path
    for row, other in zip(rows(whole), rows(parts), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_saved_exported_and_evaluated(make, semcot, tmp_path):
    """What inference needs is the generator: the encoder is in the run, and neither loaded nor exported."""
    training = Training(make(semcot()), tmp_path / "run", Quiet())
    training.go()
    live = [a.tokens for a in unspoken.Model(training.method, training.config.speaking).answer(QUESTIONS)]
    loaded = unspoken.load(tmp_path / "run")
    assert isinstance(loaded.method, SemCotGenerator)
    assert [a.tokens for a in loaded.answer(QUESTIONS)] == live
    with pytest.raises(ConfigError, match="no auxiliary decoder"):
        loaded.answer(QUESTIONS, explain=True)
    assert any(name.startswith("encoder.") for name in load_file(tmp_path / "run" / "model" / "method.safetensors"))
    unspoken.export(tmp_path / "run", tmp_path / "out")
    assert [a.tokens for a in unspoken.load(tmp_path / "out").answer(QUESTIONS)] == live
    kept = load_file(tmp_path / "out" / "model" / "method.safetensors")
    assert set(kept) == {"projection.weight", "projection.bias"}
    assert RunDir(tmp_path / "out").config().method.name == "semcot_generator"


def test_a_run_moves_to_another_place(make, semcot, tmp_path):
    """Nothing in it is looked for elsewhere."""
    train(make(semcot()), tmp_path / "run")
    before = [a.tokens for a in unspoken.load(tmp_path / "run").answer(QUESTIONS)]
    (tmp_path / "run").rename(tmp_path / "moved")
    assert [a.tokens for a in unspoken.load(tmp_path / "moved").answer(QUESTIONS)] == before


def test_step_supervision_around_it(make, semcot, tmp_path):
    """SIM-CoT on SemCoT: thoughts are decoded; of the method between, the encoder is left out."""
    method = {"name": "sim_cot", "inner": semcot(), "decoder": {"kind": "layers"}, "max_step_tokens": 4}
    training = Training(make(method), tmp_path / "run", Quiet())
    training.go()
    live = unspoken.Model(training.method, training.config.speaking)
    loaded = unspoken.load(tmp_path / "run")
    assert isinstance(loaded.method, SimCot)
    assert isinstance(loaded.method.method, SemCotGenerator)
    said = loaded.answer(QUESTIONS, explain=True)
    assert [a.tokens for a in said] == [a.tokens for a in live.answer(QUESTIONS)]
    assert [a.thoughts for a in said] == live.explain(live.think(QUESTIONS))
    assert all(len(a.thoughts or ()) == 2 for a in said)
    assert isinstance(unspoken.load(tmp_path / "run", explain=False).method, SemCotGenerator)


def test_a_generator_with_adapters(make, semcot, tmp_path):
    settings = semcot()
    settings["inner"]["assistant"]["lora"] = {"r": 2, "alpha": 4.0}
    training = Training(make(settings), tmp_path / "run", Quiet())
    training.go()
    live = unspoken.Model(training.method, training.config.speaking)
    loaded = unspoken.load(tmp_path / "run")
    torch.testing.assert_close(loaded.think(QUESTIONS).latents_BKD, live.think(QUESTIONS).latents_BKD, rtol=1e-4, atol=1e-5)


def test_a_sentence_encoder_instead(make, semcot, tmp_path):
    """It is not needed at inference: the run answers also where it is gone."""
    words = tokenizer()
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(tmp_path / "bert")
    words.save_pretrained(tmp_path / "bert")
    encoder = {"kind": "model", "path": str(tmp_path / "bert"), "width": None}
    run = train(make(semcot(encoder=encoder, encoder_warmup={"epochs": 0})), tmp_path / "run").path
    assert {term for row in rows(run) for term in row["terms"]} == {"contrast", "answer", "align"}
    (tmp_path / "bert").rename(tmp_path / "elsewhere")
    assert len(unspoken.load(run).answer(QUESTIONS)) == 3


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(make, semcot, tmp_path):
    """Parts that wait wait in every process, and each pair is held against those of the other process too."""
    start = {"arch": ARCHS["llama"], "tokenizer": make().backbone.tokenizer}
    config = make(semcot(), start, steps=10, batch_size=5, micro_batch_size=2, weight_decay=0.5)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(dump(config)))
    train(config, tmp_path / "one")
    done = in_two("train", recipe, "--out", tmp_path / "two", "--quiet", env={"ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    assert [row["stage"] for row in rows(tmp_path / "one")][-1] == 3
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
