"""SoftCoT's `projection.bin`: made as the released code makes it, and imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import ARCHS, tokenizer

import unspoken
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.errors import CheckpointError, ConfigError
from unspoken.importers import import_checkpoint


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """A base model, 32 wide, and an assistant, 24 wide, on disk."""
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    made = []
    for name, arch in (("base", ARCHS["llama"]), ("assistant", {**ARCHS["gpt2"], "n_embd": 24})):
        torch.manual_seed(3)
        load_backbone(BackboneConfig(arch=arch, tokenizer=str(tmp_path / "tokenizer"))).save(tmp_path / name)
        made.append(str(tmp_path / name))
    return made[0], made[1]


def released(folder: Path, chains: int = 0, **more: torch.Tensor) -> Path:
    """A file as `save_pretrained` writes it: bf16, in a folder named after everything."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    state = {"weight": torch.randn(32, 24).bfloat16(), "bias": torch.randn(32).bfloat16()}
    if chains:
        state["embedding"] = torch.randn(chains, 24).bfloat16()
    torch.save({**state, **more}, folder / "projection.bin")
    return folder / "projection.bin"


@pytest.mark.parametrize("chains", [0, 4])
def test_import_and_answer(models: tuple[str, str], tmp_path: Path, chains: int):
    base, assistant = models
    file = released(tmp_path / "softcot-gsm8k-10.0-32", chains)
    done = import_checkpoint(file, base, tmp_path / "run", assistant=assistant, latents=5, texts="plain", task="tiny")
    assert done.family == ("SoftCoT++'s projection" if chains else "SoftCoT's projection")
    assert not done.dropped
    theirs = torch.load(file, weights_only=True)
    model: Any = unspoken.load(tmp_path / "run")
    method = model.method
    projection = method.soft.projection if chains else method.projection
    assert projection.weight.dtype == torch.float32
    assert torch.equal(projection.weight, theirs["weight"].float())
    assert torch.equal(projection.bias, theirs["bias"].float())
    assert model.chains == (chains or 1)
    if chains:
        assert torch.equal(method.initial.weight, theirs["embedding"].float())
    said = model.sample(["How many pens?"], chains=chains or 1, max_new_tokens=3, temperature=0.0)[0]
    assert [a.latents for a in said] == [5] * (chains or 1)
    imported = json.loads((tmp_path / "run" / "run.json").read_text())["imported"]
    assert imported["base"] == base
    assert imported["assistant"] == assistant
    assert len(imported["files"][0]["sha256"]) == 64
    assert imported["chosen"]["latents"] == {"value": 5, "source": "as given"}


def test_what_is_chosen_is_told(models: tuple[str, str], tmp_path: Path):
    base, assistant = models
    done = import_checkpoint(released(tmp_path / "ckpt"), base, tmp_path / "run", assistant=assistant, task="tiny")
    lines = "\n".join(done.lines())
    assert "SoftCoT's projection: 2 tensors mapped, 0 dropped" in lines
    assert "latents: 32 (not in the file; as the README trains; its evaluation takes 4)" in lines
    assert "the prompts are ours, not those it was trained with" in lines
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert config["method"]["generation_header"] is False
    assert (config["speaking"]["temperature"], config["speaking"]["top_k"]) == (1.0, 50)


def test_texts_from_a_file(models: tuple[str, str], tmp_path: Path):
    base, assistant = models
    (tmp_path / "texts.json").write_text(json.dumps({"base": "Q: {question} {thoughts}", "hint": "hints {slots}"}))
    file = released(tmp_path / "ckpt")
    import_checkpoint(file, base, tmp_path / "run", assistant=assistant, texts=str(tmp_path / "texts.json"), task="tiny")
    assert unspoken.load(tmp_path / "run").method.config.texts.hint == "hints {slots}"
    with pytest.raises(ConfigError, match="cannot read the texts"):
        import_checkpoint(file, base, tmp_path / "other", assistant=assistant, texts="nowhere.json", task="tiny")


@pytest.mark.parametrize("swapped", ["base", "assistant"])
def test_another_model_is_refused_with_the_sizes(models: tuple[str, str], tmp_path: Path, swapped: str):
    base, assistant = models
    given = (assistant, assistant) if swapped == "base" else (base, base)
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(released(tmp_path / "ckpt"), given[0], tmp_path / "run", assistant=given[1], task="tiny")
    message = str(caught.value)
    wide = 24 if swapped == "base" else 32
    assert f"does not fit --base {given[0]} ({wide} wide) and --assistant {given[1]} ({wide} wide)" in message
    assert "weight" in message
    assert str((32, 24)) in message or "[32, 24]" in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [({"scale": torch.ones(1)}, "scale"), ({"embedding": torch.ones(3, 32)}, "embedding|initial")],
)
def test_a_tensor_that_does_not_belong_is_named(models: tuple[str, str], tmp_path: Path, more: Any, message: str):
    base, assistant = models
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(released(tmp_path / "ckpt", **more), base, tmp_path / "run", assistant=assistant, task="tiny")


def test_half_a_projection_is_refused(models: tuple[str, str], tmp_path: Path):
    base, assistant = models
    (tmp_path / "ckpt").mkdir()
    torch.save({"weight": torch.ones(32, 24)}, tmp_path / "ckpt" / "projection.bin")
    with pytest.raises(CheckpointError, match="bias"):
        import_checkpoint(tmp_path / "ckpt" / "projection.bin", base, tmp_path / "run", assistant=assistant, task="tiny")


def test_models_that_were_trained_too_are_refused(models: tuple[str, str], tmp_path: Path):
    base, assistant = models
    file = released(tmp_path / "ckpt")
    (tmp_path / "ckpt" / "assistant_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"assistant_model\.bin beside the projection"):
        import_checkpoint(file, base, tmp_path / "run", assistant=assistant, task="tiny")


def test_options(models: tuple[str, str], tmp_path: Path):
    base, assistant = models
    file = released(tmp_path / "ckpt")
    with pytest.raises(ConfigError, match="name the assistant"):
        import_checkpoint(file, base, tmp_path / "run", task="tiny")
    with pytest.raises(ConfigError, match="max_stage is no setting of SoftCoT"):
        import_checkpoint(file, base, tmp_path / "run", assistant=assistant, max_stage=3, task="tiny")
