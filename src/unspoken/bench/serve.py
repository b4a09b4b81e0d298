"""`unspoken bench serve`: what a client sees of a server under load, against the engine alone.

    server     `unspoken serve` as a process, asked over loopback by so many clients at a time, or so often a second
    offline    the same questions through the scheduler in this process, all at once: what HTTP may cost at most
    explicit   the same server, where the model writes its chain of thought: no latents, more tokens

or, with `url`, of another server of OpenAI's API that runs already: its own figures under the same loads.

Figures are the client's, as vLLM's and genai-perf's benchmarks define them: time to first token (TTFT), from token to token
(ITL), from question to end; medians and the tails p95 and p99. The processor time of the server's process is
told per request: beside what the engine alone takes it is the price of HTTP, on however busy a machine.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from unspoken.bench.http_client import Exchange, post
from unspoken.bench.paired import machine
from unspoken.bench.server_process import ServerProcess
from unspoken.bench.shapes import SHAPES, backbone_of
from unspoken.core.engine.requests import Request
from unspoken.core.fast.cpu_linear import use_dtype
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError
from unspoken.methods import make_method
from unspoken.runs.model import Model
from unspoken.serving.models import ServedModel


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked.

    Attributes:
        latents: to think; None = the run's own.
        tokens: that every answer has, no fewer and no more; at most, if `free`.
        free: answers end where the model ends them.
        chat: ask as a chat does.
        ours: the server is `unspoken serve`; another one is sent only what vLLM knows, or OpenAI's API if `free`.
    """

    latents: int | None
    tokens: int
    free: bool = False
    chat: bool = False
    ours: bool = True

    @property
    def path(self) -> str:
        """Where it is asked, below /v1."""
        return "chat/completions" if self.chat else "completions"

    def body(self, model: str, question: str) -> dict[str, Any]:
        """The request of a question."""
        asked = {"messages": [{"role": "user", "content": question}]} if self.chat else {"prompt": question}
        more: dict[str, Any] = {} if self.free else {"ignore_eos": True}
        if self.ours:
            more |= {"show_thoughts": False}
        if self.latents is not None:
            more |= {"latents": self.latents} if self.ours else {"vllm_xargs": {"latents": self.latents}}
        return {"model": model, **asked, "temperature": 0, "max_tokens": self.tokens, "stream": True, **more}


@dataclass(kw_only=True)
class Load:
    """What came back under one load."""

    exchanges: list[Exchange] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self, work: Work) -> dict[str, Any]:
        """The figures, times in milliseconds.

        Raises:
            ConfigError: an answer was not whole.
        """
        if bad := [one for one in self.exchanges if not one.whole]:
            raise ConfigError(
                f"{len(bad)} of {len(self.exchanges)} answers were not whole, the first with status {bad[0].status}"
            )
        first = [one.times[0] - one.began for one in self.exchanges]
        between = [b - a for one in self.exchanges for a, b in itertools.pairwise(one.times)]
        tokens = {} if work.free else {"tokens_per_second": len(self.exchanges) * work.tokens / self.seconds}
        whole = [one.ended - one.began for one in self.exchanges]
        return {
            "requests": len(self.exchanges),
            "seconds": self.seconds,
            "requests_per_second": len(self.exchanges) / self.seconds,
            **tokens,
            **{
                f"{name}_ms": {f"p{q}": 1000 * float(np.percentile(times, q)) for q in (50, 95, 99)}
                for name, times in (("ttft", first), ("itl", between), ("e2e", whole))
                if times
            },
        }


def questions(count: int, seed: int = 0) -> list[str]:
    """Problems of several lengths."""
    rng = np.random.default_rng(seed)
    names = ("Ann", "Bob", "Eve", "Tom", "Mia")
    made = []
    for _ in range(count):
        who, start = names[rng.integers(len(names))], int(rng.integers(2, 90))
        steps = [f"Then {rng.integers(2, 40)} more are found." for _ in range(rng.integers(1, 6))]
        made.append(f"{who} has {start} figs. {' '.join(steps)} How many figs has {who}?")
    return made


