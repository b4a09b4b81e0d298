"""SoftCoT, SoftCoT++ and SIM-CoT on them through the ordinary commands: train, resume, evaluate, export, reload."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.backbones import ARCHS
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.core.config import build, dump
from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.errors import ConfigError, RunError
from unspoken.runs.config import RunConfig
from unspoken.training.loop import Training, train


@pytest.fixture
def soft(files: Path, tmp_path: Path):
    """soft(wrap, **more) -> a method with a random GPT-2 on disk as assistant."""
    folder = tmp_path / "assistant"
    torch.manual_seed(5)
    arch = {**ARCHS["gpt2"], "n_embd": 24}
    load_backbone(BackboneConfig(arch=arch, tokenizer=str(files / "tokenizer"))).save(folder)

    def made(wrap: str = "softcot", assistant: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        inner: dict[str, Any] = {
            "name": "softcot", "assistant": {"path": str(folder), **(assistant or {})}, "latents": 4, "texts": "plain",
            **more,
        }  # fmt: skip
        if wrap == "softcot":
            return inner
        if wrap == "softcot_pp":
            return {"name": "softcot_pp", "softcot": inner, "chains": 3}
        return {"name": "sim_cot", "inner": {**inner, "latents_per_step": 2}, "decoder": {"kind": "layers"}}

    return made


WRAPS = ["softcot", "softcot_pp", "sim_cot"]


@pytest.mark.parametrize(
    ("wrap", "caches"), [("softcot", True), ("softcot_pp", False), ("sim_cot", True), ("sim_cot", False)]
)
def test_a_killed_run_goes_on(make, soft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: str, caches: bool):
    """Bit for bit; with caches but for rounding: what one run remembers the other reads again, in other batches."""
    config = make(soft(wrap))
    if not caches:
        config = replace(config, fast=FastConfig(states=None, prefix_gb=0.0))
    train(config, tmp_path / "whole")
    step = Training._train_step

    def dying(self: Any) -> None:
        if self.step == 6:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(Training, "_train_step", step)
    train(config, tmp_path / "parts")
    states = [next((tmp_path / run / "state").glob("step-*")) / "state.safetensors" for run in ("whole", "parts")]
    a, b = map(load_file, states)
    assert a.keys() == b.keys()
    for name in a:
        if caches:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(a[name], b[name]), name
    assert not any("backbone" in name or ".lm." in name for name in a if "decoder" not in name), "frozen weights in a state"


@pytest.mark.parametrize("wrap", WRAPS)
def test_evaluated_exported_and_loaded_again(make, soft, tmp_path: Path, wrap: str):
    run = tmp_path / "run"
    train(make(soft(wrap), steps=4), run)
    model = unspoken.load(run)
    questions = ["Ann has 3 pens and buys 4 more.", "Bob has 9 figs. He eats 2 of them. How many?"]
    said = [a.tokens for a in model.answer(questions)]
    assert [a.tokens for a in unspoken.load(run).answer(questions)] == said
    runner = CliRunner()
    done = runner.invoke(app, ["export", str(run), str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    exported = unspoken.load(tmp_path / "out")
    assert [a.tokens for a in exported.answer(questions)] == said
    assert exported.method.config.name == ("softcot" if wrap == "sim_cot" else wrap)
    if wrap == "sim_cot":
        thoughts = model.answer(questions, explain=True)
        assert all(len(a.thoughts or ()) == 2 for a in thoughts)


def test_what_a_run_holds(make, soft, tmp_path: Path):
    """The base model once, the projection in fp32, and of a frozen assistant its name and a hash."""
    run = tmp_path / "run"
    train(make(soft("softcot_pp"), steps=2), run)
    with safe_open(str(run / "model" / "method.safetensors"), "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(kept) == {"initial.weight", "soft.projection.weight", "soft.projection.bias"}
    assert {t.dtype for t in kept.values()} == {torch.float32}
    assert not (run / "model" / "assistant").exists()


def test_an_assistant_that_has_changed_is_refused(make, soft, tmp_path: Path):
    run = tmp_path / "run"
    train(make(soft(), steps=2), run)
    weights = tmp_path / "assistant" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-40] ^= 0x10
    weights.write_bytes(bytes(data))
    with pytest.raises(RunError, match="trained with other weights of the assistant"):
        unspoken.load(run)


@pytest.mark.parametrize("which", ["assistant", "base"])
def test_adapters(make, soft, files: Path, tmp_path: Path, which: str):
    """LoRA on the assistant or on the base model: merged into the run's own folders, which answer alike."""
    lora = {"lora": LoraSettings(r=4, alpha=8.0)}
    start = {"arch": ARCHS["llama"], "tokenizer": str(files / "tokenizer"), **(lora if which == "base" else {})}
    method = soft(assistant={"lora": {"r": 4, "alpha": 8.0}} if which == "assistant" else None)
    run = tmp_path / "run"
    train(make(method, backbone=start, steps=6), run)
    assert (run / "model" / "assistant").is_dir() == (which == "assistant")
    model = unspoken.load(run)
    assert model.answer(["Ann has 3 pens."])[0].tokens == unspoken.load(run).answer(["Ann has 3 pens."])[0].tokens


