"""The tables of a causal LM, with their types: of a module's attributes torch itself says that each may be a tensor or a
module.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel


def input_table(lm: PreTrainedModel) -> nn.Embedding:
    """The module that gives tokens their vectors: `weight` is [V, D]."""
    return cast("nn.Embedding", lm.get_input_embeddings())


def output_head(lm: PreTrainedModel) -> nn.Linear:
    """The module that gives states their logits: `weight` is [V, D], `bias` [V] or None."""
    return cast("nn.Linear", lm.get_output_embeddings())


def text_config(lm: PreTrainedModel) -> Any:
    """The config of the part that reads and writes text. What its fields are is up to the model's family."""
    return lm.config.get_text_config()
