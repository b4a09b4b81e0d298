"""vLLM inside the test's own process, and what our engine says to the same tokens. Importable only where vLLM is."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

import unspoken
from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.loop.sampling import SamplingParams as Speaking
from unspoken.runs.model import Model

NEAR = 1e-3
"""Two words whose log-probabilities are this close may come out either way round: sums are rounded in another order."""


@contextlib.contextmanager
def engine(folder: Path, **settings: Any) -> Iterator[LLM]:
    """A vLLM of one process, which is this one: a start takes seconds, and its workers can be looked into."""
    usual = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256, "max_num_seqs": 32}
    llm = LLM(str(folder), disable_log_stats=True, distributed_executor_backend="uni", **{**usual, **settings})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def state_of(llm: LLM) -> Any:
    """The state of the model inside vLLM's worker."""
    core: Any = llm.llm_engine.model_executor
    return core.driver_worker.worker.model_runner.model_state


def preempt_often(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth step from now on, all requests lose their place."""
    scheduler: Any = llm.llm_engine.engine_core.engine_core.scheduler  # pyright: ignore[reportAttributeAccessIssue]
    step, count = llm.llm_engine.step, itertools.count(1)

    def stepped() -> Any:
        if next(count) % 5 == 0:
            while scheduler.running:
                scheduler._preempt_request(scheduler.running.pop(), time.monotonic(), drop_stale_output=True)
            scheduler.prev_step_scheduled_req_ids.clear()
        return step()

    monkeypatch.setattr(llm.llm_engine, "step", stepped)


def questions(count: int, seed: int = 0) -> list[str]:
    """Questions of many lengths, no two alike."""
    draw = random.Random(seed)
    names, things = ["Ann", "Bob", "Cleo", "Dan"], ["pens", "figs", "eggs", "maps"]
    made: dict[str, None] = {}
    while len(made) < count:
        name, thing = draw.choice(names), draw.choice(things)
        more = [f"{draw.choice(names)} finds {draw.randrange(2, 40)} {thing}." for _ in range(draw.randrange(4))]
        made[" ".join([f"{name} has {draw.randrange(2, 60)} {thing}.", *more, f"How many {thing} has {name}?"])] = None
    return list(made)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What our engine says: tokens, how far each was ahead of the second, and how many latents it thought before."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...]
    latents: int


@torch.inference_mode()
def ours(
    model: Model, asked: Sequence[str], latents: Sequence[int | None], words: int, stop: str | None = None
) -> list[Said]:
    """Our engine's greedy answers; `stop` is a rule that ends thoughts early."""
    method = model.method.at_inference
    if not supports_kv_slots(method.backbone, 128):
        return _one_by_one(model, asked, latents, words)
    speaking = Speaking(max_new_tokens=words, temperature=0.0)
    source: Any = method.source()
    scheduler = Scheduler(method.backbone, source, slots=32, decider=None if stop is None else model.stop_decider(stop))
    rows = [method.prompt(question, number) for question, number in zip(asked, latents, strict=True)]
    numbers = scheduler.run([Request(row=row, speaking=speaking, logprobs=2) for row in rows])
    said = []
    for number in numbers:
        active = scheduler.done[number]
        margins = [one.top[0][1] - one.top[1][1] for one in active.logprobs]
        thought = active.row.latents - active.skipped
        said.append(Said(tokens=tuple(active.tokens), margins=tuple(margins), latents=thought))
    return said


def _one_by_one(model: Model, asked: Sequence[str], latents: Sequence[int | None], words: int) -> list[Said]:
    """The same for a family that our scheduler cannot run; no margins, so that every token counts."""
    said = []
    for question, number in zip(asked, latents, strict=True):
        answer = model.answer([question], latents=number, max_new_tokens=words, temperature=0.0)[0]
        margins = (math.inf,) * len(answer.tokens)
        said.append(Said(tokens=answer.tokens, margins=margins, latents=model.method.prompt(question, number).latents))
    return said


def theirs(llm: LLM, asked: Sequence[str], latents: Sequence[int | None], words: int, stop: str | None = None) -> list[Any]:
    """vLLM's outputs for chats; `words` tokens after the thoughts, which end with one marker."""
    rule = {} if stop is None else {"stop_thinking": stop}
    usual = state_of(llm).usual
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=words + 1 + (usual if number is None else number),
            extra_args=rule if number is None else {"latents": number, **rule},
            skip_special_tokens=True,
        )
        for number in latents
    ]
    chats: Any = [[{"role": "user", "content": question}] for question in asked]
    return llm.chat(chats, params, use_tqdm=False)


def answer_of(output: Any, latents: int, slot: int, after: Sequence[int]) -> tuple[int, ...]:
    """The tokens behind the thoughts; the thoughts are checked to be there."""
    tokens = list(output.outputs[0].token_ids)
    thoughts = [slot] * latents + list(after)
    assert tokens[: len(thoughts)] == thoughts
    return tuple(tokens[len(thoughts) :])


def same(want: Said, got: tuple[int, ...]) -> bool | None:
    """Whether answers are alike; None where they part at two words as likely as each other."""
    if want.tokens == got:
        return True
    place = next((n for n, (a, b) in enumerate(zip(want.tokens, got, strict=False)) if a != b), None)
    return None if place is not None and want.margins[place] < NEAR else False


def compare(
    model: Model,
    llm: LLM,
    asked: Sequence[str],
    latents: Sequence[int | None],
    words: int = 6,
    stop: str | None = None,
) -> list[Any]:
    """Assert that vLLM answers as our engine does, token for token; at most 1 answer in 50 may part at a tie."""
    state = state_of(llm)
    want = ours(model, asked, latents, words, stop)
    outputs = theirs(llm, asked, latents, words, stop)
    alike = [
        same(said, answer_of(output, said.latents, state.slot, state.after)[:words])
        for said, output in zip(want, outputs, strict=True)
    ]
    wrong = [
        (asked[n], latents[n], want[n], outputs[n].outputs[0].token_ids) for n, right in enumerate(alike) if right is False
    ]
    assert not wrong, f"{len(wrong)} of {len(asked)} differ, e.g. {wrong[0]}"
    assert alike.count(None) <= len(asked) // 50
    return outputs


def load(run: Path | str) -> Model:
    """A run, on the CPU."""
    return unspoken.load(str(run), device="cpu")
