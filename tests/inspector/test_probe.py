"""The probe: a decoder that learns to read a run which it must not touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.backbones import ARCHS

import unspoken
from unspoken.core.lm.adapters import LoraSettings
from unspoken.errors import ConfigError, RunError
from unspoken.inspector.probe import probe_config
from unspoken.methods import make_method
from unspoken.runs.directory import RunDir
from unspoken.tasks import make_task
from unspoken.training.loop import train

QUICK = ["train.steps=8", "train.validate_every=4", "train.save_every=4", "train.lr=0.003", "train.warmup_steps=0"]
ASSISTANT = {"arch": {**ARCHS["gpt2"], "n_embd": 24, "initializer_range": 0.2}, "tokenizer": "builtin:tiny-tokenizer"}
TEXTS = {"assistant": "Q: {question}", "base": "{question}{thoughts}\n", "answer": "= {answer}"}
METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 2},
    "codi": {"name": "codi", "latents": 2},
    "pause": {"name": "pause", "pauses": 2},
    "semcot_generator": {
        "name": "semcot_generator", "assistant": ASSISTANT, "latents": 2, "texts": TEXTS, "warmup": {"epochs": 0},
    },
    "sim_cot": {"name": "sim_cot", "inner": {"name": "codi", "latents": 2}, "decoder": {"kind": "layers"}},
}  # fmt: skip


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Everything that lies in a run's model."""
    return {
        f"{file.relative_to(run / 'model')}/{name}": tensor
        for file in sorted((run / "model").rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_it_explains_and_leaves_the_run_as_it_is(name: str, make, files: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "probe"
    train(make(METHODS[name]), run)
    before = tensors(run)
    train(probe_config(run, overrides=QUICK), out)
    assert {key: tensor.tolist() for key, tensor in tensors(run).items()} == {k: t.tolist() for k, t in before.items()}

    # What the probe holds of the run is the run's, bit for bit: base model, projection, generator.
    after = tensors(out)
    inner = name == "sim_cot"
    for key, tensor in before.items():
        if "decoder" in key:
            continue
        new = key if key.startswith(("model.", "assistant")) else key.replace("/", "/method.", 1) if not inner else key
        assert torch.equal(after[new], tensor), key

    probe, plain = unspoken.load(out), unspoken.load(run, explain=False)
    questions = [e.question for e in make_task(RunDir(run).config().task).examples("test")]
    said, told = plain.answer(questions), probe.answer(questions, explain=True)
    assert [a.tokens for a in told] == [a.tokens for a in said]
    assert all(len(a.thoughts or ()) == 2 for a in told)
    assert probe.explains


def test_the_decoder_learns_from_the_last_stage_alone(make, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "probe"
    train(make(METHODS["coconut"]), run)
    train(probe_config(run, overrides=[*QUICK, "train.steps=40", "train.lr=0.01"]), out)
    rows = [row for row in RunDir(out).metrics() if row["kind"] == "train"]
    assert {row["stage"] for row in rows} == {3}
    assert all(list(row["terms"]) == ["explain"] for row in rows)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_a_frozen_method_does_not_drop_out() -> None:
    from support import backbones

    frozen = {"name": "sim_cot", "inner": "coconut", "trains": "decoder", "decoder": {"dropout": True}}
    method: Any = make_method(frozen, backbones.backbone("gpt2", resid_pdrop=0.5))
    method.train()
    assert not any(module.training for module in method.method.modules())
    assert method.decoder.lm.training
    both: Any = make_method({"name": "sim_cot", "inner": "coconut"}, backbones.backbone("gpt2"))
    assert all(module.training for module in both.train().method.modules())


def test_an_interrupted_probe_goes_on(make, tmp_path: Path) -> None:
    """It is a run like any other: the same call finishes it."""
    run = tmp_path / "run"
    train(make(METHODS["codi"]), run)
    config = probe_config(run, overrides=QUICK)
    assert unspoken.build(unspoken.RunConfig, unspoken.dump(config)) == config
    train(config, tmp_path / "probe")
    train(config, tmp_path / "probe")


def test_what_cannot_be_probed(make, tmp_path: Path) -> None:
    train(make({"name": "cot"}, steps=4), tmp_path / "cot")
    with pytest.raises(ConfigError, match="makes no latents while it answers"):
        probe_config(tmp_path / "cot")
    train(make(METHODS["codi"], steps=4), tmp_path / "codi")
    with pytest.raises(ConfigError, match="a probe trains the decoder alone"):
        probe_config(tmp_path / "codi", overrides=["method.trains=both"])
    with pytest.raises(RunError, match="no such folder; give a folder that `unspoken train` wrote"):
        probe_config(tmp_path / "nothing")


def test_a_start_of_another_method_is_refused(make, tmp_path: Path) -> None:
    train(make(METHODS["codi"], steps=4), tmp_path / "codi")
    from dataclasses import replace

    config = replace(make({"name": "codi", "latents": 2, "projection": False}), start=str(tmp_path / "codi"))
    with pytest.raises(RunError, match=r"cannot be the start of method 'codi': 'projection.1.bias' differs"):
        train(config, tmp_path / "new")


def test_a_start_is_taken_over(make, tmp_path: Path) -> None:
    """Also without a probe: CODI goes on with the projection that it had."""
    from dataclasses import replace

    from unspoken.core.lm.backbone import BackboneConfig
    from unspoken.runs.start import build_method

    train(make(METHODS["codi"], steps=4), tmp_path / "codi")
    config = make(METHODS["codi"])
    base = BackboneConfig(path=str(tmp_path / "codi"), lora=LoraSettings(r=2))
    method: Any = build_method(replace(config, backbone=base, start=str(tmp_path / "codi")))
    kept = load_file(tmp_path / "codi" / "model" / "method.safetensors")
    assert all(torch.equal(method.projection.state_dict()[k.removeprefix("projection.")], v) for k, v in kept.items())
