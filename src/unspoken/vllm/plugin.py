"""What vLLM calls when it starts."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from vllm import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP
from vllm.reasoning import ReasoningParserManager

from unspoken.exporters.vllm_format import FAMILIES, PREFIX, SOFT_PREFIX
from unspoken.vllm.checks import LatentModelConfig
from unspoken.vllm.soft_checks import SoftModelConfig


def register() -> None:
    """Tell vLLM of the model classes, of what is checked when one of them is served, and of the reasoning parser."""
    for family in FAMILIES:
        ModelRegistry.register_model(SOFT_PREFIX + family, f"unspoken.vllm.soft_models:{SOFT_PREFIX}{family}")
        MODELS_CONFIG_MAP[SOFT_PREFIX + family] = SoftModelConfig
        ModelRegistry.register_model(PREFIX + family, f"unspoken.vllm.models:{PREFIX}{family}")
        MODELS_CONFIG_MAP[PREFIX + family] = LatentModelConfig
    ReasoningParserManager.register_lazy_module("unspoken", "unspoken.vllm.reasoning", "LatentReasoningParser")
