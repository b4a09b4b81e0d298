"""Tiny random models of families beyond the three of the contract."""

from __future__ import annotations

from typing import Any

from support.backbones import tokenizer

from benchmarks.families import PADDED, UNPADDED, lm_of
from unspoken.core.lm.backbone import Backbone
from unspoken.methods import make_method
from unspoken.runs.model import Model

_FEW = "mistral qwen2 qwen3_moe gemma gemma2 granite cohere phi olmo2 smollm3 nanochat opt gpt_neox bloom"
FAMILIES = {family: PADDED[family] for family in _FEW.split()}
"""Some of them, each unlike the others in something."""


def causal_lm(family: str, **more: Any) -> tuple[Any, Any]:
    """A random model of a family and its tokenizer."""
    words = tokenizer()
    return lm_of(family, words, {**(PADDED | UNPADDED)[family], **more}), words


def model(family: str, method: dict[str, Any] | None = None, **more: Any) -> Model:
    """It, driven by a method."""
    backbone = Backbone(*causal_lm(family, **more))
    return Model(make_method(method or {"name": "sim_cot", "inner": {"name": "coconut"}}, backbone))
