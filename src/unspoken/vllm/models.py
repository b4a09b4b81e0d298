"""vLLM's own models, with what latents need: the last states are kept, and there may be a projection."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from vllm.model_executor.models.gemma import GemmaForCausalLM
from vllm.model_executor.models.gemma2 import Gemma2ForCausalLM
from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM
from vllm.model_executor.models.gpt2 import GPT2LMHeadModel
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from unspoken.exporters.hf_generate import project
from unspoken.exporters.vllm_format import KEY, PROJECTION, latent_config
from unspoken.vllm.state import LatentState

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class Latents(nn.Module):
    """Mixed into a model of vLLM's, before its class. Runs in model runner V2 only (`unspoken/vllm/checks.py`)."""

    last_states: Tensor  # see `Thinker`

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        model = vllm_config.model_config
        self.layers = latent_config(getattr(model.hf_config, KEY, None), model.model)["projection"]
        self.tensors: dict[str, Tensor] = {}

    @staticmethod
    def get_model_state_cls() -> type[LatentState]:
        """Asked by vLLM."""
        return LatentState

    def project(self, hidden_nD: Tensor) -> Tensor:
        """The latents that states become."""
        return project(self.layers, self.tensors, hidden_nD)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """The logits, as ever; the states are kept for the sampler, which is called next."""
        self.last_states = hidden_states
        return super().compute_logits(hidden_states)  # pyright: ignore[reportAttributeAccessIssue] -- of the class mixed into

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the model's weights, and keep those of the projection apart.

        Raises:
            ValueError: the projection is not whole.
        """
        device = torch.get_default_device()

        def own() -> Iterable[tuple[str, Tensor]]:
            for name, weight in weights:
                if name.startswith(PROJECTION):
                    self.tensors[name.removeprefix(PROJECTION)] = weight.to(device, copy=True)
                else:
                    yield name, weight

        loaded: set[str] = super().load_weights(own())  # pyright: ignore[reportAttributeAccessIssue]
        names = {f"{n}.{part}" for n, layer in enumerate(self.layers) for part in layer["tensors"]}
        if names != set(self.tensors):
            raise ValueError(
                f"the projection's tensors do not fit config.json: expected {sorted(names)}, got {sorted(self.tensors)}; "
                "export the run again"
            )
        place = next(self.parameters()).device
        self.tensors = {name: tensor.to(place) for name, tensor in self.tensors.items()}
        return loaded


class UnspokenLlamaForCausalLM(Latents, LlamaForCausalLM):
    """Llama with latents."""


class UnspokenMistralForCausalLM(Latents, MistralForCausalLM):
    """Mistral with latents."""


class UnspokenQwen2ForCausalLM(Latents, Qwen2ForCausalLM):
    """Qwen2 with latents."""


class UnspokenQwen3ForCausalLM(Latents, Qwen3ForCausalLM):
    """Qwen3 with latents."""


class UnspokenGemmaForCausalLM(Latents, GemmaForCausalLM):
    """Gemma with latents."""


class UnspokenGemma2ForCausalLM(Latents, Gemma2ForCausalLM):
    """Gemma 2 with latents."""


class UnspokenGemma3ForCausalLM(Latents, Gemma3ForCausalLM):
    """Gemma 3, the part that reads text, with latents."""


class UnspokenGPT2LMHeadModel(Latents, GPT2LMHeadModel):
    """GPT-2 with latents."""
