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

PADDED: dict[str, dict[str, Any]] = {
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256},
    "cohere": SHAPE,  # scales its logits
    "cohere2": SHAPE,
    "exaone4": SHAPE,
    "gemma": HEADS,  # scales its input embeddings
    "gemma2": {**HEADS, "sliding_window": 128},  # caps its logits
    "gemma3_text": {**HEADS, "sliding_window": 128},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_position_embeddings": 256,
        "window_size": 128, "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": SHAPE,
    "gpt_oss": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256},
    "granite": {**SHAPE, "logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "llama": SHAPE,
    "mistral": SHAPE,
    "nanochat": SHAPE,
    "olmo": SHAPE,
    "olmo2": SHAPE,
    "olmo3": SHAPE,
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},  # learned positions with an offset
    "phi": SHAPE,  # a head with a bias
    "phi3": SHAPE,
    "qwen2": SHAPE,
    "qwen2_moe": {
        **SHAPE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3": HEADS,
    "qwen3_moe": {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "smollm3": SHAPE,
    "stablelm": SHAPE,
    "starcoder2": SHAPE,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},  # no positions at all, but a bias by distance
}  # fmt: skip
"""Families whose rows may be padded inside a pass."""

_FEW = "mistral qwen2 qwen3_moe gemma gemma2 granite cohere phi olmo2 smollm3 nanochat opt gpt_neox bloom"
FAMILIES = {family: PADDED[family] for family in _FEW.split()}
"""Some of them, each unlike the others in something."""

_DELTA = {
    **HEADS, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}

UNPADDED: dict[str, dict[str, Any]] = {
    "qwen3_5_text": _DELTA,
    "qwen3_next": {
        **_DELTA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "lfm2": {**SHAPE, "layer_types": ["conv", "full_attention"]},
    "falcon_h1": {**SHAPE, **_MAMBA, "mamba_d_ssm": 64},
    "granitemoehybrid": {
        **SHAPE, **_MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 32,
    },
    "bamba": {**SHAPE, **_MAMBA, "attn_layer_indices": [1]},
    "nemotron_h": {
        **HEADS, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4, "mamba_head_dim": 16,
        "ssm_state_size": 8, "n_groups": 1,
    },
    "mamba2": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1,
    },
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 256},  # its bias counts columns
    "jamba": {  # forgets its state in a pass of several columns
        **SHAPE, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "num_experts_per_tok": 1,
        "mamba_d_state": 8,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "recurrent_gemma": {**SHAPE, "lru_width": 32, "attention_window_size": 64},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 48},
}  # fmt: skip
"""Families that padding inside a pass would change."""


def causal_lm(family: str, **more: Any) -> tuple[Any, Any]:
    """A random model of a family and its tokenizer."""
    words = tokenizer()
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), words.eos_token_id)
    shape = (PADDED | UNPADDED)[family]
    config = AutoConfig.for_model(family, **{**shape, "vocab_size": len(words), "initializer_range": 0.2, **ids, **more})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32), words


def model(family: str, method: dict[str, Any] | None = None, **more: Any) -> Model:
    """It, driven by a method."""
    backbone = Backbone(*causal_lm(family, **more))
    return Model(make_method(method or {"name": "sim_cot", "inner": {"name": "coconut"}}, backbone))
