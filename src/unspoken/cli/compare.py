"""`unspoken compare`: evaluations side by side."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli._options import (
    FILE,
    app,
    argument,
    new_console,
)
from unspoken.errors import ConfigError


@app.command()
def compare(
    runs: Annotated[list[Path], argument("Run directories (evaluated before) or report files.")],
    out: Annotated[Path | None, typer.Option(help="Also write Markdown (.md) or JSON (.json).", **FILE)] = None,
    chart: Annotated[Path | None, typer.Option(help="Also draw accuracy by forward passes: an .svg file.", **FILE)] = None,
    extractor: Annotated[str | None, typer.Option(help="Score all answers by this rule (see `rescore`).")] = None,
    group: Annotated[
        bool, typer.Option("--group", help="One line per recipe: the mean over training seeds, with an interval over them.")
    ] = False,
) -> None:
    """Put evaluations side by side: runs times tasks, with a paired test on the problems that runs share."""
    from unspoken.core.files import write_text
    from unspoken.evaluation.groups import grouped, hint, trained
    from unspoken.evaluation.rescore import rescore
    from unspoken.pages.comparison import chart as draw
    from unspoken.pages.comparison import find, grid_json, grid_markdown, terminal

    found = find(runs)
    if extractor is not None:
        found = {task: {name: (rescore(r, extractor), at) for name, (r, at) in row.items()} for task, row in found.items()}
    grid = {task: {label: report for label, (report, _) in row.items()} for task, row in found.items()}
    how = {task: {label: trained(*one) for label, one in row.items()} for task, row in found.items()}
    console = new_console()
    if group:
        if chart is not None:
            raise ConfigError("--chart draws runs, not groups of them; give --chart without --group")
        _print_groups({task: grouped(row, how[task]) for task, row in grid.items()}, console, out)
        return
    for part in terminal(grid):
        console.print(part, highlight=False)
    for task, row in grid.items():
        with contextlib.suppress(ConfigError):  # the same run twice: fine in a table of runs
            for line in hint(grouped(row, how[task])):
                console.print(line, highlight=False, soft_wrap=True)
    for path, make in ((out, grid_json if out is not None and out.suffix == ".json" else grid_markdown), (chart, draw)):
        if path is not None:
            write_text(path, make(grid))
            console.print(f"written: {path}", highlight=False, soft_wrap=True)


def _print_groups(tasks: dict[str, Any], console: Any, out: Path | None) -> None:
    """The tables of `compare --group`, printed and written."""
    from unspoken.core.files import write_text
    from unspoken.core.text.markup import cell
    from unspoken.evaluation import groups

    for task, found in tasks.items():
        console.print(task)
        for part in groups.terminal(found):
            console.print(part, highlight=False)
    if out is not None:
        text = "\n".join(f"## {cell(task)}\n\n{groups.to_markdown(found)}" for task, found in tasks.items())
        write_text(out, groups.to_json(tasks) if out.suffix == ".json" else text)
        console.print(f"written: {out}", highlight=False, soft_wrap=True)
