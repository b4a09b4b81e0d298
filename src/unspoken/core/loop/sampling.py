"""Choose the next token: greedily, or sampled so that a row's choice does not depend on its batch.

Shapes: N rows that speak in this pass, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from unspoken.core.config import config_class
from unspoken.errors import ConfigError


@config_class
class SamplingParams:
    """How tokens are chosen."""

    max_new_tokens: int = 64  # eos included
    temperature: float = 0.0  # 0 = greedy
    top_p: float = 1.0  # keep the smallest set of tokens with at least this probability
    top_k: int = 0  # keep the k likeliest tokens; 0 = all
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (all) or more, got {self.top_k}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")

    @property
    def shape(self) -> tuple[float, float, int]:
        """The settings that shape the distribution; rows with equal ones are sampled together."""
        return self.temperature, self.top_p, self.top_k


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams` that a call may give, by name."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


class Sampler:
    """Picks tokens. Each row draws from its own stream, seeded by (seed, the row's numbers), so that batching and the
    order in which rows finish change nothing.

    Args:
        speaking: greedy or sampled.
        numbers: what identifies each row: question, set of thoughts, sample. Rows with the same numbers and logits choose
            the same tokens. Trailing zeros are ignored, so that sample 0 of several draws the same tokens as a single
            sample would.
    """

    def __init__(self, speaking: SamplingParams, numbers: Sequence[int | tuple[int, ...]]) -> None:
        self.speaking = speaking
        self.streams = [random_stream(speaking.seed, number) for number in numbers]

    def choose(self, logits_NV: Tensor, rows_N: np.ndarray) -> Tensor:
        """Token ids [N] for the rows that speak now."""
        return choose(self.speaking, logits_NV, [self.streams[r] for r in rows_N])


def random_stream(seed: int, number: int | tuple[int, ...]) -> np.random.Generator:
    """The random stream of a row with these numbers (see `Sampler`)."""
    return np.random.default_rng((seed, *_key(number)))


def choose(speaking: SamplingParams, logits_NV: Tensor, streams_N: Sequence[np.random.Generator]) -> Tensor:
    """Token ids [N], one per row; each row draws once from its own stream, unless the choice is greedy."""
    s = speaking
    if s.temperature < torch.finfo(torch.float32).tiny:  # a float32 cannot be divided by less: greedy, as in the limit
        if logits_NV.dtype == torch.bfloat16 and logits_NV.device.type == "cpu":
            logits_NV = logits_NV.float()  # the same numbers; the search takes a quarter of the time
        return logits_NV.argmax(dim=-1)
    logits_NV = logits_NV.float()
    if s.temperature < 1e-6:  # a quotient must not overflow
        logits_NV = logits_NV - logits_NV.amax(dim=-1, keepdim=True)
    p_NV, order_NV = likely(logits_NV / s.temperature, s.top_p, s.top_k)
    total_NV = p_NV.double().cumsum(dim=-1)
    draw_N1 = total_NV.new_tensor([[stream.random()] for stream in streams_N]) * total_NV[:, -1:]
    index_N1 = torch.searchsorted(total_NV, draw_N1, right=True).clamp(max=p_NV.shape[1] - 1)
    return order_NV.gather(1, index_N1).squeeze(1)


def likely(logits_NV: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Probabilities, the largest first, and the tokens they belong to, [N, V] both; 0 for tokens that are left out.

    With `top_p`, what is left does not sum to 1.
    """
    ordered_NV, order_NV = logits_NV.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered_NV[:, top_k:] = -torch.inf
    p_NV = ordered_NV.softmax(dim=-1)
    if top_p < 1:
        before_NV = p_NV.cumsum(dim=-1) - p_NV
        p_NV = p_NV.masked_fill(before_NV >= top_p, 0.0)
    return p_NV, order_NV


def _key(number: int | tuple[int, ...]) -> tuple[int, ...]:
    """A row's numbers without trailing zeros."""
    key = number if isinstance(number, tuple) else (number,)
    last = max((i for i, part in enumerate(key) if part), default=0)
    return key[: last + 1]
