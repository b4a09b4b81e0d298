"""What the commands of `unspoken bench` share: their group, options, and the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli._options import FILE, app, new_console
from unspoken.core.checks import MOST_THREADS
from unspoken.errors import ConfigError

bench = typer.Typer(
    help="Measure speed against baselines: medians over paired rounds, and exact counts.", no_args_is_help=True
)
app.add_typer(bench, name="bench")

Shape = Annotated[str, typer.Option(help="gpt2-small, smollm2-135m, llama-1b (random weights), or a model folder.")]
Rounds = Annotated[int, typer.Option(help="How often each side is measured.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: PyTorch's.")]
Json = Annotated[bool, typer.Option("--json", help="Everything, as JSON on standard output.")]
Out = Annotated[Path | None, typer.Option(help="Also write the JSON here.", **FILE)]


def use_threads(count: int | None) -> None:
    """Let PyTorch use so many CPU threads; None = its own choice."""
    if count is None:
        return
    if not 1 <= count <= MOST_THREADS:
        raise ConfigError(f"--threads must be in 1..{MOST_THREADS}, got {count}")
    import torch

    torch.set_num_threads(count)


def wants_table(report: dict[str, Any], as_json: bool, out: Path | None) -> bool:
    """Write a report to a file if one is given, and to standard output if asked; whether a table is still to be shown."""
    from unspoken.core.files import write_text

    text = json.dumps(report, indent=1)
    if out is not None:
        write_text(out, text + "\n")
    if as_json:
        typer.echo(text)
    return not as_json


def show(report: dict[str, Any], columns: Sequence[str], as_json: bool, out: Path | None) -> None:
    """A table, or all of it; and a file."""
    from unspoken.core.text.table import Table

    if not wants_table(report, as_json, out):
        return
    rows = [
        (name, *(f"{side[c]:.4g}" if isinstance(side[c], float) else str(side[c]) for c in columns))
        for name, side in report["sides"].items()
    ]
    console = new_console()
    console.print(Table(headings=("side", *(name.replace("_", " ") for name in columns)), rows=rows))
    for name, ratio in report["ratios"].items():
        wall = ratio["seconds"]
        told = f"{wall['median']:.2f}x ({wall['low']:.2f} to {wall['high']:.2f})"
        if "cpu_seconds" in ratio:
            told += f", processor time {ratio['cpu_seconds']['median']:.2f}x"
        console.print(f"{name}: {told}", highlight=False)
