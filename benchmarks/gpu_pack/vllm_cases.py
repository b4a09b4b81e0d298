"""Our side of `benchmarks/gpu_pack/vllm_call.py`: the models, the questions, our engine's answers, and the comparison.

    python -m benchmarks.gpu_pack.vllm_cases make WORK [--tiny]
    python -m benchmarks.gpu_pack.vllm_cases ours CASES.json [--tiny]
    python -m benchmarks.gpu_pack.vllm_cases compare WORK OUT.json

Equality is asked of the shipped SIM-CoT in float32, whose answers are sure; speed of a Coconut run with random weights in
the shape of SmolLM2-135M, in bfloat16, against an explicit chain of the same model.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unspoken
from unspoken.bench.shapes import SHAPES
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.exporters.vllm_folder import export_vllm
from unspoken.methods import make_method, method_config
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.directory import RunDir
from unspoken.tasks import task_config

SHIPPED = "builtin:tiny-sim-cot"
LATENTS, AT_ONCE = (0, 6, 12), (1, 32, 256)
ANSWER, CHAIN, QUESTION = 20, 120, 60
"""Tokens of an answer behind latents, of an explicit chain, and of a question."""

TINY: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512,
}  # fmt: skip


def make(work: Path, tiny: bool) -> None:
    """Export both models, and write down what is asked of them."""
    export_vllm(SHIPPED, work / "shipped")
    asked = _questions(12 if tiny else 200)
    latents = [(4, 0, 1, 6, 12)[n % 5] for n in range(len(asked))]
    model = unspoken.load(SHIPPED, device="cpu")
    case = _case("mixed", [model.method.prompt(q, k) for q, k in zip(asked, latents, strict=True)], ignore_eos=False)
    _write(work / "equal.json", work / "shipped", SHIPPED, "float32", [case])
    run = _random_run(work / "random-run", TINY if tiny else SHAPES["smollm2-135m"], "float32" if tiny else "bfloat16")
    export_vllm(run, work / "random")
    method = unspoken.load(str(run), device="cpu").method
    words, cases = len(method.backbone.tokenizer) - 8, []
    draw = np.random.default_rng(0)
    for count in (1, 2) if tiny else AT_ONCE:
        for k in (0, 2) if tiny else LATENTS:
            row = method.prompt("?", k)
            fill = (QUESTION if not tiny else 8) - row.start
            rows = [
                replace(row, ids=(*draw.integers(1, words, fill).tolist(), *row.ids), start=row.start + fill)
                for _ in range(count)
            ]
            answer = 4 if tiny else ANSWER
            cases.append(_case(f"K={k}, {count} at once", rows, tokens=answer, warm=not tiny))
            if k == 0:
                cases.append(_case(f"chain of {CHAIN}, {count} at once", rows, tokens=8 if tiny else CHAIN, warm=not tiny))
    _write(work / "speed.json", work / "random", str(run), "float32" if tiny else "bfloat16", cases)


def _questions(count: int) -> list[str]:
    draw = random.Random(0)
    made: dict[str, None] = {}
    while len(made) < count:
        made[f"Ann has {draw.randrange(2, 60)} figs. She finds {draw.randrange(2, 40)}. How many figs has Ann?"] = None
    return list(made)


def _random_run(path: Path, shape: dict[str, Any], dtype: Any) -> Path:
    """A Coconut run with random weights of a shape."""
    torch.manual_seed(0)
    backbone = load_backbone(BackboneConfig(arch=shape, tokenizer="builtin:tiny"))
    method = {"name": "coconut", "max_stage": 2}
    config = RunConfig(
        backbone=BackboneConfig(arch=shape, tokenizer="builtin:tiny", dtype=dtype), method=method_config(method),
        task=task_config("tiny"), train=TrainConfig(steps=1), speaking=SamplingParams(max_new_tokens=ANSWER),
    )  # fmt: skip
    run = RunDir(path)
    run.create(config, {})
    run.save_model(make_method(method, backbone), step=1, score=0.0)
    return path


def _case(name: str, rows: list[Any], tokens: int = 12, ignore_eos: bool = True, warm: bool = False) -> dict[str, Any]:
    """What both sides need: vLLM is given a prompt up to the first latent, our engine the whole row."""
    return {
        "name": name, "prompts": [list(row.ids[: row.start]) for row in rows], "rows": [list(row.ids) for row in rows],
        "latents": [row.latents for row in rows], "after": len(rows[0].ids) - rows[0].start - rows[0].latents,
        "tokens": tokens, "ignore_eos": ignore_eos, "warm": warm,
    }  # fmt: skip


def _write(path: Path, folder: Path, run: str, dtype: str, cases: list[dict[str, Any]]) -> None:
    at_once = max(len(case["prompts"]) for case in cases)
    about = {"folder": str(folder), "run": run, "dtype": dtype, "length": 256, "at_once": at_once, "cases": cases}
    path.write_text(json.dumps(about) + "\n", encoding="utf-8")


@torch.inference_mode()
def ours(path: Path) -> None:
    """Our engine's answers to a file of cases."""
    about = json.loads(path.read_text(encoding="utf-8"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = unspoken.load(about["run"], device=device, dtype=about["dtype"])
    method, done = model.method.at_inference, []
    for case in about["cases"]:
        template = method.prompt("?", 1)
        rows = [
            replace(
                template, ids=tuple(ids), start=len(prompt), latents=k,
                num_eos=10**9 if case["ignore_eos"] else template.num_eos,
            )
            for ids, prompt, k in zip(case["rows"], case["prompts"], case["latents"], strict=True)
        ]  # fmt: skip
        requests = [Request(row=row, speaking=SamplingParams(max_new_tokens=case["tokens"])) for row in rows]
        seconds, answers = 0.0, []
        for _ in range(2 if case["warm"] else 1):
            scheduler = Scheduler(method.backbone, method.source(), slots=len(rows))  # pyright: ignore[reportArgumentType]
            begun = time.perf_counter()
            numbers = scheduler.run(requests)
            answers = [list(scheduler.done[number].tokens) for number in numbers]
            seconds = time.perf_counter() - begun
        done.append(
            {"name": case["name"], "seconds": seconds, "questions": len(rows), "answers": answers,
             "tokens_said": sum(map(len, answers))}
        )  # fmt: skip
        (path.parent / f"ours-{path.stem}.said.json").write_text(json.dumps(done) + "\n", encoding="utf-8")


def compare(work: Path, out: Path) -> None:
    """How many of our engine's answers each way of running vLLM gave."""
    want = json.loads((work / "ours-equal.said.json").read_text(encoding="utf-8"))[0]["answers"]
    found: dict[str, str] = {}
    for kind in ("eager", "graphs"):
        path = work / f"vllm-{kind}-equal.said.json"
        if path.is_file():
            got = json.loads(path.read_text(encoding="utf-8"))[0]["answers"]
            found[kind] = f"{sum(a == b for a, b in zip(want, got, strict=True))} of {len(want)} answers are our engine's"
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    if what == "make":
        make(Path(place), "--tiny" in rest)
    elif what == "ours":
        ours(Path(place))
    else:
        compare(Path(place), Path(rest[0]))
