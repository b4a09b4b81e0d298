"""`unspoken bench generate`: our engine's thinking in latents against the alternatives.

It compares Coconut's released code (one question at a time; the prompt with its latents once, with a cache that is then
dropped; for every further token everything again, the head on all positions), an explicit chain with transformers'
`generate`, and our engine. Where vLLM's environment is named, it writes the chain too, and so does our engine, so that the
engines can be told from the latents. Questions are random and lengths fixed; decoding is greedy and never ends early.

Shapes: T positions, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from unspoken.bench import paired
from unspoken.bench.shapes import WeightKind, backbone_of, operations, variant
from unspoken.bench.vllm_side import VllmSide
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.loading import device_or_gpu
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.loop.trace import Cost
from unspoken.core.rows.row import Row, unlabelled
from unspoken.errors import ConfigError


def questions(count: int, length: int, latents: int, words: int, seed: int = 0) -> list[Row]:
    """Prompts of random tokens: question, a marker, latents, a marker. Answers do not end at eos."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = (*rng.integers(1, words, length + 1).tolist(), *(0,) * latents, int(rng.integers(1, words)))
        rows.append(unlabelled(ids, start=length + 1, latents=latents, num_eos=10**9))
    return rows


@torch.inference_mode()
def released(backbone: Backbone, row: Row, answer: int) -> tuple[list[int], Cost]:
    """Answer one question like the released code: its tokens and cost."""
    cost = Cost()

    def forward(embeds_TD: Tensor, first: int, cache: DynamicCache | None) -> tuple[Tensor, Tensor]:
        cost.passes += 1
        cost.positions += len(embeds_TD)
        positions = torch.arange(first, first + len(embeds_TD), device=backbone.device)[None]
        hidden = backbone.step(embeds_TD[None], positions_BT=positions, cache=cache)[0]
        return hidden, backbone.logits(hidden)  # on every position

    embeds_TD = backbone.embed(torch.tensor(row.ids, device=backbone.device)).clone()
    cache = DynamicCache()
    hidden, logits = forward(embeds_TD[: row.start], 0, cache)
    for place in range(row.start, row.start + row.latents):
        embeds_TD[place] = hidden[-1]
        last = place == row.start + row.latents - 1
        hidden, logits = forward(embeds_TD[place:] if last else embeds_TD[place : place + 1], place, cache)
    if not row.latents:
        hidden, logits = forward(embeds_TD[row.start :], row.start, cache) if row.start < len(row.ids) else (hidden, logits)
    tokens = [int(logits[-1].argmax())]
    while len(tokens) < answer:
        embeds_TD = torch.cat([embeds_TD, backbone.embed(torch.tensor(tokens[-1:], device=backbone.device))])
        _, logits = forward(embeds_TD, 0, None)
        tokens.append(int(logits[-1].argmax()))
    cost.slots = cost.positions
    return tokens, cost


@torch.inference_mode()
def explicit(backbone: Backbone, rows: Sequence[Row], tokens: int) -> tuple[Tensor, Cost]:
    """Question -> chain and answer with `generate` of transformers, one batch."""
    ids = torch.tensor([row.ids[: row.start] for row in rows], device=backbone.device)
    out = backbone.lm.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=backbone.tokenizer.pad_token_id,
    )
    positions = len(rows) * (ids.shape[1] + tokens - 1)
    return out[:, ids.shape[1] :], Cost(passes=tokens, positions=positions, slots=positions)


def ours(
    backbone: Backbone, rows: Sequence[Row], answer: int, slots: int, graphs: bool | None = None
) -> tuple[list[list[int]], Cost]:
    """Our engine; see `Scheduler` for `graphs`."""
    queue = Scheduler(backbone, Recurrence(), slots=slots, graphs=graphs)
    numbers = queue.run([Request(row=row, speaking=SamplingParams(max_new_tokens=answer)) for row in rows])
    return [queue.done[number].tokens for number in numbers], queue.cost


def without_latents(rows: Sequence[Row]) -> list[Row]:
    """The questions alone, as the explicit chain is asked."""
    return [unlabelled(row.ids[: row.start], start=row.start, latents=0, num_eos=row.num_eos) for row in rows]


