"""Commands that look inside a run: inspect, probe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli.options import (
    FOLDER,
    Overrides,
    Run,
    TaskOverrides,
    app,
    new_console,
    run_training,
    task_of,
    whole_numbers,
)
from unspoken.errors import ConfigError


def _counts(text: str | None) -> list[int] | None:
    """Numbers of latents to compare; "none" = no comparison."""
    if text is None:
        return None
    if text == "none":
        return []
    return whole_numbers(text, "--counts", "1,2,4, or none", most=1 << 20)


@app.command()
def inspect(
    run: Run,
    overrides: TaskOverrides = None,
    task: Annotated[str | None, typer.Option(help="Another task than the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    n: Annotated[int, typer.Option("-n", help="How many problems, from the first on.", min=1)] = 200,
    latents: Annotated[int | None, typer.Option(help="How many latents to think; default as trained.")] = None,
    counts: Annotated[str | None, typer.Option(help="Numbers of latents to compare, e.g. 1,2,4; none = no such.")] = None,
    plots: Annotated[bool, typer.Option("--plots", help="Also draw the charts as PNG files (needs matplotlib).")] = False,
    out: Annotated[Path | None, typer.Option(help="A folder; default RUN/inspect-TASK-SPLIT.", **FOLDER)] = None,
) -> None:
    """Look at the latents: decoded steps, nearest words, similarity, attention, stability. Writes a page and JSON."""
    from rich.progress import Progress

    from unspoken.inspector.look import inspect as look
    from unspoken.pages.inspection import summary, verdict, write_inspection
    from unspoken.runs.directory import RunDir, load
    from unspoken.tasks.base import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    numbers = _counts(counts)
    if plots:
        from unspoken.inspector.plots import check_matplotlib

        check_matplotlib()
    chosen = task_of(run, task, overrides or [])
    model = load(run)
    console = new_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task("problems", total=None)
        seen = look(
            model, chosen, split, limit=n, latents=latents, counts=numbers, metrics=RunDir(run).metrics(),  # pyright: ignore[reportArgumentType]
            progress=lambda done, total: bar.update(job, completed=done, total=total),
        )  # fmt: skip
    name = f"inspect-{chosen.name}-{split}"
    builtin = str(run).startswith("builtin:")
    folder = out or (Path(f"{run.name.replace(':', '-')}-{name}") if builtin else run / name)
    files = list(write_inspection(seen, folder))
    if plots:
        from unspoken.inspector.plots import draw

        files += draw(seen, folder)
    console.print(summary(seen), highlight=False)
    if (collapsed := verdict(seen)) is not None:
        console.print(f"collapsed: {collapsed}", highlight=False)
    for file in files:
        console.print(f"written: {file}", highlight=False, soft_wrap=True)


@app.command()
def probe(
    run: Run,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="Problems with steps; default the run's own task.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default RUN-probe.", **FOLDER)] = None,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
) -> None:
    """Train a step decoder on a frozen run, so that its latents can be read: `ask --show-thoughts`, `inspect`."""
    from unspoken.inspector.probe import probe_config

    if out is None and str(run).startswith("builtin:"):
        raise ConfigError("a model inside the package has no place for its probe; give --out")
    config = probe_config(run, task, overrides or [])
    run_training(config, out or run.with_name(f"{run.name}-probe"), f"probe of {run.name}", quiet)
