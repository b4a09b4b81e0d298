"""What `export --format vllm` writes, and refuses; whether vLLM answers alike is tested with a real one (tests/vllm)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from safetensors.torch import load_file
from support.fakes.hf import coconut, make_run
from transformers import AutoTokenizer
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.errors import ConfigError
from unspoken.exporters.hf_folder import PROBES
from unspoken.exporters.hf_generate import project
from unspoken.exporters.vllm_folder import export_vllm
from unspoken.exporters.vllm_format import KEY, PROJECTION, latent_config

CODI = {"name": "codi", "projection_width": 20}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("vllm") / "run", CODI)


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    export_vllm(run, run.parent / "out")
    return run.parent / "out"


def asked(tokenizer: Any, question: str, **more: Any) -> list[int]:
    return list(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False, **more
        )
    )


def test_the_config_says_how_to_think(run: Path, folder: Path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["UnspokenLlamaForCausalLM"]
    assert config["model_type"] == "llama"
    row = unspoken.load(run, device="cpu").method.prompt("?")
    about = latent_config(config[KEY], "there")
    assert (about["latents"], about["slot"]) == (row.latents, row.ids[row.start])
    assert [*about["before"], *about["after"]] == [row.ids[row.start - 1], row.ids[-1]]
    assert about["most"] >= 2 * row.latents
    speaking = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert speaking["max_new_tokens"] == 9 + row.latents + 1


def test_a_chat_is_the_prompt_up_to_the_first_latent(run: Path, folder: Path):
    method, tokenizer = unspoken.load(run, device="cpu").method, AutoTokenizer.from_pretrained(folder)
    for question in PROBES:
        row = method.prompt(question.strip())
        assert tuple(asked(tokenizer, question)) == row.ids[: row.start]


@pytest.mark.parametrize("marker", ["<|latent|>", "<|start-latent|>", "<|end-latent|>"])
def test_a_chat_with_a_marker_is_refused(folder: Path, marker: str):
    with pytest.raises(jinja2.TemplateError, match="reserved for thoughts"):
        asked(AutoTokenizer.from_pretrained(folder), f"How many {marker} are there?")


def test_markers_are_special(folder: Path):
    """Otherwise vLLM shows them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [*tokenizer.encode("12"), *tokenizer.convert_tokens_to_ids(["<|latent|>", "<|start-latent|>", "<|end-latent|>"])]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "12"


def test_the_projection_is_beside_the_weights(run: Path, folder: Path):
    method: Any = unspoken.load(run, device="cpu").method
    tensors = load_file(folder / "projection.safetensors")
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))[KEY]
    states = method.backbone.lm.get_input_embeddings().weight[:5].detach()
    own = {name.removeprefix(PROJECTION): tensor for name, tensor in tensors.items()}
    assert project(about["projection"], own, states).allclose(method.projection(states), atol=1e-6)


def test_weights_in_parts_list_the_projection(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """vLLM reads only files that the list of parts names."""
    from unspoken.core.lm.backbone import Backbone

    def save(self: Backbone, folder: Path) -> None:
        self.plain().save_pretrained(folder, max_shard_size="20KB")
        self.tokenizer.save_pretrained(folder)

    monkeypatch.setattr(Backbone, "save", save)
    export_vllm(run, tmp_path / "out")
    listed = json.loads((tmp_path / "out/model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    for name in load_file(tmp_path / "out/projection.safetensors"):
        assert listed[name] == "projection.safetensors"


def test_pauses_are_written_by_the_chat(tmp_path: Path):
    """No plugin is needed for thoughts that are tokens."""
    run = make_run(tmp_path / "run", {"name": "pause", "pauses": 4, "marker_init": "pens"})
    result = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--format", "vllm"])
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert KEY not in config
    method, tokenizer = unspoken.load(run, device="cpu").method, AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tuple(asked(tokenizer, "How many?")) == method.prompt("How many?").ids
    assert tuple(asked(tokenizer, "How many?", latents=2)) == method.prompt("How many?", 2).ids


def test_a_model_without_latents_is_an_ordinary_folder(tmp_path: Path):
    export_vllm(make_run(tmp_path / "run", {"name": "cot"}), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))["architectures"] == ["LlamaForCausalLM"]
    assert "VLLM_USE_V2_MODEL_RUNNER" not in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [({"name": "icot_si"}, {}, "end-of-text number 2"),
     (coconut(), {"family": "nanochat"}, "none for a NanoChatForCausalLM")],
)  # fmt: skip
def test_what_vllm_cannot_do_is_refused(method: Any, more: Any, words: str, tmp_path: Path):
    from unspoken.core.loop.sampling import SamplingParams

    run = make_run(tmp_path / "run", method, speaking=SamplingParams(max_new_tokens=24), **more)
    with pytest.raises(ConfigError, match=words):
        export_vllm(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("about", [None, {}, {"format": 2}, {"format": 1}, 3])
def test_an_object_that_is_none_says_what_to_do(about: Any):
    with pytest.raises(ValueError, match="export the run again"):
        latent_config(about, "there")


def test_latents_beyond_the_most_are_refused(folder: Path):
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))[KEY]
    with pytest.raises(ValueError, match="latents must be 0 to most=32"):
        latent_config({**about, "latents": 33}, "there")
