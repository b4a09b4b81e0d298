"""What `export --format gguf` writes; whether llama.cpp answers alike, tests/examples/test_edge.py asks it."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from support.backbones import backbone, tokenizer
from support.fakes.hf import coconut, make_run
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError
from unspoken.exporters.gguf_folder import CONTROL, NORMAL, UNUSED, export_gguf, tensors, vocabulary

CODI = {"name": "codi", "projection_width": 20}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("gguf") / "run", CODI)


def read(folder: Path) -> GGUFReader:
    return GGUFReader(folder / "model.gguf")


def test_the_file_has_every_weight_and_the_tokenizer(run: Path, tmp_path: Path):
    result = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--format", "gguf"])
    assert result.exit_code == 0, result.output
    made, method = read(tmp_path / "out"), unspoken.load(str(run), device="cpu").method
    lm: Any = method.backbone.lm
    assert made.fields["general.architecture"].contents() == "llama"
    assert made.fields["llama.attention.head_count_kv"].contents() == 2
    names = {tensor.name: tensor for tensor in made.tensors}
    assert len(names) == len(lm.state_dict())
    np.testing.assert_array_equal(names["token_embd.weight"].data, lm.get_input_embeddings().weight.detach().numpy())
    tokens = made.fields["tokenizer.ggml.tokens"].contents()
    for text in ("<|endoftext|>", "<|latent|>"):
        assert tokens[method.backbone.tokenizer.convert_tokens_to_ids(text)] == text
    assert made.fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert made.fields["tokenizer.chat_template"].contents()
    about = json.loads((tmp_path / "out/thoughts.json").read_text(encoding="utf-8"))
    row = method.prompt("?")
    assert (about["num_latents"], about["before"], about["after"]) == (row.latents, [row.ids[row.start - 1]], [row.ids[-1]])
    arrays = np.load(tmp_path / "out/projection.npz")
    assert sorted(arrays.files) == sorted(
        f"{n}.{t}" for n, layer in enumerate(about["projection"]) for t in layer["tensors"]
    )
    assert "think.py" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_queries_and_keys_are_turned_pairwise():
    """llama.cpp turns numbers 2i and 2i + 1 of a head together, transformers i and i + half."""
    lm: Any = backbone("llama").lm
    found, size = tensors(lm, "llama"), lm.config.head_dim
    own = lm.model.layers[1].self_attn.k_proj.weight.detach().numpy().reshape(2, size, -1)
    theirs = found["blk.1.attn_k.weight"].reshape(2, size, -1)
    np.testing.assert_array_equal(theirs[:, 0::2], own[:, : size // 2])
    np.testing.assert_array_equal(theirs[:, 1::2], own[:, size // 2 :])
    untouched = tensors(backbone("qwen3").lm, "qwen3")
    qwen: Any = backbone("qwen3").lm
    np.testing.assert_array_equal(
        untouched["blk.0.attn_q.weight"], qwen.model.layers[0].self_attn.q_proj.weight.detach().numpy()
    )
    assert "output.weight" not in untouched, "tied to the embedding"


def test_matrices_of_gpt2_are_transposed():
    lm: Any = backbone("gpt2").lm
    found = tensors(lm, "gpt2")
    np.testing.assert_array_equal(found["blk.0.ffn_up.weight"], lm.transformer.h[0].mlp.c_fc.weight.detach().numpy().T)


def test_positions_that_llama_3_stretches_are_written():
    scaling = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    lm: Any = backbone("llama", rope_parameters=scaling).lm
    factors = tensors(lm, "llama")["rope_freqs.weight"]
    plain = 1.0 / 10000.0 ** (torch.arange(0, 2 * len(factors), 2) / (2 * len(factors)))
    np.testing.assert_allclose(plain.numpy() / factors, lm.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    assert factors.max() > 1.5
    with pytest.raises(ConfigError, match="turned in a way"):
        tensors(backbone("qwen3", rope_parameters=scaling).lm, "qwen3")


def test_eight_bits_are_smaller_and_near(run: Path, tmp_path: Path):
    export_gguf(make_run(tmp_path / "run", {"name": "cot"}, hidden_size=64), tmp_path / "whole")
    result = CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "q8"), "--format", "gguf",
                                      "--bits", "q8_0"])  # fmt: skip
    assert result.exit_code == 0, result.output
    whole, small = (tmp_path / name / "model.gguf" for name in ("whole", "q8"))
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    kinds = {tensor.name: tensor.tensor_type.name for tensor in read(tmp_path / "q8").tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert not (tmp_path / "q8/thoughts.json").exists()
    assert "llama-server" in (tmp_path / "q8/README.md").read_text(encoding="utf-8")


def test_rows_without_a_token_are_unused():
    words: Any = tokenizer()
    words.add_tokens(["<|latent|>"])
    made = vocabulary(words, len(words) + 3)
    assert made.kinds[-3:] == [UNUSED] * 3
    assert made.kinds[words.eos_token_id] == CONTROL
    assert made.kinds[words.convert_tokens_to_ids("e")] == NORMAL
    assert len(made.tokens) == len(set(made.tokens))


def test_a_tokenizer_that_llama_cpp_does_not_know_is_left_out(tmp_path: Path):
    export_gguf("builtin:tiny-sim-cot", tmp_path / "out")
    assert read(tmp_path / "out").fields["tokenizer.ggml.model"].contents() == "no_vocab"
    assert "model.gguf has no tokenizer" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [({"name": "icot_si"}, {}, "end-of-text number 2"), (coconut(), {"family": "nanochat"}, "NanoChatForCausalLM cannot"),
     (coconut(), {"model_type": "mistral", "sliding_window": 12}, "sliding window")],
)  # fmt: skip
def test_what_llama_cpp_cannot_do_is_refused(method: Any, more: Any, words: str, tmp_path: Path):
    run = make_run(tmp_path / "run", method, speaking=SamplingParams(max_new_tokens=24), **more)
    with pytest.raises(ConfigError, match=words):
        export_gguf(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_package_it_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load = builtins.__import__

    def none(name: str, *rest: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", none)
    with pytest.raises(ConfigError, match=r"unspoken\[gguf\]"):
        export_gguf(run, tmp_path / "out")


def test_bits_are_for_this_format_alone(run: Path, tmp_path: Path):
    result = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--bits", "q8_0"])
    assert result.exit_code
    assert "for --format gguf" in result.output + str(result.exception)
