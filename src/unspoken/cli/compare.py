"""`unspoken compare`: evaluations side by side."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

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
    out: Annotated[Path | None, typer.Option(help="Also write the tables: .md, .tex, .csv or .json.", **FILE)] = None,
    chart: Annotated[
        Path | None, typer.Option(help="Also draw accuracy by forward passes: .svg, .pdf or .png.", **FILE)
    ] = None,
    extractor: Annotated[str | None, typer.Option(help="Score all answers by this rule (see `rescore`).")] = None,
    group: Annotated[
        bool, typer.Option("--group", help="One line per recipe: the mean over training seeds, with an interval over them.")
    ] = False,
) -> None:
    """Put evaluations side by side: runs times tasks, with a paired test on the problems that runs share."""
    from unspoken.evaluation import groups
    from unspoken.evaluation.rescore import rescore
    from unspoken.pages import comparison as pages
    from unspoken.pages import formats
    from unspoken.pages.drawing import save_charts

    formats.check_table(out, "--out")
    formats.check_chart(chart, "--chart")
    found = pages.find(runs)
    if extractor is not None:
        found = {task: {name: (rescore(r, extractor), at) for name, (r, at) in row.items()} for task, row in found.items()}
    grid = {task: {label: report for label, (report, _) in row.items()} for task, row in found.items()}
    how = {task: {label: groups.trained(*one) for label, one in row.items()} for task, row in found.items()}
    console = new_console()
    if group:
        recipes = {task: groups.grouped(row, how[task]) for task, row in grid.items()}
        tables = {task: groups.tables(some) for task, some in recipes.items()}
    else:
        recipes, tables = {}, pages.tables(grid)
    for name, some in tables.items():
        for part in ([name] if name else []) + some:
            console.print(part, highlight=False)
    for task, row in grid.items() if not group else ():
        with contextlib.suppress(ConfigError):  # the same run twice: fine in a table of runs
            for line in groups.hint(groups.grouped(row, how[task])):
                console.say(line)
    if out is not None:
        as_json = groups.to_json(recipes) if group else pages.grid_json(grid)
        formats.write_tables(out, tables, as_json=as_json, as_csv=groups.to_csv(recipes) if group else pages.grid_csv(grid))
        console.say(f"written: {out}")
    if chart is not None:
        drawn = pages.group_charts(recipes) if group else pages.charts(grid)
        save_charts(drawn, chart, "Accuracy against forward passes")
        console.say(f"written: {chart}")
