"""`unspoken bench train`: optimizer steps, ours and the way of the released code."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from unspoken.cli._bench import bench
from unspoken.cli._options import AsJson, new_console
from unspoken.core.text.table import Table


@bench.command("train")
def bench_train(
    model: Annotated[
        str, typer.Option(help="gpt2-small, smollm2-135m, llama-1b (random weights), or a folder.")
    ] = "gpt2-small",
    what: Annotated[
        str, typer.Option(help="Workloads: coconut,sim_cot,coconut-32,coconut-32-text,codi.")
    ] = "coconut,sim_cot",
    rounds: Annotated[int, typer.Option(help="Rounds, after one warm-up.")] = 5,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 (autocast).")] = "fp32",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default a GPU if there is one.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default torch's choice.")] = None,
    baseline: Annotated[bool, typer.Option(help="Also run the way of the released code.")] = True,
    as_json: AsJson = False,
) -> None:
    """Optimizer steps of Coconut, SIM-CoT and CODI, ours and the way of the released code, in alternation."""
    import torch

    from unspoken.bench.train import measure

    if threads is not None:
        torch.set_num_threads(threads)
    names = [name.strip() for name in what.split(",")]
    report = measure(model, names, rounds=rounds, precision=precision, device=device, baseline=baseline)
    if as_json:
        typer.echo(json.dumps(report))
        return
    console = new_console()
    for name, found in report["workloads"].items():
        about = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found["about"].items())
        console.say(f"{name}: {about}")
        console.print(_table(found))
        for pair, ratio in found["ratios"].items():
            wall, cpu = ratio["seconds"], ratio["cpu_seconds"]
            console.print(
                f"{pair}: {wall['median']:.2f} ({wall['low']:.2f} to {wall['high']:.2f}); in processor time "
                f"{cpu['median']:.2f} ({cpu['low']:.2f} to {cpu['high']:.2f})",
                highlight=False,
            )


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
