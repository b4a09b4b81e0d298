"""`unspoken clean`: room on the disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import app, argument
from unspoken.errors import ConfigError


@app.command()
def clean(
    runs: Annotated[list[Path] | None, argument("Run directories, or folders of them; default runs.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the states of finished runs, which only going on would need. Models, reports and metrics stay."""
    from unspoken.evaluation.listing import find_runs, listed, size_text

    folders = runs or [Path("runs")]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError(f"{missing[0]}: no such folder; give run directories, or folders of them")
    found = {path: listed(path) for folder in folders for path in find_runs(folder)}
    full = {path: one for path, one in found.items() if one.state == "finished" and one.states}
    for one in found.values():
        if one.states and one.state != "finished":
            typer.echo(f"kept: {one.path} is {one.state}; its states ({size_text(one.states)}) are what it goes on from")
    if not full:
        typer.echo("nothing to remove")
        return
    for one in full.values():
        typer.echo(f"{size_text(one.states):>8}  {one.path}/state")
    total = size_text(sum(one.states for one in full.values()))
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"{total} would be removed, and nobody is there to be asked; give --yes")
        typer.confirm(f"Remove these states, {total}?", abort=True)
    for path in full:
        _drop(path)
    typer.echo(f"{total} removed")


def _drop(path: Path) -> None:
    from unspoken.runs.lock import Lock
    from unspoken.runs.places import Places

    lock = Lock(path)
    lock.take()  # somebody may have begun to train here while we asked
    try:
        Places(path).drop_states()
    finally:
        lock.release()
