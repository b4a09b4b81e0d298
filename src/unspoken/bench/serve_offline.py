"""`unspoken bench serve-offline`: a queue of mixed requests, continuously batched against static batches.

Both sides are ours, with the same weights, rows at a time, and answers. The static one is the loop that also trains
(`core/loop/loop.py`): batches of similar rows, the longest first, in which rows can finish but none can join. Answers have
random lengths and do not end at eos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unspoken.bench import paired
from unspoken.bench.shapes import WeightKind, backbone_of, operations, variant
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.loading import device_or_gpu
from unspoken.core.loop.loop import Loop
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.loop.trace import Cost
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import unlabelled
from unspoken.errors import ConfigError


@dataclass(kw_only=True)
class Served:
    """The result of a side: tokens per request, cost, and peak bytes of keys and values."""

    tokens: list[list[int]]
    cost: Cost
    cache_bytes: int


def mixed(
    count: int,
    words: int,
    prompts: tuple[int, int] = (20, 200),
    latents: tuple[int, int] = (0, 12),
    answers: tuple[int, int] = (2, 60),
    seed: int = 0,
) -> list[Request]:
    """Random requests; bounds are inclusive. Prompts are random tokens, with the latents before the last of them."""
    rng = np.random.default_rng(seed)
    requests = []
    for number in range(count):
        length, thoughts, said = (int(rng.integers(low, high + 1)) for low, high in (prompts, latents, answers))
        text = rng.integers(1, words, length).tolist()
        ids = (*text[:-1], *(0,) * thoughts, text[-1])
        start = length - 1 if thoughts else len(ids)
        row = unlabelled(ids, start=start, latents=thoughts, num_eos=10**9)
        requests.append(Request(row=row, speaking=SamplingParams(max_new_tokens=said), number=number))
    return requests


class _Watched(Loop):
    """The loop, with an eye on its cache."""

    most = 0

    def _pass(self, take_b: np.ndarray) -> None:
        super()._pass(take_b)
        layers: Any = self.cache.layers
        self.most = max(self.most, sum(layer.keys.nbytes + layer.values.nbytes for layer in layers))


@torch.inference_mode()
def static(backbone: Backbone, requests: Sequence[Request], rows: int) -> Served:
    """Batches from start to end, by number of latents and length."""
    order = sorted(range(len(requests)), key=lambda i: (requests[i].row.latents, len(requests[i].row.ids)), reverse=True)
    tokens: dict[int, list[int]] = {}
    cost, most = Cost(), 0
    every = frozenset(range(backbone.vocabulary))
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        limits = [requests[i].speaking.max_new_tokens for i in chosen]
        batch = collate([requests[i].row for i in chosen]).to(backbone.device)
        batch.num_eos_B[:] = limits
        loop = _Watched(backbone, batch, Recurrence(), speaking=SamplingParams(max_new_tokens=max(limits)), numbers=chosen)
        loop.eos = every  # each token counts as an end, of which a row speaks as many as it may
        trace, speech = loop.run()
        tokens |= dict(zip(chosen, speech.tokens, strict=True))
        cost.passes += trace.cost.passes
        cost.positions += trace.cost.positions
        cost.slots += trace.cost.slots
        most = max(most, loop.most)
    return Served(tokens=[tokens[i] for i in range(len(requests))], cost=cost, cache_bytes=most)


def continuous(backbone: Backbone, requests: Sequence[Request], rows: int, chunk: int = 512) -> Served:
    """The queue."""
    queue = Scheduler(backbone, Recurrence(), slots=rows, chunk=chunk)
    numbers = queue.run(requests)
    return Served(
        tokens=[queue.done[n].tokens for n in numbers],
        cost=queue.cost,
        cache_bytes=queue.slots.nbytes,
    )


def run(
    model: str = "gpt2-small",
    *,
    requests: int = 256,
    rows: int = 32,
    chunk: int = 512,
    kind: WeightKind = "float32",
    rounds: int = 3,
    device: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure both.

    Args:
        model: a shape by name (`bench/shapes.py`) or a model folder.
        requests: how many; prompts of 20 to 200 tokens, 0 to 12 latents, answers of 2 to 60.
        rows: number of rows at a time, on both sides.
        chunk: see `Scheduler`.
        kind: weights of both.
        rounds: times that each side is measured; both answer a few requests before, to warm up.
        device: where; None = a GPU if there is one.
        seed: of the requests.
        progress: called with what is being done.

    Raises:
        ConfigError: a number below 1, or answers that differ between the sides.
    """
    if min(requests, rows, rounds, chunk) < 1:
        raise ConfigError("bench serve-offline needs requests, rows, chunk and rounds of at least 1")
    say = progress or (lambda _: None)
    at = device_or_gpu(device)
    say(f"making {model}")
    backbone = variant(backbone_of(model, at), kind)
    asked = mixed(requests, backbone.vocabulary, seed=seed)
    for side in (static, continuous):
        side(backbone, asked[:8], 4)
    found: dict[str, Served] = {}

    def keep(name: str, served: Served) -> None:
        found[name] = served

    sides: dict[str, Callable[[], Any]] = {
        "static": lambda: keep("static", static(backbone, asked, rows)),
        "continuous": lambda: keep("continuous", continuous(backbone, asked, rows, chunk)),
    }
    say(f"answering {requests} requests {rounds} times on both sides")
    taken = paired.paired(sides, at, rounds, warm=False)
    differ = _differ(found["static"], found["continuous"])
    if differ and kind == "float32":
        raise ConfigError(f"{differ} of {requests} answers differ between static and continuous batching; please report it")
    body, head = operations(backbone)
    rate = paired.matmul_rate(at, torch.float32)
    table = {}
    for name, one in taken.items():
        told = paired.summary(one)
        spoken = sum(map(len, found[name].tokens))
        useful = body * found[name].cost.positions + head * spoken
        table[name] = {
            **paired.counts(found[name].cost),
            "head_positions": spoken,
            "cache_bytes": found[name].cache_bytes,
            "requests_per_second": requests / told["seconds"],
            "utilisation": useful / told["seconds"] / rate,
            **told,
        }
    return {
        "bench": "serve-offline",
        "model": model,
        "kind": kind,
        "requests": requests,
        "rows": rows,
        "answers_that_differ": differ,
        "matmul_rate": rate,
        "sides": table,
        "ratios": {"static / continuous": paired.ratio(taken["static"], taken["continuous"])},
        "machine": paired.machine(torch.get_num_threads()),
    }


def _differ(batches: Served, queue: Served) -> int:
    """How many answers are not the same."""
    return sum(a != b for a, b in zip(batches.tokens, queue.tokens, strict=True))
