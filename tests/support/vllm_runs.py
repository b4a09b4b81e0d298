"""Runs around random models whose heads have a size that vLLM's attention on a CPU takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support import backbones
from transformers import AutoConfig, AutoModelForCausalLM

from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.methods import make_method, method_config
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.directory import RunDir
from unspoken.tasks import task_config

WIDE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **WIDE},
    "qwen2": {"model_type": "qwen2", **WIDE, "num_attention_heads": 2, "num_key_value_heads": 1},
    "qwen3": {"model_type": "qwen3", **WIDE},
    "mistral": {"model_type": "mistral", "sliding_window": None, **WIDE},
    "gemma": {"model_type": "gemma", **WIDE},
    "gemma2": {"model_type": "gemma2", "query_pre_attn_scalar": 32, **WIDE},
    "gemma3": {"model_type": "gemma3_text", "query_pre_attn_scalar": 32, **WIDE},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256,
             "tie_word_embeddings": False},
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "max_stage": 2},
    "codi": {"name": "codi", "projection_width": 20},
    "sim_cot": {"name": "sim_cot", "inner": {"name": "codi", "projection_width": 20}, "decoder": {"kind": "layers"}},
}


def random_run(path: Path, method: Any, base: dict[str, Any] | Path) -> Path:
    """A run around a random model that says different words to different questions.

    Args:
        path: where to.
        method: its settings.
        base: the family of a new model, or the folder of one.
    """
    saved = BackboneConfig(path=str(base), dtype="float32") if isinstance(base, Path) else None
    backbone = random_backbone(**base) if isinstance(base, dict) else load_backbone(BackboneConfig(path=str(base)))
    torch.manual_seed(1)
    made: Any = make_method(method, backbone)
    with torch.no_grad():
        tied = backbone.lm.config.tie_word_embeddings
        backbone.lm.get_input_embeddings().weight[len(backbones.tokenizer()) :].normal_(std=0.05 if tied else 0.2)
    config = RunConfig(
        backbone=saved or BackboneConfig(path="some/base-model", dtype="float32"),
        method=method_config(method),
        task=task_config("tiny"),
        train=TrainConfig(steps=1),
        speaking=SamplingParams(max_new_tokens=6),
    )
    run = RunDir(path)
    run.create(config, {"provenance": {"versions": {"unspoken": "0.2.0"}}})
    run.save_model(made, step=1, score=0.0)
    return path


def random_backbone(model_type: str, **arch: Any) -> Backbone:
    """With weights narrow enough that what rounding does in a thought does not grow from latent to latent."""
    words = backbones.tokenizer()
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), words.eos_token_id)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(words), initializer_range=0.1, **ids, **arch)
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if config.tie_word_embeddings:  # a random one repeats its last word, unless its layers outweigh that word
        for name, weight in lm.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.data *= 12
            elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                weight.data += 6
    return Backbone(lm, words)
