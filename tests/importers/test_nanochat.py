"""nanochat's own files: a miniature in its layout imports and gives the logits of its equations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import ARCHS, tokenizer
from support.fakes.released import causal_lm, write_base
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import unspoken
from unspoken.errors import CheckpointError
from unspoken.importers import import_checkpoint

WIDTH, HEADS, KV, LAYERS = 32, 4, 2, 2


def state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of nanochat's code."""
    draw, head = torch.Generator().manual_seed(seed), WIDTH // HEADS
    shapes = {"transformer.wte": (len(tokenizer()), WIDTH), "lm_head": (len(tokenizer()), WIDTH)}
    for i in range(LAYERS):
        at = f"transformer.h.{i}"
        shapes |= {f"{at}.attn.c_q": (WIDTH, WIDTH), f"{at}.attn.c_proj": (WIDTH, WIDTH)}
        shapes |= {f"{at}.attn.{name}": (KV * head, WIDTH) for name in ("c_k", "c_v")}
        shapes |= {f"{at}.mlp.c_fc": (48, WIDTH), f"{at}.mlp.c_proj": (WIDTH, 48)}
    return {f"{name}.weight": 0.3 * torch.randn(*shape, generator=draw) for name, shape in shapes.items()}


def logits(weights: dict[str, Tensor], ids_T: Tensor) -> Tensor:
    """nanochat's equations [T, V]: norms without weights, rotation before the norm of queries and keys, squared ReLU."""

    def norm(x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    half, (T,) = WIDTH // HEADS // 2, ids_T.shape
    angle_Th = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(half) / half)

    def turned(x_hTd: Tensor) -> Tensor:
        a, b = x_hTd[..., :half], x_hTd[..., half:]
        cos, sin = angle_Th.cos(), angle_Th.sin()
        return norm(torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1))

    x_TD = norm(weights["transformer.wte.weight"][ids_T])
    for i in range(LAYERS):
        at = {name: weights[f"transformer.h.{i}.{name}.weight"] for name in ("attn.c_q", "attn.c_k", "attn.c_v")}
        q, k, v = ((norm(x_TD) @ w.T).view(T, -1, 2 * half).transpose(0, 1) for w in at.values())
        y = scaled_dot_product_attention(
            turned(q)[None], turned(k)[None], v[None], is_causal=True, enable_gqa=True
        )[0].transpose(0, 1).reshape(T, WIDTH)  # fmt: skip
        x_TD = x_TD + y @ weights[f"transformer.h.{i}.attn.c_proj.weight"].T
        inner = (norm(x_TD) @ weights[f"transformer.h.{i}.mlp.c_fc.weight"].T).relu().square()
        x_TD = x_TD + inner @ weights[f"transformer.h.{i}.mlp.c_proj.weight"].T
    return 15 * torch.tanh(norm(x_TD) @ weights["lm_head.weight"].T / 15)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = tokenizer()
    return write_base(tmp_path_factory.mktemp("nanochat"), causal_lm("nanochat", 1, len(words)), words)


def written(folder: Path, weights: dict[str, Tensor], **meta: Any) -> Path:
    """A file as nanochat saves it, with its settings beside it."""
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / "model_000650.pt")
    config = {"sequence_len": 256, "vocab_size": len(tokenizer()), "n_layer": LAYERS, "n_head": HEADS, "n_kv_head": KV}
    told = {"step": 650, "model_config": {**config, "n_embd": WIDTH, **meta}}
    (folder / "meta_000650.json").write_text(json.dumps(told))
    return folder / "model_000650.pt"


@pytest.mark.parametrize("wrap", ["", "_orig_mod."])
def test_a_checkpoint_gives_the_logits_of_its_equations(base: Path, tmp_path: Path, wrap: str):
    weights = state()
    file = written(tmp_path / "files", {wrap + key: value for key, value in weights.items()})
    done = import_checkpoint(file, str(base), tmp_path / "run")
    assert done.family == "nanochat's language model"
    assert done.notes == ("checked: n_layer, n_head, n_kv_head, n_embd, vocab_size of meta_000650.json",)
    lm = unspoken.load(done.path).method.backbone.lm
    ids = torch.arange(3, 40)
    with torch.no_grad():
        got = lm(input_ids=ids[None]).logits[0]
    torch.testing.assert_close(got, logits(weights, ids), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_named(base: Path, tmp_path: Path):
    def refused(message: str, weights: dict[str, Tensor], on: Path = base, **meta: Any) -> None:
        with pytest.raises(CheckpointError, match=re.escape(message)):
            import_checkpoint(written(tmp_path / "files", weights, **meta), str(on), tmp_path / "run")

    refused("says n_head=8, but", state(), n_head=8)
    later = {**state(), "resid_lambdas": torch.ones(2), "value_embeds.1.weight": torch.ones(3, 4)}
    refused("a design after October 2025 (resid_lambdas, value_embeds.1.weight)", later)
    refused("transformer.h.1.mlp.c_fc.weight", {key: value for key, value in state().items() if "h.1.mlp.c_fc" not in key})
    other = write_base(tmp_path / "llama", causal_lm("llama", 1, len(tokenizer())), tokenizer())
    refused("needs a --base of model_type nanochat", state(), on=other)
    file = written(tmp_path / "files", state())
    (tmp_path / "files" / "meta_000650.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"meta_000650\.json cannot be read"):
        import_checkpoint(file, str(base), tmp_path / "run")
    (tmp_path / "files" / "meta_000650.json").unlink()
    assert import_checkpoint(file, str(base), tmp_path / "run").notes[0].startswith("not checked: the number of heads")


def test_the_miniature_is_of_the_shape_of_the_base():
    arch = ARCHS["nanochat"]
    assert (arch["hidden_size"], arch["num_attention_heads"], arch["num_key_value_heads"]) == (WIDTH, HEADS, KV)
