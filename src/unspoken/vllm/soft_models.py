"""vLLM's own models, thinking softly where a request says so (`unspoken/vllm/soft_state.py`)."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from vllm.model_executor.models.gemma import GemmaForCausalLM
from vllm.model_executor.models.gemma2 import Gemma2ForCausalLM
from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM
from vllm.model_executor.models.gpt2 import GPT2LMHeadModel
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from unspoken.vllm.soft_state import SoftState


class Soft:
    """Mixed into a model of vLLM's, before its class. Runs in model runner V2 only (`unspoken/vllm/checks.py`)."""

    @staticmethod
    def get_model_state_cls() -> type[SoftState]:
        """Asked by vLLM."""
        return SoftState


class UnspokenSoftLlamaForCausalLM(Soft, LlamaForCausalLM):
    """Llama that may think softly."""


class UnspokenSoftMistralForCausalLM(Soft, MistralForCausalLM):
    """Mistral that may think softly."""


class UnspokenSoftQwen2ForCausalLM(Soft, Qwen2ForCausalLM):
    """Qwen2 that may think softly."""


class UnspokenSoftQwen3ForCausalLM(Soft, Qwen3ForCausalLM):
    """Qwen3 that may think softly."""


class UnspokenSoftGemmaForCausalLM(Soft, GemmaForCausalLM):
    """Gemma that may think softly."""


class UnspokenSoftGemma2ForCausalLM(Soft, Gemma2ForCausalLM):
    """Gemma 2 that may think softly."""


class UnspokenSoftGemma3ForCausalLM(Soft, Gemma3ForCausalLM):
    """Gemma 3, the part that reads text, that may think softly."""


class UnspokenSoftGPT2LMHeadModel(Soft, GPT2LMHeadModel):
    """GPT-2 that may think softly."""
