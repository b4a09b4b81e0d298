"""Whether `torch.compile` helps: a figure of docs/speed/training.md.

    python -m benchmarks.compile --threads 1 > compile.json

The body of a model as transformers has it, compiled and not, alternating in one process: forward and backward of a batch
as in a training step, and a pass of one column behind a prompt, as thinking makes them. With a GPU also in the mode that
records CUDA graphs. The seconds of compiling stand apart.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import StaticCache

from unspoken.bench import paired
from unspoken.bench.shapes import backbone_of


def training(body: Any, words: int, device: torch.device) -> Callable[[], None]:
    """Forward and backward of 8 rows of 128."""
    ids = torch.randint(0, words, (8, 128), device=device)

    def step() -> None:
        body(input_ids=ids, use_cache=False).last_hidden_state.square().mean().backward()

    return step


def column(body: Any, config: Any, words: int, rows: int, device: torch.device) -> Callable[[], None]:
    """Twenty passes of one column behind 40, into a cache that does not grow."""
    cache: Any = StaticCache(config=config, max_cache_len=64)
    ids = torch.randint(0, words, (rows, 40), device=device)
    one = torch.randint(0, words, (rows, 1), device=device)

    @torch.no_grad()
    def passes() -> None:
        cache.reset()
        body(input_ids=ids, past_key_values=cache, cache_position=torch.arange(40, device=device))
        for place in range(20):
            body(input_ids=one, past_key_values=cache, cache_position=torch.arange(40 + place, 41 + place, device=device))

    return passes


def main() -> None:
    """Both works, compiled and not."""
    options = argparse.ArgumentParser()
    options.add_argument("--model", default="gpt2-small")
    options.add_argument("--threads", type=int)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = backbone_of(given.model, device)
    modes: dict[str, Any] = {"eager": None, "compiled": "default"}
    if device.type == "cuda":
        modes["compiled, CUDA graphs"] = "reduce-overhead"
    works: dict[str, Callable[[Any], Callable[[], None]]] = {
        "training": lambda body: training(body, backbone.vocabulary, device),
        "columns, 1 row": lambda body: column(body, backbone.lm.config, backbone.vocabulary, 1, device),
        "columns, 32 rows": lambda body: column(body, backbone.lm.config, backbone.vocabulary, 32, device),
    }
    found: dict[str, Any] = {"model": given.model, "machine": paired.machine(torch.get_num_threads()), "works": {}}
    for work, make in works.items():
        sides, compiling = {}, {}
        for name, mode in modes.items():
            torch._dynamo.reset()
            sides[name] = make(backbone.body if mode is None else torch.compile(backbone.body, mode=mode))
            began = time.perf_counter()
            sides[name]()
            compiling[name] = time.perf_counter() - began
        taken = paired.paired(sides, device, given.rounds)
        found["works"][work] = {
            "first_call_seconds": compiling,
            "seconds": {name: paired.summary(one)["seconds"] for name, one in taken.items()},
            "ratios": {name: paired.ratio(taken["eager"], taken[name]) for name in sides if name != "eager"},
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
