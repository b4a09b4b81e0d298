"""A whole optimizer step of Coconut, SIM-CoT and CODI, ours against the way of the released code (docs/speed/training.md).

    python -m benchmarks.train --model gpt2-small --what sim_cot,codi --threads 1 --rounds 5
    python -m benchmarks.train --threads 1 --what codi --json > train.json

Both sides take the same rows, weights and optimizer in one process, and must agree in loss and gradients before anything
is timed. A step is forward, backward, clipping and AdamW; the learning rate is 0, so that every round starts from the same
weights. Dropout is off on both sides. Ours runs as the training loop runs it by default: fused activations, one optimizer
kernel, and on a CPU freed memory is kept for the next step (`core/fast/malloc.py`); the released way as torch and
transformers are. Each side makes a step that is not timed before each that is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import coconut_step, codi_step, sim_cot_step
from benchmarks.watch import OperatorCounter
from benchmarks.workloads import Load, coconut_rows, codi_rows
from unspoken.bench import paired
from unspoken.bench.shapes import backbone_of, operations
from unspoken.cli._bench import use_threads
from unspoken.core.auxiliary.step_decoder import StepDecoder
from unspoken.core.fast.activations import fuse_activations
from unspoken.core.fast.malloc import give_back, keeping_freed
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.loading import device_or_gpu
from unspoken.core.loop.trace import Cost
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.row import Row
from unspoken.core.text.table import Table
from unspoken.errors import ConfigError, UnspokenError
from unspoken.methods import make_method
from unspoken.methods.base import Counts
from unspoken.methods.sim_cot import STEP_TARGETS
from unspoken.training.feeding.feed import micro_batches

Step = Callable[[Cost], Tensor]
"""Forward and backward of a step; adds up what it cost, and returns the loss."""

WORKLOADS = ("coconut", "sim_cot", "coconut-32", "coconut-32-text", "codi")
WIDE = {"coconut-32": 6, "coconut-32-text": 48}
"""32 rows of 128, and labels per row: in Coconut's last stage 4.5% of GSM8K-Aug's positions have one; or most of a chain."""


@dataclass(kw_only=True)
class Bench:
    """What is timed against what.

    Attributes:
        sides: by name; the first of each pair of names is ours.
        pairs: (ours, theirs), both names of sides.
        shares: (with, without): what the first costs beyond the second.
        work: multiplications and additions that a step of a side cannot do without.
        about: sizes, for the report.
    """

    method: Any
    sides: dict[str, Step]
    pairs: list[tuple[str, str]]
    work: dict[str, float]
    about: dict[str, Any]
    shares: list[tuple[str, str]] = field(default_factory=list)


def ours(method: Any, parts: Sequence[Sequence[Row]], precision: str) -> Step:
    """A step as the training loop makes it: micro-batches, each loss divided by the counts of all."""
    device = method.backbone.device
    counts: Counts = method.counts(collate([row for part in parts for row in part]))
    decoder = next((module for module in method.modules() if isinstance(module, StepDecoder)), None)

    def step(cost: Cost) -> Tensor:
        fuse_activations(method)
        total = torch.zeros((), device=device)
        for part in parts:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                report = method(collate(part).to(device), counts)
            report.total.backward()
            total += report.total.detach()
            _add(cost, report.trace.cost)
            if decoder is not None:
                _add(cost, decoder.spent)
        return total

    return step


def _add(cost: Cost, spent: Cost) -> None:
    cost.passes, cost.positions, cost.slots = (
        cost.passes + spent.passes,
        cost.positions + spent.positions,
        cost.slots + spent.slots,
    )


def theirs(loss_of: Callable[[Any, Batch, Cost], Any], method: Any, rows: Sequence[Row], precision: str) -> Step:
    """The same in the released way, all rows in one batch."""
    device = method.backbone.device

    def step(cost: Cost) -> Tensor:
        fuse_activations(method, fused=False)  # the model as transformers has it
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            found = loss_of(method, collate(rows).to(device), cost)
        loss, *aside = found if isinstance(found, tuple) else (found,)
        for spent in aside:
            if isinstance(spent, Cost):
                _add(cost, spent)
        loss.backward()
        return loss.detach()

    return step


def _work(backbone: Backbone, positions: int, labels: int, frozen: bool = False) -> float:
    """Forward once, backward twice (once where the weights are frozen); the head where there is a label."""
    body, head = operations(backbone)
    return (2 if frozen else 3) * float(body * positions + head * labels)


def coconut_bench(model: str, device: torch.device, precision: str, load: Load, with_decoder: bool) -> Bench:
    """Coconut, and SIM-CoT around it with a full copy of the model as decoder."""
    inner = {"name": "coconut", "marker_init": "the"}
    whole = {"name": "sim_cot", "inner": inner} if with_decoder else inner
    method: Any = make_method(whole, backbone_of(model, device))
    method.to(device).eval()
    base = method.method if with_decoder else method
    rows = coconut_rows(load, base.backbone.vocabulary - 3, base.latents_per_group)
    labels, positions = sum(i >= 0 for row in rows for i in row.labels), sum(row.positions for row in rows)
    work = _work(base.backbone, positions, labels)
    sides = {"coconut ours": ours(base, [rows], precision), "coconut released": theirs(coconut_step, base, rows, precision)}
    bench = Bench(
        method=method,
        sides=sides,
        pairs=[("coconut ours", "coconut released")],
        work=dict.fromkeys(sides, work),
        about={"rows": load.rows, "longest": load.length, "latents": load.latents, "labels": labels, "tokens": positions},
    )
    if with_decoder:
        steps = [step for row in rows for step in row.value(STEP_TARGETS)]
        more = _work(base.backbone, sum(map(len, steps)) + base.latents_per_group * len(steps), sum(map(len, steps)))
        bench.sides |= {"sim_cot ours": ours(method, [rows], precision)}
        bench.sides |= {"sim_cot released": theirs(sim_cot_step, method, rows, precision)}
        bench.pairs.append(("sim_cot ours", "sim_cot released"))
        bench.shares.append(("sim_cot ours", "coconut ours"))
        bench.work |= dict.fromkeys(("sim_cot ours", "sim_cot released"), work + more)
    return bench


def _codi(model: str, device: torch.device, precision: str, rows_per_step: int, budget: int) -> Bench:
    """CODI with LoRA of rank 128, as published for GPT-2."""
    backbone = backbone_of(model, device)
    method: Any = make_method({"name": "codi", "latents": 6, "marker_init": "the"}, backbone)
    backbone.adapt(LoraSettings(r=128, alpha=32.0), method.new_tokens())
    method.to(device).eval()
    rows = codi_rows(rows_per_step, 6, backbone.vocabulary - 3)
    both = [one for row in rows for one in (row, row.branch) if one is not None]
    labels, positions = sum(i >= 0 for one in both for i in one.labels), sum(row.positions for row in rows)
    parts = micro_batches(rows, None, budget)
    sides = {
        "codi ours": ours(method, [rows], precision),
        "codi ours, by length": ours(method, parts, precision),
        "codi released": theirs(codi_step, method, rows, precision),
    }
    return Bench(
        method=method,
        sides=sides,
        pairs=[("codi ours", "codi released"), ("codi ours, by length", "codi released")],
        work=dict.fromkeys(sides, _work(backbone, positions, labels, frozen=True)),
        about={"rows": len(rows), "latents": 6, "labels": labels, "tokens": positions, "micro_batches": len(parts)},
    )


def _gradients(bench: Bench) -> Tensor:
    """Every gradient in one vector; the order is that of the parameters."""
    return torch.cat([p.grad.flatten() for p in bench.method.parameters() if p.grad is not None])


def _check(bench: Bench, words: int, width: int, exact: bool) -> dict[str, dict[str, Any]]:
    """One step of every side: what it counts, and that both sides of a pair agree.

    Raises:
        AssertionError: they do not, so that a ratio would mean nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    kept: dict[str, Tensor] = {}
    for name, step in bench.sides.items():
        bench.method.zero_grad(set_to_none=True)
        cost = Cost()
        with OperatorCounter(words, width) as watch:
            whole = step(cost)
        loss = float(whole)
        kept[name] = _gradients(bench)
        waits = sum(watch.waits.values())
        seen = {"head_rows": watch.head_rows, "largest_logits": watch.most, "waits": waits}
        found[name] = {"loss": loss, **paired.counts(cost), **seen}
        for mine, other in bench.pairs:
            if name != other:
                continue
            gap = float((kept[mine] - kept[other]).norm() / kept[other].norm())
            apart = abs(found[mine]["loss"] - loss) / abs(loss)
            found[mine] |= {"loss_difference": apart, "gradient_difference": gap}
            if exact:
                assert apart <= 1e-5, f"{mine} and {other} differ in loss by {apart:.2g} of it; a ratio would mean nothing"
                assert gap <= 1e-3, f"{mine} and {other} differ in gradients by {gap:.2g}; a ratio would mean nothing"
        if name in {other for _, other in bench.pairs}:
            kept.pop(name)
    bench.method.zero_grad(set_to_none=True)
    return found


