"""Soft thinking (`core/loop/soft.py`) of the requests that a vLLM worker serves.

    sampler      a request that thinks steps on: the token that is noted is what vLLM is told, and where a mixture is to be
                 fed instead, it is kept for that token's position
    next step    embeds all tokens, and puts the mixtures over those of their positions

A rule needs the entropy of each step on the host, so a step with soft requests in it waits for its own logits. What was said
at a position is noted once: whoever comes to the same position again, behind a preemption, is told the same.

Shapes: n requests of a step, N tokens, R slots for requests, V words, D width.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# vLLM has an environment of its own (`make test-vllm`).

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vllm.tokenizers import cached_tokenizer_from_config

from unspoken.core.loop.soft import SoftChain, SoftPlan, feed_back
from unspoken.exporters.vllm_format import SOFT_USUAL
from unspoken.vllm.fed import KEPT_PER_SLOT, Fed, FedState, lost, prompt_length
from unspoken.vllm.soft_checks import mark_of, soft_thinking

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache

KEPT_BYTES = 2 * 2**30
"""Most memory of the host for the mixtures of requests that lost their slot: 8,000 steps of a width of 4,096 are 64 MB."""


class ModelWords:
    """The words of vLLM's model, as soft thinking needs them.

    Args:
        model: of vLLM's.
        about: its settings.
    """

    def __init__(self, model: Fed, about: ModelConfig) -> None:
        self.model, self.tokenizer = model, cached_tokenizer_from_config(about)
        more = (about.try_get_generation_config() or {}).get("eos_token_id")
        ids = [self.tokenizer.eos_token_id, *([more] if isinstance(more, int) else more or [])]
        self.eos_ids = tuple(dict.fromkeys(number for number in ids if number is not None))

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, without the tokenizer's own around it."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> what the model is fed for them [..., D]."""
        return self.model.embed_input_ids(ids.flatten()).view(*ids.shape, -1)


@dataclass(kw_only=True)
class Thinking:
    """The thinking of a request.

    Attributes:
        chain: decides each step.
        first: position of the first token behind the prompt.
        said: what was said there and behind it, while it thinks.
        fed: the mixtures on the host [D], by their number among `said`.
        refed: it came back, and its mixtures are fed once more.
    """

    chain: SoftChain
    first: int
    said: list[int] = field(default_factory=list)
    fed: dict[int, Tensor] = field(default_factory=dict)
    refed: bool = False


