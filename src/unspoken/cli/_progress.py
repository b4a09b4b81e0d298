"""Progress on the terminal, and messages for interrupted commands."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from unspoken.cli._options import main_process

if TYPE_CHECKING:
    from unspoken.cli._terminal import Terminal
    from unspoken.runs.config import RunConfig
    from unspoken.runs.directory import RunDir


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
    if main_process():
        typer.echo(str(done.path))
    if main_process() and not quiet:
        _next(done, config)


def _next(run: RunDir, config: RunConfig) -> None:
    """What one may want to do with a run that has been trained, and what only going on needs."""
    from unspoken.evaluation.listing import size_of, size_text

    path = shlex.quote(str(run.path))
    shown = " --show-thoughts" if getattr(config.method, "decoder", None) is not None else ""
    for number, line in enumerate((f"eval {path}", f"ask {path}{shown}", f"inspect {path}")):
        typer.echo(f"{'next:' if not number else '':5} unspoken {line}", err=True)
    if states := size_of(run.path / "state"):
        typer.echo(f"      unspoken clean {path}   (frees {size_text(states)} that a finished run needs no more)", err=True)