def measure(
    model: str = "gpt2-small",
    what: Sequence[str] = WORKLOADS[:2],
    *,
    rounds: int = 5,
    precision: str = "fp32",
    device: str | None = None,
    baseline: bool = True,
    load: Load | None = None,
    codi_batch: int = 32,
    codi_budget: int = 1024,
) -> dict[str, Any]:
    """Measure some workloads.

    Args:
        model: a name of `bench.shapes.SHAPES`, or a folder.
        what: names of `WORKLOADS`.
        rounds: after one warm-up; medians and ranges are over them.
        precision: "fp32" or "bf16" (autocast).
        device: None = a GPU if there is one.
        baseline: also run the released way.
        load: rows of "coconut" and "sim_cot"; None = 8 rows of at most 134 positions.
        codi_batch: rows of "codi".
        codi_budget: positions of a micro-batch where CODI's rows are put together by length.

    Returns:
        Plain values, ready for JSON.

    Raises:
        ConfigError: an unknown workload or precision, or no round.
    """
    if unknown := [name for name in what if name not in WORKLOADS]:
        raise ConfigError(f"unknown workload {unknown[0]!r}; known: {', '.join(WORKLOADS)}")
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"unknown precision {precision!r}; known: fp32, bf16")
    if rounds < 1:
        raise ConfigError(f"rounds must be 1 or more, got {rounds}")
    where = device_or_gpu(device)
    rate = paired.matmul_rate(where, torch.bfloat16 if precision == "bf16" else torch.float32)
    report: dict[str, Any] = {
        "bench": "train", "model": model, "precision": precision, "device": str(where), "rounds": rounds,
        "matmul_operations_per_second": rate, "machine": paired.machine(torch.get_num_threads()), "workloads": {},
    }  # fmt: skip
    for name in what:
        torch.manual_seed(0)
        if name == "codi":
            bench = _codi(model, where, precision, codi_batch, codi_budget)
        else:
            rows = Load(rows=32, length=128, labels=WIDE[name], spread=False) if name in WIDE else load or Load()
            bench = coconut_bench(model, where, precision, rows, with_decoder=name == "sim_cot")
        if not baseline:
            released = {other for _, other in bench.pairs}
            bench.sides = {side: step for side, step in bench.sides.items() if side not in released}
            bench.pairs = []
        report["workloads"][name] = _measure(bench, where, rounds, rate, precision == "fp32")
        del bench
    return report