class SoftState(FedState):
    """vLLM's state of a model that may think softly. See the module's docstring."""

    def __init__(
        self, vllm_config: VllmConfig, model: Fed, encoder_cache: EncoderCache | None, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        R, D = self.max_num_reqs, self.inputs_embeds_size
        self.words, self.mark = ModelWords(model, self.model_config), mark_of(self.model_config)
        self.usual: str | None = getattr(self.model_config.hf_config, SOFT_USUAL, None)
        self.next_RD = torch.zeros(R, D, dtype=self.dtype, device=device)  # the mixture of each slot's newest token
        self.at_R = torch.full((R,), -1, dtype=torch.int64, device=device)  # its position; negative: there is none
        self.thinking: dict[int, Thinking] = {}  # by slot
        self.kept: OrderedDict[str, Thinking] = OrderedDict()
        self.kept_mixtures, self.most_mixtures = 0, KEPT_BYTES // (D * self.dtype.itemsize)
        self.returned = 0  # requests that got their thinking back

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """A request, new or preempted before, gets a slot.

        Raises:
            RuntimeError: it was preempted while it was thinking, and what it thought is no longer there.
        """
        super().add_request(req_index, new_req_data)
        self.thinking.pop(req_index, None)
        self.at_R[req_index] = -1
        params = new_req_data.sampling_params
        how = None if params is None else soft_thinking(params.extra_args or {}, self.usual, self.mark)
        if params is None or how is None:
            return
        known = self.kept.pop(new_req_data.req_id, None)
        prompt = prompt_length(new_req_data)
        if known is None:
            if len(new_req_data.prefill_token_ids or ()) > prompt:
                raise lost(new_req_data.req_id)
            plan = SoftPlan.of(self.words, how, self.mark)
            known = Thinking(chain=SoftChain(plan, params.max_tokens or self.max_model_len), first=prompt)
        else:
            self.kept_mixtures -= len(known.fed)
            known.refed = True
            self.returned += 1
        self.thinking[req_index] = known

    def remove_request(self, req_id: str) -> None:
        """A request ends or is preempted; which of the two, vLLM does not say here."""
        super().remove_request(req_id)
        known = self.thinking.pop(self.places.pop(req_id, -1), None)
        if known is None:
            return
        self.kept[req_id] = known
        self.kept_mixtures += len(known.fed)
        most = max(KEPT_PER_SLOT * self.max_num_reqs, 256)
        while len(self.kept) > most or (len(self.kept) > 1 and self.kept_mixtures > self.most_mixtures):
            self.kept_mixtures -= len(self.kept.popitem(last=False)[1].fed)

    def put(self, input_batch: InputBatch, place_N: Tensor) -> None:
        """Mixtures at their positions: the newest, and all of a request that came back."""
        if not self.thinking:
            return
        N = len(place_N)
        mixed_N = input_batch.positions[:N] == self.at_R[place_N]
        self.inputs_embeds[:N] = torch.where(mixed_N[:, None], self.next_RD[place_N], self.inputs_embeds[:N])
        for n, place in enumerate(input_batch.idx_mapping_np[: input_batch.num_reqs].tolist()):
            known = self.thinking.get(place)
            if known is None or not known.refed:
                continue
            begin, end = (int(input_batch.query_start_loc_np[n + more]) for more in (0, 1))
            numbers = [position - known.first for position in input_batch.positions[begin:end].tolist()]
            for at, number in enumerate(numbers):
                if (vector_D := known.fed.get(number)) is not None:
                    self.inputs_embeds[begin + at] = vector_D.to(self.inputs_embeds)
            known.refed = not numbers or numbers[-1] < len(known.said) - 1

    def say(self, logits_nV: Tensor, sampled_n: Tensor, counts_n: Tensor, batch: InputBatch) -> Tensor:
        """Step on with the requests that think softly; the others say what was sampled."""
        place_n = batch.idx_mapping_np[: batch.num_reqs].tolist()
        mine = {n: one for n, place in enumerate(place_n) if (one := self.thinking.get(place)) is not None}
        mine = {n: one for n, one in mine.items() if not one.chain.over or one.refed}
        if not mine:
            return sampled_n
        counts, sampled = counts_n.tolist(), sampled_n.tolist()
        next_n = (batch.positions[batch.logits_indices].long() + 1).tolist()
        number_n = {n: next_n[n] - one.first for n, one in mine.items() if counts[n]}
        chains = {n: mine[n].chain for n, number in number_n.items() if number == len(mine[n].said)}
        fed = feed_back(self.words, chains, logits_nV, sampled)
        made = {n: vector_D for n, (_, vector_D) in enumerate(fed) if vector_D is not None}
        if made:  # one copy to the host for all
            for n, vector_D in zip(made, torch.stack(list(made.values())).cpu(), strict=True):
                mine[n].fed[number_n[n]] = vector_D
        for n, number in number_n.items():
            one = mine[n]
            if n in chains:
                one.said.append(fed[n][0])
            if number >= len(one.said):  # its thinking was over
                continue
            sampled[n] = one.said[number]
            vector_D = made.get(n, one.fed.get(number))
            self.at_R[place_n[n]] = -1 if vector_D is None else next_n[n]
            if vector_D is not None:
                self.next_RD[place_n[n]] = vector_D.to(self.next_RD)
        return sampled_n.new_tensor(sampled)