async def at_once(url: str, bodies: Sequence[object], clients: int) -> Load:
    """So many clients, each asking its next question when the last is answered."""
    load, left = Load(), iter(bodies)
    began = time.perf_counter()

    async def client() -> None:
        for body in left:
            load.exchanges.append(await post(url, body))

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - began
    return load


async def at_rate(url: str, bodies: Sequence[object], rate: float, seed: int = 0) -> Load:
    """So many questions a second on average, whenever they come (a Poisson process)."""
    load, rng = Load(), np.random.default_rng(seed)
    began = time.perf_counter()

    async def one(body: object, wait: float) -> None:
        await asyncio.sleep(wait)
        load.exchanges.append(await post(url, body))

    waits = np.cumsum(rng.exponential(1 / rate, len(bodies)))
    await asyncio.gather(*(one(body, float(wait)) for body, wait in zip(bodies, waits, strict=True)))
    load.seconds = time.perf_counter() - began
    return load


def offline(served: ServedModel, asked: Sequence[str], work: Work) -> tuple[float, float]:
    """Seconds in which the scheduler answers all questions, submitted at once, and processor seconds that it takes."""
    rows = [replace(row, num_eos=1 << 30) for row in served.model.rows(asked, work.latents, None)]
    scheduler = served.new_scheduler()
    speaking = SamplingParams(max_new_tokens=work.tokens)
    requests = [Request(row=row, speaking=speaking, number=i) for i, row in enumerate(rows)]
    began, processor = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        scheduler.submit_all(requests)
        while not scheduler.idle:
            scheduler.step()
    return time.perf_counter() - began, time.process_time() - processor