def _measure(bench: Bench, device: torch.device, rounds: int, rate: float, exact: bool) -> dict[str, Any]:
    backbone = bench.method.backbone
    found = _check(bench, backbone.vocabulary, backbone.width, exact)
    trained = [p for p in bench.method.parameters() if p.requires_grad]

    # Each side has the optimizer of its training loop; the released scripts leave the kernel to torch.
    one, usual = (torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=fused) for fused in (True, None))
    for optimizer in (one, usual):  # their state is there before anything is timed, as after the first step of a run
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def whole(name: str, step: Step) -> Callable[[], None]:
        optimizer = one if "ours" in name else usual

        def run() -> None:
            step(Cost())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    def around(name: str) -> Any:
        if "ours" in name:
            return keeping_freed(device.type)
        give_back()  # the released way needs room
        return contextlib.nullcontext()

    sides = {name: whole(name, step) for name, step in bench.sides.items()}
    taken = paired.paired(sides, device, rounds, warm=False, around=around)
    for name, each in taken.items():
        summary = paired.summary(each)
        found[name] |= summary | {
            "tokens_per_second": bench.about["tokens"] / summary["seconds"],
            "utilisation": bench.work[name] / summary["seconds"] / rate,
            "utilisation_of_cpu_time": bench.work[name] / max(summary["cpu_seconds"], 1e-9) / rate,
        }
    ratios = {f"{theirs} / {mine}": paired.ratio(taken[theirs], taken[mine]) for mine, theirs in bench.pairs}
    ratios |= {f"{more} / {less}": paired.ratio(taken[more], taken[less]) for more, less in bench.shares}
    return {"about": bench.about, "sides": found, "ratios": ratios}


