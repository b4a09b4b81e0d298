"""Progress on the terminal, and messages for interrupted commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from unspoken.cli._terminal import Terminal
    from unspoken.runs.config import RunConfig


@contextlib.contextmanager
def bar(console: Terminal, what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar while something runs, on a terminal.

    Args:
        console: where it is drawn.
        what: what is counted.

    Yields:
        A function of (what is counted, done, in all).
    """
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as drawn:
        job = drawn.add_task(what, total=None)
        yield lambda what, done, total: drawn.update(job, description=what, completed=done, total=total)


def run_training(config: RunConfig, out: Path, label: str, quiet: bool) -> None:
    """Train, and print where the run is. If interrupted, say where the same command will continue, and what is lost."""
    from unspoken.runs.directory import RunDir
    from unspoken.training.loop import train
    from unspoken.training.progress import Live

    try:
        done = train(config, out, None if quiet else Live(label))
    except KeyboardInterrupt as stop:
        kept = RunDir(out).latest_step()
        whence = "from the start (no state had been saved: see train.save_every)" if kept is None else f"from step {kept}"
        lost = getattr(stop, "step", 0) - (kept or 0)
        steps = "" if lost <= 0 else f"; {lost} step{'s' if lost > 1 else ''} behind it {'are' if lost > 1 else 'is'} lost"
        typer.echo(f"interrupted; the same command goes on {whence}{steps}", err=True)
        raise typer.Exit(128 + getattr(stop, "number", 2)) from None
    typer.echo(str(done.path))
