"""`unspoken inspect`: look at a run's latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    FOLDER,
    Latents,
    OtherTask,
    Run,
    SplitName,
    TaskOverrides,
    app,
    new_console,
    task_of,
    whole_numbers,
)
from unspoken.cli._progress import bar


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
    task: OtherTask = None,
    split: SplitName = "test",
    n: Annotated[int, typer.Option("-n", help="How many problems, from the first on.", min=1)] = 200,
    latents: Latents = None,
    counts: Annotated[str | None, typer.Option(help="Numbers of latents to compare, e.g. 1,2,4; none = no such.")] = None,
    plots: Annotated[bool, typer.Option("--plots", help="Also draw the charts as PNG files (needs matplotlib).")] = False,
    out: Annotated[Path | None, typer.Option(help="A folder; default RUN/inspect-TASK-SPLIT.", **FOLDER)] = None,
) -> None:
    """Look at the latents: decoded steps, nearest words, similarity, attention, stability. Writes a page and JSON."""
    from unspoken.inspector.look import inspect as look
    from unspoken.pages.inspection import summary, verdict, write_inspection
    from unspoken.runs.directory import RunDir, load

    numbers = _counts(counts)
    if plots:
        from unspoken.pages.drawing import check_matplotlib

        check_matplotlib()
    chosen = task_of(run, task, overrides)
    model = load(run)
    console = new_console()
    with bar(console, "problems") as tell:
        seen = look(
            model, chosen, split, limit=n, latents=latents, counts=numbers, metrics=RunDir(run).metrics(),
            progress=partial(tell, "problems"),
        )  # fmt: skip
    folder = out or RunDir(run).place(f"inspect-{chosen.name}-{split}")
    files = list(write_inspection(seen, folder))
    if plots:
        from unspoken.pages.plots import draw

        files += draw(seen, folder)
    console.print(summary(seen), highlight=False)
    if (collapsed := verdict(seen)) is not None:
        console.print(f"collapsed: {collapsed}", highlight=False)
    for file in files:
        console.say(f"written: {file}")
