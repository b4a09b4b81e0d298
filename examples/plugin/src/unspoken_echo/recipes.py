"""Recipes: functions that return a `RunConfig`. `unspoken train unspoken_echo.recipes:hops --out RUN`, or `echo/hops`."""

from __future__ import annotations

from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken_echo.method import EchoConfig
from unspoken_echo.task import HopsConfig

READER = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def hops() -> RunConfig:
    """Echo on Hops, from the model of 0.3 million weights that ships with unspoken. All numbers are ours."""
    return RunConfig(
        backbone=BackboneConfig(path="builtin:tiny"),
        method=EchoConfig(reader=BackboneConfig(arch=READER, tokenizer="builtin:tiny-tokenizer")),
        task=HopsConfig(),
        train=TrainConfig(epochs=8, batch_size=32, lr=1e-3, warmup_steps=20),
        speaking=SamplingParams(max_new_tokens=8),
    )
