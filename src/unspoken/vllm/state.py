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

from unspoken.exporters.vllm_format import KEY, latent_config
from unspoken.vllm.checks import LATENTS, NOISE, NOISE_SEED, stop_rule
from unspoken.vllm.fed import KEPT_PER_SLOT, Fed, FedState, lost, prompt_length

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache


class Thinker(Fed, Protocol):
    """A model of vLLM's that can think (`unspoken/vllm/models.py`).

    Attributes:
        last_states: [n, D], after the final norm: what logits were last asked for, one row per request of the step.
    """

    last_states: Tensor

    def project(self, hidden_nD: Tensor) -> Tensor: ...


class LatentState(FedState):
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
        length = prompt_length(new_req_data)
        count = self.usual if given.get(LATENTS) is None else int(given[LATENTS])
        self.first_R[req_index] = length
        self.start_R[req_index] = length + (0 if opened else len(self.before))
        self.count_R[req_index] = count
        self._set_noise(req_index, given)
        change = stop_rule(given)
        self.stops = self.stops or change is not None
        self.change_R[req_index] = -1.0 if change is None else change
        kept = self.kept.pop(new_req_data.req_id, None)
        if kept is not None:
            self.latents_RMD[req_index], self.count_R[req_index] = kept
            self.returned += 1
        elif count and len(new_req_data.prefill_token_ids or ()) > length:
            raise lost(new_req_data.req_id)

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

    def put(self, input_batch: InputBatch, place_N: Tensor) -> None:
        """Latents in their slots."""
        N = len(place_N)
        number_N = input_batch.positions[:N] - self.start_R[place_N]
        latent_N = (number_N >= 0) & (number_N < self.count_R[place_N])
        latents_ND = self.latents_RMD[place_N, number_N.clamp(0, self.most - 1)]
        self.inputs_embeds[:N] = torch.where(latent_N[:, None], latents_ND, self.inputs_embeds[:N])

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

    def say(self, logits_nV: Tensor, sampled_n: Tensor, counts_n: Tensor, batch: InputBatch) -> Tensor:
        """Keep the latents that states become, and say what is said in their place."""
        hidden_nD = self.model.last_states
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
