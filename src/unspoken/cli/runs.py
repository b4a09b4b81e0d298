"""`unspoken runs`: what lies in runs/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import AsJson, app, argument, new_console
from unspoken.errors import ConfigError


@app.command()
def runs(
    folder: Annotated[Path, argument("Where to look; default runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """The runs in a folder: how far each is, what it scored, how much room it takes."""
    from unspoken.evaluation.listing import find_runs, listed, table

    found = [listed(path) for path in find_runs(folder)]
    if as_json:
        typer.echo(json.dumps([one.plain() for one in found], indent=1))
        return
    if not found:
        where = f"no runs in {folder}" if folder.is_dir() else f"{folder}: no such folder"
        raise ConfigError(f"{where}; `unspoken train tiny/sim_cot` makes a run in runs")
    new_console().print(table(found))