def test_ten_sets_and_ten_samples_are_one_command(make, soft, tmp_path: Path):
    run = tmp_path / "run"
    train(make({**soft("softcot_pp"), "chains": 10}, steps=2), run)
    runner = CliRunner()
    command = ["eval", str(run), "--samples", "10", "--temperature", "1", "--limit", "3", "--max-new-tokens", "4"]
    done = runner.invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = run.glob("eval-*.json")
    report = json.loads(path.read_text())
    assert (report["chains"], report["samples"]) == (10, 10)
    for record in report["records"]:
        assert len(record["said"]) == 100
        assert {(s["chain"], s["sample"]) for s in record["said"]} == {(c, s) for c in range(10) for s in range(10)}
        assert record["latents"] == 40


def test_seeds_give_a_report_each(make, soft, tmp_path: Path):
    run = tmp_path / "run"
    train(make(soft(), steps=2), run)
    runner = CliRunner()
    options = ["--temperature", "1.5", "--limit", "4", "--max-new-tokens", "6"]
    done = runner.invoke(app, ["eval", str(run), "--seeds", "41, 42,43", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "accuracy over 3 sampling seeds" in done.output
    reports = {path.name: json.loads(path.read_text()) for path in run.glob("eval-*.json")}
    assert sorted(r["speaking"]["seed"] for r in reports.values()) == [41, 42, 43]
    assert len({json.dumps([record["text"] for record in r["records"]]) for r in reports.values()}) == 3
    with pytest.raises(ConfigError, match="different numbers with commas"):
        runner.invoke(app, ["eval", str(run), "--seeds", "41,41"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="goes without --seed and --out"):
        runner.invoke(app, ["eval", str(run), "--seeds", "41", "--seed", "3"], catch_exceptions=False)


def test_samples_are_what_single_answers_are(make, soft, tmp_path: Path):
    """Chain c, sample s of a question does not depend on what else is said; sample 0 of set 0 is the ordinary answer."""
    run = tmp_path / "run"
    train(make(soft("softcot_pp"), steps=2), run)
    model = unspoken.load(run)
    assert model.chains == 3
    asked = ["Ann has 3 pens and buys 4 more.", "Bob has 9 figs."]
    how: dict[str, Any] = {"temperature": 1.2, "seed": 4, "max_new_tokens": 6}
    many = model.sample(asked, chains=3, samples=4, **how)
    few = model.sample(asked, chains=2, samples=2, batch_size=1, **how)
    for all_of_it, some in zip(many, few, strict=True):
        told = {(a.chain, a.sample): a.tokens for a in all_of_it}
        assert [(a.chain, a.sample) for a in some] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert all(told[a.chain, a.sample] == a.tokens for a in some)
        assert len(set(told.values())) > 6
    assert [a.tokens for a in model.answer(asked, **how)] == [given[0].tokens for given in many]
    with pytest.raises(ConfigError, match=r"chains in 1\.\.3"):
        model.sample(asked, chains=4, **how)
    with pytest.raises(ConfigError, match="temperature 0 would all be the same"):
        model.sample(asked, samples=2)


def test_export_for_transformers_is_refused_in_words(make, soft, tmp_path: Path):
    run = tmp_path / "run"
    train(make(soft(), steps=2), run)
    with pytest.raises(ConfigError, match="cannot be exported to a Hugging Face folder"):
        CliRunner().invoke(app, ["export", str(run), str(tmp_path / "hf"), "--format", "hf"], catch_exceptions=False)


def test_another_number_of_thoughts_only_when_asked(make, soft, tmp_path: Path):
    run = tmp_path / "run"
    config = make(soft(), steps=2)
    train(config, run)
    model = unspoken.load(run)
    assert [model.answer(["Ann has 3."], latents=n)[0].latents for n in (None, 1, 9, 0)] == [4, 1, 9, 0]
    assert build(RunConfig, json.loads(json.dumps(dump(config)))) == config
