"""Mixed requests for queues, and a model whose answers end at many lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from support import backbones

from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.row import IGNORE, Row

GREEDY = SamplingParams(max_new_tokens=24)
SAMPLED = SamplingParams(max_new_tokens=24, temperature=1.0, seed=3)


MIXED = [
    ("gpt2", GREEDY, 1), ("gpt2", SAMPLED, 32), ("llama", GREEDY, 3), ("llama", SAMPLED, 1),
    ("qwen3", GREEDY, 32), ("qwen3", SAMPLED, 3), ("nanochat", GREEDY, 3), ("nanochat", SAMPLED, 32),
]  # fmt: skip
"""Families, ways to speak and numbers of slots: each family speaks both ways, and each number of slots meets both."""


def row(rng: np.random.Generator, length: int, latents: int, name: str = "", head: tuple[int, ...] = ()) -> Row:
    """A prompt of random tokens: some, then latents, then an end."""
    ids = (*head, *rng.integers(1, len(backbones.tokenizer()), length).tolist())
    start = len(ids) if latents == 0 else int(rng.integers(len(head) + 1, len(ids)))
    ids = (*ids[:start], *(0,) * latents, *ids[start:])
    return Row(ids=ids, labels=(IGNORE,) * len(ids), start=start, latents=latents, name=name)


def many_rows(count: int = 32, **more: Any) -> list[Row]:
    """Mixed lengths, 0 to 13 latents."""
    rng = np.random.default_rng(0)
    return [row(rng, int(rng.integers(2, 60)), i % 14, f"row {i}", **more) for i in range(count)]


def speaker(family: str) -> Backbone:
    """A backbone whose answers have many lengths: one token in sixteen ends them."""
    backbone = backbones.backbone(family)
    backbone.lm.generation_config.eos_token_id = list(range(3, backbone.vocabulary, 16))
    return backbone


def ask(
    backbone: Backbone, rows: list[Row], speaking: SamplingParams = GREEDY, source: Any = None, **how: Any
) -> tuple[list[Any], Scheduler]:
    """What a queue says to rows, in their order."""
    queue = Scheduler(backbone, source or Recurrence(), **how)
    numbers = queue.run([Request(row=r, speaking=speaking, number=i) for i, r in enumerate(rows)])
    return [queue.done[n] for n in numbers], queue
