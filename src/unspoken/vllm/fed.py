"""What every model here needs inside vLLM's model runner: a buffer of embeddings, in which vectors stand in some tokens'
places, and a sampler that is told what is said there."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.outputs import LogprobsTensors
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
    from vllm.v1.worker.gpu.sample.output import SamplerOutput
    from vllm.v1.worker.gpu.sample.sampler import Sampler
    from vllm.v1.worker.gpu.states import RequestState

KEPT_PER_SLOT = 16
"""Requests that lost their slot keep what they thought until so many others per slot have lost theirs, ended ones included:
a worker is not told which of them will come back."""


class Fed(Protocol):
    """A model of vLLM's that is fed vectors."""

    def embed_input_ids(self, input_ids: Tensor) -> Tensor: ...


class FedState(DefaultModelState):
    """vLLM's state of a model whose requests may be fed vectors in the place of tokens.

    Shapes: n requests of a step, N tokens, D width.
    """

    def __init__(
        self, vllm_config: VllmConfig, model: Fed, encoder_cache: EncoderCache | None, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        if not hasattr(self, "inputs_embeds"):  # with prompt embeds it is there
            self.inputs_embeds = torch.zeros(
                self.max_num_tokens, self.inputs_embeds_size, dtype=self.dtype, device=self.device
            )
        self.places: dict[str, int] = {}  # of the requests that have a slot

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """A request, new or preempted before, gets a slot."""
        super().add_request(req_index, new_req_data)
        self.places[new_req_data.req_id] = req_index

    @abstractmethod
    def put(self, input_batch: InputBatch, place_N: Tensor) -> None:
        """Put vectors over the embeddings of a step's tokens, `self.inputs_embeds[:N]`.

        Args:
            input_batch: vLLM's account of the step.
            place_N: the slot of each token's request.
        """

    @abstractmethod
    def say(self, logits_nV: Tensor, sampled_n: Tensor, counts_n: Tensor, batch: InputBatch) -> Tensor:
        """Take a step's outcome, and say what is said.

        Args:
            logits_nV: of each request's last position in this step.
            sampled_n: the tokens that would be said.
            counts_n: 0 for a request whose prompt goes on in the next step, else 1.
            batch: vLLM's account of the step.
        """

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        """What the model's forward gets beside ids and positions: embeddings, with vectors in their places."""
        inputs = super().prepare_inputs(input_batch, req_states)
        N, n = input_batch.num_tokens, input_batch.num_reqs
        if not self.model_config.enable_prompt_embeds:  # else `prepare_inputs_embeds` has filled the buffer
            self.inputs_embeds[:N] = self.model.embed_input_ids(input_batch.input_ids[:N])
        ends_n = input_batch.query_start_loc[1 : n + 1].long()
        request_N = torch.searchsorted(ends_n, torch.arange(N, device=self.device), right=True)
        self.put(input_batch, input_batch.idx_mapping[:n].long()[request_N])
        inputs["inputs_embeds"] = self.inputs_embeds[: input_batch.num_tokens_after_padding]
        return inputs

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """The same buffer, which a CUDA graph that is recorded now will read later."""
        inputs = super().prepare_dummy_inputs(num_reqs, num_tokens)
        inputs["inputs_embeds"] = self.inputs_embeds[:num_tokens]
        return inputs

    def custom_sampler(self, sampler: Sampler) -> tuple[FedSampler, None]:
        """The sampler, which is told what to say while a request thinks."""
        return FedSampler(sampler, self), None


def prompt_length(new_req_data: NewRequestData) -> int:
    """Positions of a request's prompt; vLLM 0.26 has no `prompt_len`, and always the tokens."""
    return len(new_req_data.prompt_token_ids or []) or new_req_data.prompt_len


def lost(req_id: str) -> RuntimeError:
    """A request came back, and what it had thought is no longer there: an error rather than an answer from guesses."""
    return RuntimeError(
        f"the thoughts of request {req_id}, which was preempted, have been given up since; it cannot go on. Give the engine "
        "more KV cache (--gpu-memory-utilization, VLLM_CPU_KVCACHE_SPACE) or fewer requests at a time (--max-num-seqs)"
    )


class FedSampler:
    """vLLM's sampler, around which vectors are made. Everything else of it is passed on.

    Args:
        sampler: vLLM's.
        state: of the model.
    """

    def __init__(self, sampler: Sampler, state: FedState) -> None:
        self.sampler, self.state = sampler, state

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def __call__(self, logits: Tensor, input_batch: InputBatch) -> SamplerOutput:
        """Sample, then say what is said while requests think.

        Where log-probabilities are asked for, the first column is the token said, as vLLM expects; the others stay those of
        the state, so that they are the words a latent is nearest to.
        """
        out = self.sampler(logits, input_batch)
        sampled_n = out.sampled_token_ids[:, 0]
        said_n = self.state.say(logits, sampled_n, out.num_sampled, input_batch)
        if (told := out.logprobs_tensors) is not None:
            self._tell(told, logits, sampled_n, said_n)
        out.sampled_token_ids = said_n[:, None]
        return out

    @staticmethod
    def _tell(told: LogprobsTensors, logits: Tensor, sampled_n: Tensor, said_n: Tensor) -> None:
        changed_n = sampled_n != said_n
        row_n = torch.arange(len(said_n), device=said_n.device)
        logprob_n = logits.float().log_softmax(dim=-1)[row_n, said_n.long()]
        rank_n = (logits > logits[row_n, said_n.long()][:, None]).sum(dim=1)
        rank_n += 1  # as vLLM counts
        ids_n = told.logprob_token_ids[:, 0]
        told.logprob_token_ids[:, 0] = torch.where(changed_n, said_n.to(ids_n), ids_n)
        told.logprobs[:, 0] = torch.where(changed_n, logprob_n.to(told.logprobs), told.logprobs[:, 0])
        told.selected_token_ranks.copy_(
            torch.where(changed_n, rank_n.to(told.selected_token_ranks), told.selected_token_ranks)
        )