def run(
    model: str = "gpt2-small",
    *,
    latents: int = 6,
    question: int = 40,
    answer: int = 20,
    chain: int = 100,
    batches: Sequence[int] = (1, 8, 32),
    explicit_batches: Sequence[int] = (1, 32),
    kinds: Sequence[WeightKind] = ("float32",),
    rounds: int = 5,
    device: str | None = None,
    vllm: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure all sides.

    Args:
        model: a shape by name (`bench/shapes.py`) or a model folder.
        latents, question, answer, chain: lengths in tokens; `chain` is what is written instead of the latents.
        batches, explicit_batches: rows at a time, of ours and of `generate`.
        kinds: weights of our engine.
        rounds: number of measurements per side, after one warm-up.
        device: where; None = a GPU if there is one.
        vllm: the interpreter of an environment with vLLM, which then writes the chain in each of `kinds` but int8.
        progress: called with the current activity.

    Returns:
        Per side: median seconds, counts, memory, utilisation; and the ratios that `docs/speed/answering.md` quotes.

    Raises:
        ConfigError: a length or a number of rounds below 1; or our tokens differ from those of the released way.
    """
    if min(question, answer, chain, rounds, *batches, *explicit_batches) < 1 or latents < 0:
        raise ConfigError("bench generate needs lengths, batches and rounds of at least 1")
    say = progress or (lambda _: None)
    at = device_or_gpu(device)
    say(f"making {model}")
    base = backbone_of(model, at)
    rows = questions(max(*batches, *explicit_batches), question, latents, base.vocabulary)
    models = {kind: variant(base, kind) for kind in kinds}
    want, cost = released(base, rows[0], answer)
    got = {kind: ours(models[kind], rows[:1], answer, 1)[0][0] for kind in kinds}
    agree = {kind: sum(a == b for a, b in zip(want, got[kind], strict=True)) / answer for kind in kinds}
    if agree.get("float32", 1.0) < 1.0:
        raise ConfigError(f"our tokens {got['float32']} differ from the released way's, {want}; no ratio has a meaning")
    sides: dict[str, Callable[[], Any]] = {"released, 1": lambda: released(base, rows[0], answer)}
    costs: dict[str, tuple[Cost, int]] = {"released, 1": (cost, 1)}
    for size in explicit_batches:
        name = f"explicit chain, {size}"
        sides[name] = lambda size=size: explicit(base, rows[:size], chain + answer)
        positions = size * (question + chain + answer)
        costs[name] = (Cost(passes=chain + answer, positions=positions, slots=positions), size)
    for kind in kinds:
        for size in batches:
            name = f"ours, {size}" if kind == "float32" else f"ours {kind}, {size}"
            sides[name] = lambda size=size, kind=kind: ours(models[kind], rows[:size], answer, size)
            costs[name] = (ours(models[kind], rows[:size], answer, size)[1], size)
            if at.type == "cuda":  # what is gained by recording passes
                name = name.replace("ours", "ours, no graphs", 1)
                sides[name] = lambda size=size, kind=kind: ours(models[kind], rows[:size], answer, size, graphs=False)
                costs[name] = (ours(models[kind], rows[:size], answer, size, graphs=False)[1], size)
    beside: dict[str, tuple[str, str]] = {}  # a ratio's name -> its sides
    with contextlib.ExitStack() as running:
        for kind in kinds if vllm is not None else ():
            if kind == "int8":
                continue
            say(f"starting vLLM in {kind}")
            engine, written = running.enter_context(VllmSide(vllm or "", base, kind)), without_latents(rows)
            alike = [a == b for a, b in zip(engine.ask([written[0].ids], answer)[0],
                                            ours(models[kind], written[:1], answer, 1)[0][0], strict=True)]  # fmt: skip
            agree[f"vLLM {kind}"] = sum(alike) / answer
            more = "" if kind == "float32" else f" {kind}"
            for size in batches:
                theirs, mine = f"vLLM{more}, chain, {size}", f"our engine{more}, chain, {size}"
                ids = [row.ids for row in written[:size]]
                sides[theirs] = lambda engine=engine, ids=ids: engine.ask(ids, chain + answer)
                sides[mine] = lambda kind=kind, size=size, written=written: ours(
                    models[kind], written[:size], chain + answer, size
                )
                positions = size * (question + chain + answer)
                costs[theirs] = costs[mine] = (Cost(passes=chain + answer, positions=positions, slots=positions), size)
                beside |= {f"{theirs} / {other}": (theirs, other) for other in (mine, f"ours{more}, {size}")}
        say(f"measuring {len(sides)} sides, {rounds} rounds")
        taken = paired.paired(sides, at, rounds)
    body, head = operations(base)
    rate = paired.matmul_rate(at, torch.float32)
    table: dict[str, Any] = {}
    for name, one in taken.items():
        cost, size = costs[name]
        told = paired.summary(one)
        logits = cost.positions if name.startswith("released") else size * (answer + chain * ("chain" in name))
        useful = body * cost.positions + head * logits
        table[name] = {
            "questions": size,
            **paired.counts(cost),
            "positions_per_question": cost.positions / size,
            "head_positions": logits,
            "seconds_per_question": told["seconds"] / size,
            "cpu_seconds_per_question": told["cpu_seconds"] / size,
            "utilisation": useful / told["seconds"] / rate,
            **told,
        }
    ratios = {}
    for name in (n for n in sides if n.startswith("ours")):  # not "our engine", which writes
        size = costs[name][1]
        ratios[f"released / {name}"] = paired.ratio(taken["released, 1"], taken[name], size)
        if f"explicit chain, {size}" in taken:
            ratios[f"explicit chain, {size} / {name}"] = paired.ratio(taken[f"explicit chain, {size}"], taken[name])
    for name, (slow, fast) in beside.items():  # another process's processor time is not known
        ratios[name] = {"seconds": paired.ratio(taken[slow], taken[fast])["seconds"]}
    return {
        "bench": "generate",
        "model": model,
        "lengths": {"question": question, "latents": latents, "answer": answer, "chain": chain},
        "same_tokens": agree,
        "matmul_rate": rate,
        "sides": table,
        "ratios": ratios,
        "machine": paired.machine(torch.get_num_threads()),
    }
