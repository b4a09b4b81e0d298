"""The latents of the requests that a vLLM worker serves.

Everything is a function of a token's position: for the request in slot r, `start[r]` is the position of its first latent and
`count[r]` their number, so position p is fed latent number p - start[r] if that is from 0 to count[r] - 1. No counter runs
along, so that chunked prefill, preemption, prefix caching and asynchronous scheduling need no case of their own.

    sampler      the state behind position p becomes latent number p + 1 - start, if there is such a one; vLLM is told the
                 slot's token in its place. Around the latents it is told the markers, whatever was sampled.
    next step    embeds all tokens, and puts latents over those of slots.

A rule that ends thoughts early makes `count[r]` smaller when the latent is made that is to be the last.

Shapes: n requests of a step, N tokens, R slots for requests, M most latents of a request, D width.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from unspoken.exporters.vllm_format import KEY, latent_config
from unspoken.vllm.checks import LATENTS, NOISE, NOISE_SEED, stop_rule

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
"""Requests that lost their slot keep their latents until so many others per slot have lost theirs, ended ones included: a
worker is not told which of them will come back."""


class Thinker(Protocol):
    """A model of vLLM's that can think (`unspoken/vllm/models.py`).

    Attributes:
        last_states: [n, D], after the final norm: what logits were last asked for, one row per request of the step.
    """

    last_states: Tensor

    def project(self, hidden_nD: Tensor) -> Tensor: ...
    def embed_input_ids(self, input_ids: Tensor) -> Tensor: ...


class LatentState(DefaultModelState):
    """vLLM's state of a model, with latents. See the module's docstring."""

    def __init__(
        self, vllm_config: VllmConfig, model: Thinker, encoder_cache: EncoderCache | None, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        latent = latent_config(getattr(self.model_config.hf_config, KEY, None), self.model_config.model)
        self.usual, self.most, self.slot = latent["latents"], latent["most"], latent["slot"]
        self.group = latent["group"]
        self.before, self.after = latent["before"], latent["after"]
        R, D = self.max_num_reqs, self.inputs_embeds_size
        self.said = self._whole([*self.before, self.slot, *self.after])
        self.latents_RMD = torch.zeros(R, self.most, D, dtype=self.dtype, device=device)
        self.first_R, self.start_R, self.count_R = (self._whole([0] * R) for _ in range(3))
        self.noise_RMD: Tensor | None = None  # made when a request first asks for it
        self.change_R = torch.full((R,), -1.0, device=device)  # at which thoughts end early; negative: never
        self.stops = False  # whether any request has asked for that so far
        if not hasattr(self, "inputs_embeds"):  # with prompt embeds it is there
            self.inputs_embeds = torch.zeros(self.max_num_tokens, D, dtype=self.dtype, device=device)
        self.places: dict[str, int] = {}
        self.kept: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()  # latents [M, D] and their number
        self.returned = 0  # requests that got their latents back

    def _whole(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    # requests

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """A request, new or preempted before, gets a slot.

        Raises:
            RuntimeError: it was preempted after it had begun to think, and its latents are no longer there.
        """
        super().add_request(req_index, new_req_data)
        given = (new_req_data.sampling_params and new_req_data.sampling_params.extra_args) or {}
        prompt = new_req_data.prompt_token_ids or []
        opened = not self.before or (new_req_data.prompt_embeds is None and prompt[-len(self.before) :] == self.before)
        length = len(prompt) or new_req_data.prompt_len  # vLLM 0.26 has no `prompt_len`, and always the tokens
        count = self.usual if given.get(LATENTS) is None else int(given[LATENTS])
        self.first_R[req_index] = length
        self.start_R[req_index] = length + (0 if opened else len(self.before))
        self.count_R[req_index] = count
        self.places[new_req_data.req_id] = req_index
        self._set_noise(req_index, given)
        change = stop_rule(given)
        self.stops = self.stops or change is not None
        self.change_R[req_index] = -1.0 if change is None else change
        kept = self.kept.pop(new_req_data.req_id, None)
        if kept is not None:
            self.latents_RMD[req_index], self.count_R[req_index] = kept
            self.returned += 1
        elif count and len(new_req_data.prefill_token_ids or ()) > length:
            raise RuntimeError(
                f"the latents of request {new_req_data.req_id}, which was preempted, have been given up since; it cannot "
                "go on. Give the engine more KV cache (--gpu-memory-utilization, VLLM_CPU_KVCACHE_SPACE) or fewer requests "
                "at a time (--max-num-seqs)"
            )

    def _set_noise(self, place: int, given: Mapping[str, Any]) -> None:
        """Draw a request's noise [M, D]: on the CPU and from its own seed, so that every worker draws the same."""
        scale = float(given.get(NOISE) or 0.0)
        if self.noise_RMD is None:
            if not scale:
                return
            self.noise_RMD = torch.zeros_like(self.latents_RMD)
        if not scale:
            self.noise_RMD[place].zero_()
            return
        stream = torch.Generator().manual_seed(int(given.get(NOISE_SEED, 0)) % (1 << 63))
        drawn_MD = torch.randn(self.latents_RMD.shape[1:], generator=stream) * scale
        self.noise_RMD[place] = drawn_MD.to(self.noise_RMD)

    def remove_request(self, req_id: str) -> None:
        """A request ends or is preempted; which of the two, vLLM does not say here."""
        super().remove_request(req_id)
        place = self.places.pop(req_id, None)
        if place is None:
            return
        self.kept[req_id] = self.latents_RMD[place].clone(), self.count_R[place].clone()
        while len(self.kept) > max(KEPT_PER_SLOT * self.max_num_reqs, 256):
            self.kept.popitem(last=False)

    # a step

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        """What the model's forward gets beside ids and positions: embeddings, with latents in their slots."""
        inputs = super().prepare_inputs(input_batch, req_states)
        N = input_batch.num_tokens
        if not self.model_config.enable_prompt_embeds:  # else `prepare_inputs_embeds` has filled the buffer
            self.inputs_embeds[:N] = self.model.embed_input_ids(input_batch.input_ids[:N])
        self._put_latents(input_batch, N)
        inputs["inputs_embeds"] = self.inputs_embeds[: input_batch.num_tokens_after_padding]
        return inputs

    def _put_latents(self, input_batch: InputBatch, N: int) -> None:
        n = input_batch.num_reqs
        ends_n = input_batch.query_start_loc[1 : n + 1].long()
        request_N = torch.searchsorted(ends_n, torch.arange(N, device=self.device), right=True)
        place_N = input_batch.idx_mapping[:n].long()[request_N]
        number_N = input_batch.positions[:N] - self.start_R[place_N]
        latent_N = (number_N >= 0) & (number_N < self.count_R[place_N])
        latents_ND = self.latents_RMD[place_N, number_N.clamp(0, self.most - 1)]
        self.inputs_embeds[:N] = torch.where(latent_N[:, None], latents_ND, self.inputs_embeds[:N])

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """The same buffer, which a CUDA graph that is recorded now will read later."""
        inputs = super().prepare_dummy_inputs(num_reqs, num_tokens)
        inputs["inputs_embeds"] = self.inputs_embeds[:num_tokens]
        return inputs

    def custom_sampler(self, sampler: Sampler) -> tuple[LatentSampler, None]:
        """The sampler, which is told what to say while a request thinks."""
        return LatentSampler(sampler, self), None

    def next_latents(self, hidden_nD: Tensor, place_n: Tensor, number_n: Tensor) -> Tensor:
        """The latents that states become, noise included."""
        made_nD = self.model.project(hidden_nD).to(self.dtype)
        if self.noise_RMD is not None:
            size_n1 = made_nD.float().square().mean(dim=1, keepdim=True).sqrt().to(self.dtype)
            made_nD = made_nD + size_n1 * self.noise_RMD[place_n, number_n]
        return made_nD

    def _enough(self, made_nD: Tensor, place_n: Tensor, number_n: Tensor) -> Tensor:
        """Which of the latents just made hardly differ from those before them; only at the end of a group."""
        before_nD = self.latents_RMD[place_n, (number_n - 1).clamp(min=0)].float()
        moved_n, size_n = (made_nD.float() - before_nD).norm(dim=1), made_nD.float().norm(dim=1)
        asked_n = (number_n > 0) & ((number_n + 1) % self.group == 0)
        change_n = self.change_R[place_n]
        return asked_n & (change_n >= 0) & (moved_n <= change_n * size_n)

    def think(self, hidden_nD: Tensor, sampled_n: Tensor, counts_n: Tensor, batch: InputBatch) -> Tensor:
        """Keep the latents that states become, and say what is said in their place.

        Args:
            hidden_nD: after the final norm, of each request's last position in this step.
            sampled_n: the tokens that would be said.
            counts_n: 0 for a request whose prompt goes on in the next step, else 1.
            batch: vLLM's account of the step.

        Returns:
            The tokens that are said.
        """
        place_n = batch.idx_mapping[: batch.num_reqs].long()
        next_n = batch.positions[batch.logits_indices].long() + 1
        step_n, count_n = next_n - self.start_R[place_n], self.count_R[place_n]
        number_n = step_n.clamp(0, self.most - 1)
        thinks_n = (step_n >= 0) & (step_n < count_n)
        writes_n1 = (thinks_n & (counts_n > 0))[:, None]
        made_nD = self.next_latents(hidden_nD, place_n, number_n)
        old_nD = self.latents_RMD[place_n, number_n]
        if self.stops:
            last_n = writes_n1[:, 0] & self._enough(made_nD, place_n, number_n)
            self.count_R[place_n] = torch.where(last_n, step_n + 1, count_n)
        self.latents_RMD[place_n, number_n] = torch.where(writes_n1, made_nD, old_nD)
        # Numbers in `said`: before, the slot, after.
        opening, closing = len(self.before), len(self.after)
        behind_n = opening + 1 + step_n - count_n
        said_n = torch.where(step_n < 0, step_n + opening, torch.where(thinks_n, opening, behind_n))
        given_n = (next_n >= self.first_R[place_n]) & (step_n < count_n + closing)
        return torch.where(given_n, self.said[said_n.clamp(0, len(self.said) - 1)].to(sampled_n.dtype), sampled_n)


class LatentSampler:
    """vLLM's sampler, around which latents are made. Everything else of it is passed on.

    Args:
        sampler: vLLM's.
        state: whose latents.
    """

    def __init__(self, sampler: Sampler, state: LatentState) -> None:
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
        hidden_nD = self.state.model.last_states
        said_n = self.state.think(hidden_nD, sampled_n, out.num_sampled, input_batch)
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