def _table(found: dict[str, Any]) -> Table:
    """One workload: a line per side."""
    heads = ("side", "passes", "positions", "padding", "head rows", "s", "CPU s", "peak MB", "tokens/s", "utilisation")
    rows = [
        (
            side, str(row["passes"]), str(row["positions"]), f"{row['padding_share']:.1%}", str(row["head_rows"]),
            f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}",
            "-" if row["peak_memory"] is None else f"{row['peak_memory'] / 2**20:.0f}",
            f"{row['tokens_per_second']:.0f}", f"{row['utilisation']:.0%}",
        )
        for side, row in found["sides"].items()
    ]  # fmt: skip
    return Table(headings=heads, rows=rows)


def main(given: Sequence[str] | None = None) -> None:
    """Measure what was asked for; a table per workload, or JSON."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("--model", default="gpt2-small", help="gpt2-small, smollm2-135m, llama-1b, or a folder")
    options.add_argument("--what", default="coconut,sim_cot", help=",".join(WORKLOADS))
    options.add_argument("--rounds", type=int, default=5, help="rounds, after one warm-up")
    options.add_argument("--precision", default="fp32", help="fp32, or bf16 (autocast)")
    options.add_argument("--device", help="cpu or cuda; default a GPU if there is one")
    options.add_argument("--threads", type=int, help="CPU threads; default torch's choice")
    options.add_argument("--no-baseline", dest="baseline", action="store_false", help="ours only")
    options.add_argument("--json", action="store_true", help="everything, as JSON on standard output")
    asked = options.parse_args(given)
    try:
        use_threads(asked.threads)
        names = [name.strip() for name in asked.what.split(",")]
        report = measure(
            asked.model, names, rounds=asked.rounds, precision=asked.precision, device=asked.device, baseline=asked.baseline
        )
    except UnspokenError as error:
        sys.exit(f"error: {error}")
    if asked.json:
        print(json.dumps(report))
        return
    for name, found in report["workloads"].items():
        print(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found["about"].items()))
        print(_table(found).markdown())
        for pair, ratio in found["ratios"].items():
            wall, cpu = ratio["seconds"], ratio["cpu_seconds"]
            print(
                f"{pair}: {wall['median']:.2f} ({wall['low']:.2f} to {wall['high']:.2f}); in processor time "
                f"{cpu['median']:.2f} ({cpu['low']:.2f} to {cpu['high']:.2f})"
            )


if __name__ == "__main__":
    main()
