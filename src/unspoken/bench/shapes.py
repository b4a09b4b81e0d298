"""Models to measure: a well-known shape with random weights, or a model from a folder."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch

from unspoken.core.fast.activations import fuse_activations
from unspoken.core.fast.cpu_linear import speed_up_linears
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.experimental.int8 import round_linears

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-small": {"model_type": "gpt2", "vocab_size": 50257},
    "smollm2-135m": {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "llama-1b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "small-test": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    },
}  # fmt: skip
"""Published configurations; weights are random (seed 0), which does not affect time."""

WeightKind = Literal["float32", "bfloat16", "int8"]


def backbone_of(model: str, device: torch.device) -> Backbone:
    """A shape by name, or a model from a folder, in float32 and without dropout."""
    torch.manual_seed(0)
    config = BackboneConfig(arch=SHAPES[model], tokenizer="builtin:tiny") if model in SHAPES else BackboneConfig(path=model)
    backbone = load_backbone(config)
    backbone.eval()
    return backbone.to(device)


def variant(backbone: Backbone, kind: WeightKind) -> Backbone:
    """A copy of a model as our engine uses it: float32 with fast layers, bfloat16, or 8 bits."""
    if kind == "bfloat16":
        other = copy.deepcopy(backbone).to(torch.bfloat16)
        fuse_activations(other.lm)
        speed_up_linears(other.lm)
        return other
    shared = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
    other = copy.deepcopy(backbone, shared)
    fuse_activations(other.lm)
    (round_linears if kind == "int8" else speed_up_linears)(other.lm)
    return other


def operations(backbone: Backbone) -> tuple[int, int]:
    """Multiplications and additions per position: of the body's matrices, and of the head."""
    head = backbone.lm.get_output_embeddings().weight
    matrices = sum(
        weight.numel()
        for name, module in backbone.body.named_modules()
        if (weight := getattr(module, "weight", None)) is not None
        and weight.ndim == 2
        and not isinstance(module, torch.nn.Embedding)
    )
    return 2 * matrices, 2 * head.numel()
