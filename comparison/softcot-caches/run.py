"""What SoftCoT's caches save: one training step with and without them, on a CPU, in one run.

    python comparison/softcot-caches/run.py --base DIR [--tasks gsm8k] [--shots 0 3] [--steps 5]

DIR holds a pretrained model (studies/get_smollm2.py makes one). The assistant has its tokenizer and random
weights: how long a step takes does not depend on them. The tasks' data is found as always (docs/tasks.md). The same rows
go through three steps in turns:

    caches     states from disk, the prompt up to the slots from memory
    no caches  the assistant runs, and the prompt up to the slots is read, without gradient
    plain      the assistant runs, and one pass with gradient reads everything, as the released code does

and the gradients of the projection are held against each other. Writes table.json beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from unspoken.core.fast.switch import FastConfig, using
from unspoken.core.files import write_text
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.lm.prefix_cache import PrefixCache
from unspoken.core.loop.loop import unroll
from unspoken.core.losses import labelled_cross_entropy_sum
from unspoken.core.provenance import provenance
from unspoken.core.rows.batch import Batch, collate, windows_by_length
from unspoken.core.text.example import Example
from unspoken.core.text.prompts import TEXTS, SoftTexts
from unspoken.methods import make_method
from unspoken.tasks import make_task, task_config

BATCH = 4  # README of xuyige/SoftCoT
SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6,
         "num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True}  # fmt: skip


BARE = FastConfig(states=None, prefix_gb=0.0)
"""Without caches."""


def method_on(backbone: Any, base: str, texts: SoftTexts, latents: int, fast: FastConfig) -> Any:
    """SoftCoT with the same projection every time."""
    torch.manual_seed(0)
    assistant = {"arch": {"model_type": "llama", **SMALL}, "tokenizer": base}
    data = {"name": "softcot", "assistant": assistant, "latents": latents, "texts": texts}
    with using(fast):
        return make_method(data, backbone).train()


def texts_with(examples: Sequence[Example]) -> SoftTexts:
    """The prompt for arithmetic, behind worked examples."""
    texts = TEXTS["math"]
    told = [f"Problem: {e.question}\n{texts.written(e, steps=True)}\n\n" for e in examples]
    return replace(texts, base="".join(told) + texts.base)


def plain(method: Any, batch: Batch) -> Any:
    """Everything in one pass, and gradient through all of it."""
    trace = unroll(method.backbone, batch, method.source())
    return labelled_cross_entropy_sum(trace, batch, method.backbone.logits) / float(method.counts(batch)["answer"])


def without_caches(method: Any, batch: Batch) -> Any:
    """A method's own loss, what was read before being read again."""
    with using(BARE):
        return method(batch, method.counts(batch)).total


def step(method: Any, batch: Batch, loss: Any) -> tuple[float, torch.Tensor]:
    """Seconds of CPU time of forward and backward, and the gradient.

    CPU time, because the machine may be shared: on an idle one a single thread's is the wall-clock time.
    """
    method.zero_grad(set_to_none=True)
    began = time.process_time()
    loss(method, batch).backward()
    seconds = time.process_time() - began
    return seconds, torch.cat([p.grad.flatten() for p in method.projection.parameters()])


def measure(backbone: Any, base: str, task: str, shots: int, latents: int, steps: int) -> dict[str, Any]:
    """Medians over `steps` batches, each read once before it is timed."""
    examples = make_task(task_config(task)).examples("train")
    texts, examples = texts_with(examples[-shots:] if shots else []), examples[: steps * BATCH]
    seconds: dict[str, list[float]] = {"caches": [], "no caches": [], "plain": []}
    apart: dict[str, list[float]] = {"no caches": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder:
        with_caches = FastConfig(states=folder, prefix_gb=4.0)
        backbone.prefixes = PrefixCache(backbone.lm, with_caches.prefix_gb)
        cached = method_on(backbone, base, texts, latents, with_caches)
        bare = method_on(backbone, base, texts, latents, BARE)
        assert torch.equal(cached.projection.weight, bare.projection.weight)
        ways = {
            "caches": (cached, lambda m, b: m(b, m.counts(b)).total),
            "no caches": (bare, without_caches),
            "plain": (bare, plain),
        }
        laid = [cached.layout(e, cached.curriculum().last, Random(0)) for e in examples]
        numbers = windows_by_length([row.positions for row in laid], range(len(laid)), BATCH, 50)  # as training does
        batches = [collate([laid[i] for i in batch]) for batch in numbers]
        for batch in batches:  # the first epoch, in which the caches are filled
            step(cached, batch, ways["caches"][1])
        for batch in batches:
            gradients = {}
            for name, (method, loss) in ways.items():
                taken, gradients[name] = step(method, batch, loss)
                seconds[name].append(taken)
            want = gradients["caches"]
            for name in apart:
                apart[name].append(float((gradients[name] - want).abs().max() / want.abs().max()))
    before = statistics.mean(row.start for row in laid)
    behind = statistics.mean(len(row.ids) - row.start for row in laid)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "task": task,
        "worked_examples": shots,
        "latents": latents,
        "positions_before_slots": round(before, 1),
        "positions_from_slots_on": round(behind, 1),
        "assistant_positions": round(statistics.mean(row.positions_elsewhere(0, 0) for row in laid), 1),
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "times_faster_than_no_caches": round(medians["no caches"] / medians["caches"], 2),
        "times_faster_than_plain": round(medians["plain"] / medians["caches"], 2),
        "largest_gradient_difference": {name: max(values) for name, values in apart.items()},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tasks", nargs="+", default=["gsm8k"])
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 3], help="worked examples in the base model's prompt")
    parser.add_argument("--latents", type=int, nargs="+", default=[32, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone(BackboneConfig(path=args.base))
    found = []
    for task, shots, latents in itertools.product(args.tasks, args.shots, args.latents):
        found.append(measure(backbone, args.base, task, shots, latents, args.steps))
        print(json.dumps(found[-1]), flush=True)
    weights = sum(p.numel() for p in backbone.lm.parameters())
    about = {"base_weights": weights, "batch": BATCH, "steps": args.steps, "threads": args.threads, "assistant": SMALL}
    table = {**about, "measured": found, "environment": provenance()}
    write_text(Path(__file__).parent / "table.json", json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
