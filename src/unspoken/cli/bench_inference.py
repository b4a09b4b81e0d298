"""Commands that measure answering: bench generate, bench serve-offline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli.options import FILE, app, new_console, whole_numbers
from unspoken.errors import ConfigError

bench = next((group.typer_instance for group in app.registered_groups if group.name == "bench"), None)
if bench is None:
    bench = typer.Typer(help="Measure speed: paired in one process, medians, counts.", no_args_is_help=True)
    app.add_typer(bench, name="bench")

Shape = Annotated[str, typer.Option(help="gpt2-small, smollm2-135m, llama-1b (random weights), or a model folder.")]
Rounds = Annotated[int, typer.Option(help="How often each side is measured.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: PyTorch's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Everything, as JSON on standard output.")]
Out = Annotated[Path | None, typer.Option(help="Also write the JSON here.", **FILE)]


@bench.command()
def generate(
    model: Shape = "gpt2-small",
    latents: Annotated[int, typer.Option(help="Latents per question.")] = 6,
    question: Annotated[int, typer.Option(help="Tokens of a question.")] = 40,
    answer: Annotated[int, typer.Option(help="Tokens of an answer.")] = 20,
    chain: Annotated[int, typer.Option(help="Tokens of the explicit chain that latents stand for.")] = 100,
    batches: Annotated[str, typer.Option(help="Questions at a time, for our engine.")] = "1,8,32",
    explicit_batches: Annotated[str, typer.Option(help="Questions at a time, for the explicit chain.")] = "1,32",
    dtypes: Annotated[str, typer.Option(help="Of our engine: float32, bfloat16, int8.")] = "float32",
    rounds: Rounds = 5,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Thinking in latents: the released way, an explicit chain with transformers, our engine."""
    kinds: Any = [part.strip() for part in dtypes.split(",")]
    if unknown := [kind for kind in kinds if kind not in ("float32", "bfloat16", "int8")]:
        raise ConfigError(f"unknown dtype {unknown[0]!r} in --dtypes; known: float32, bfloat16, int8")
    sizes, explicit = _numbers("--batches", batches), _numbers("--explicit-batches", explicit_batches)
    _threads(threads)
    from unspoken.bench.generate import run

    report = run(
        model, latents=latents, question=question, answer=answer, chain=chain, batches=sizes, explicit_batches=explicit,
        kinds=kinds, rounds=rounds, device=device, progress=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    columns = ("questions", "passes", "positions_per_question", "seconds_per_question", "cpu_seconds_per_question")
    _show(report, columns, as_json, out)


@bench.command("serve-offline")
def serve_offline(
    model: Shape = "gpt2-small",
    requests: Annotated[int, typer.Option(help="Mixed requests.")] = 256,
    rows: Annotated[int, typer.Option(help="Requests at a time.")] = 32,
    chunk: Annotated[int, typer.Option(help="Prompt positions per pass.")] = 512,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or int8.")] = "float32",
    rounds: Rounds = 3,
    device: Device = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the requests.")] = 0,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """A queue of mixed requests: continuous batching against static batches."""
    if dtype not in ("float32", "bfloat16", "int8"):
        raise ConfigError(f"unknown dtype {dtype!r}; known: float32, bfloat16, int8")
    _threads(threads)
    from unspoken.bench.serve_offline import run

    report = run(
        model, requests=requests, rows=rows, chunk=chunk, kind=dtype, rounds=rounds, device=device, seed=seed,
        progress=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    _show(report, ("passes", "positions", "padding_share", "cache_bytes", "seconds", "cpu_seconds"), as_json, out)


def _numbers(option: str, text: str) -> list[int]:
    found = whole_numbers(text, option, "1,8,32", most=1 << 16)
    if not all(found):
        raise ConfigError(f"{option} needs numbers from 1 on, e.g. 1,8,32; got {text!r}")
    return found


def _threads(count: int | None) -> None:
    if count is None:
        return
    if count < 1:
        raise ConfigError(f"--threads must be at least 1, got {count}")
    import torch

    torch.set_num_threads(count)


def _show(report: dict[str, Any], columns: Sequence[str], as_json: bool, out: Path | None) -> None:
    """A table, or all of it; and a file."""
    text = json.dumps(report, indent=1)
    if out is not None:
        from unspoken.core.files import write_text

        write_text(out, text + "\n")
    if as_json:
        typer.echo(text)
        return
    from rich.table import Table

    table = Table("side", *(name.replace("_", " ") for name in columns))
    for name, side in report["sides"].items():
        table.add_row(name, *(f"{side[c]:.4g}" if isinstance(side[c], float) else str(side[c]) for c in columns))
    console = new_console()
    console.print(table)
    for name, ratio in report["ratios"].items():
        wall, cpu = ratio["seconds"], ratio["cpu_seconds"]
        told = f"{wall['median']:.2f}x ({wall['low']:.2f} to {wall['high']:.2f}), processor time {cpu['median']:.2f}x"
        console.print(f"{name}: {told}", highlight=False)