def run(
    model: str = "builtin:tiny",
    *,
    requests: int = 128,
    clients: Sequence[int] = (1, 8, 32),
    rates: Sequence[float] = (),
    latents: int | None = None,
    tokens: int = 20,
    chain: int = 120,
    slots: int = 32,
    threads: int | None = None,
    rounds: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure a server of a run, or of random weights of a well-known shape, on this machine.

    Args:
        model: a run directory, builtin:tiny, or a shape by name (`bench/shapes.py`), which thinks as Coconut does.
        requests: per load.
        clients: how many at a time, one load each.
        rates: requests a second, one load each.
        latents: how many are thought; None = the run's own number.
        tokens: of every answer.
        chain: tokens of every answer of the explicit side, which has no latents; 0 = leave it out.
        slots: of the server, and of the engine alone.
        threads: of PyTorch, on both sides; None = its own choice.
        rounds: how often the load of most clients and the engine alone are measured, in turns; medians count.
        progress: called with what is being done.

    Raises:
        ConfigError: numbers that cannot be, or answers that are not whole.
    """
    if min(requests, tokens, slots, rounds, *clients) < 1 or any(rate <= 0 for rate in rates) or chain < 0 or not clients:
        raise ConfigError("bench serve needs requests, clients, tokens, slots and rounds of at least 1, and rates above 0")
    say = progress or (lambda _: None)
    shape = model in SHAPES
    served = (
        ServedModel(name="bench", model=shape_model(model), slots=slots) if shape else ServedModel.load(model, slots=slots)
    )
    asked, work = questions(requests), Work(latents=latents, tokens=tokens)
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    command = ("unspoken.bench.serve_shape",) if shape else ("unspoken", "serve")
    waiting = ("--max-waiting", str(requests))
    sides: dict[str, Any] = {}
    say(f"starting a server of {model}")
    with ServerProcess(model, "--slots", str(slots), *waiting, command=command, environment=environment) as server:
        place = f"{server.url}/v1/completions"

        def load(work: Work, count: int, clients: int | None = None, rate: float | None = None) -> dict[str, Any]:
            bodies = [work.body(served.name, question) for question in asked[:count]]
            made = at_rate(place, bodies, rate) if rate else at_once(place, bodies, clients or 1)
            before = server.processor_seconds
            told = asyncio.run(made).summary(work)
            return {**told, "processor_ms_per_request": 1000 * (server.processor_seconds - before) / count}

        load(work, min(requests, slots), slots)  # warm
        offline(served, asked[:slots], work)
        for count in clients[:-1]:
            say(f"{count} clients")
            sides[f"{count} clients"] = load(work, min(requests, max(8 * count, 8)), count)
        pairs = []
        for number in range(rounds):
            say(f"{clients[-1]} clients, and the engine alone ({number + 1} of {rounds})")
            pairs.append((load(work, requests, clients[-1]), offline(served, asked, work)))
        pairs.sort(key=lambda pair: pair[0]["seconds"] / pair[1][0])
        sides[f"{clients[-1]} clients"], (alone, processor) = pairs[len(pairs) // 2]
        sides["engine alone"] = {
            "requests": requests,
            "seconds": alone,
            "requests_per_second": requests / alone,
            "processor_ms_per_request": 1000 * processor / requests,
        }
        for rate in rates:
            say(f"{rate:g} requests a second")
            sides[f"{rate:g} per second"] = load(work, requests, rate=rate)
        if chain:
            say(f"{clients[-1]} clients, explicit chains of {chain} tokens")
            explicit = Work(latents=0, tokens=chain)
            sides["explicit"] = load(explicit, min(requests, 2 * clients[-1]), clients[-1])
    most = sides[f"{clients[-1]} clients"]["requests_per_second"]
    ratios = {
        "server / engine alone": statistics.median(alone / load["seconds"] for load, (alone, _) in pairs),
        "server / engine alone, by processor time": statistics.median(
            1000 * processor / requests / load["processor_ms_per_request"] for load, (_, processor) in pairs
        ),
    }
    if chain:
        ratios["latents / explicit"] = most / sides["explicit"]["requests_per_second"]
    return {
        "bench": "serve",
        "model": model,
        "requests": requests,
        "latents": served.latents if latents is None else latents,
        "tokens": tokens,
        "chain": chain,
        "slots": slots,
        "sides": sides,
        "ratios": ratios,
        "machine": machine(threads or torch.get_num_threads()),
    }


def run_at(
    url: str,
    model: str,
    *,
    requests: int = 128,
    clients: Sequence[int] = (1, 8, 32),
    rates: Sequence[float] = (),
    latents: int | None = None,
    tokens: int = 20,
    free: bool = False,
    chat: bool = False,
    ours: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure a server of OpenAI's API that runs already: vLLM, `transformers serve`, or one of ours elsewhere.

    Args:
        url: its address with /v1.
        model: as it names it.
        latents, tokens, free, chat, ours: see `Work`.
        requests, clients, rates, progress: see `run`.

    Raises:
        ConfigError: numbers that cannot be, or answers that are not whole.
    """
    if min(requests, tokens, *clients) < 1 or any(rate <= 0 for rate in rates) or not clients:
        raise ConfigError("bench serve needs requests, clients and tokens of at least 1, and rates above 0")
    say = progress or (lambda _: None)
    work = Work(latents=latents, tokens=tokens, free=free, chat=chat, ours=ours)
    bodies = [work.body(model, question) for question in questions(requests)]
    place = f"{url.rstrip('/')}/{work.path}"
    say("warming up")
    asyncio.run(at_once(place, bodies[:2], 2)).summary(work)
    sides: dict[str, Any] = {}
    for count in clients:
        say(f"{count} clients")
        some = bodies if count == clients[-1] else bodies[: max(8 * count, 8)]
        sides[f"{count} clients"] = asyncio.run(at_once(place, some, count)).summary(work)
    for rate in rates:
        say(f"{rate:g} requests a second")
        sides[f"{rate:g} per second"] = asyncio.run(at_rate(place, bodies, rate)).summary(work)
    asked = {"latents": latents, "tokens": tokens, "free": free, "chat": chat}
    return {"bench": "serve", "url": url, "model": model, "requests": requests, **asked, "sides": sides, "ratios": {}}


def shape_model(name: str) -> Model:
    """Random weights of a shape that think as Coconut does, six latents."""
    backbone = backbone_of(name, torch.device("cpu"))
    config = {"name": "coconut", "max_stage": 3, "latents_per_step": 2}
    method = make_method(config, backbone).eval()
    use_dtype(method, None)
    backbone.decode = lambda ids: "".join(chr(97 + token % 26) for token in ids)  # the tokenizer spells few of its tokens
    return Model(method)
