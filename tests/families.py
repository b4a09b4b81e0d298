"""Tiny random models of families beyond the three of the contract."""

from __future__ import annotations

from typing import Any

import torch
from backbones import tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from unspoken.core.backbone import Backbone
from unspoken.methods import make_method
from unspoken.model import Model

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
HEADS = {**SHAPE, "head_dim": 8}

FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": SHAPE,
    "qwen2": SHAPE,
    "qwen3_moe": {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma": HEADS,  # scales its input embeddings
    "gemma2": {**HEADS, "sliding_window": 128},  # caps its logits
    "granite": {**SHAPE, "logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "cohere": SHAPE,  # scales its logits
    "phi": SHAPE,  # a head with a bias
    "olmo2": SHAPE,
    "smollm3": SHAPE,
    "nanochat": SHAPE,
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},  # learned positions with an offset
    "gpt_neox": SHAPE,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},  # no positions at all, but a bias by distance
}


def model(family: str, **more: Any) -> Model:
    words = tokenizer()
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), words.eos_token_id)
    config = AutoConfig.for_model(
        family, **{**FAMILIES[family], "vocab_size": len(words), "initializer_range": 0.2, **ids, **more}
    )
    torch.manual_seed(0)
    backbone = Backbone(AutoModelForCausalLM.from_config(config, dtype=torch.float32), words)
    return Model(make_method({"name": "sim_cot", "inner": {"name": "coconut"}}, backbone))
