"""`unspoken list`: recipes, methods and tasks."""

from __future__ import annotations

import sys

import typer

from unspoken.cli._options import (
    app,
)


@app.command("list")
def list_() -> None:
    """Recipes, methods, tasks, a line each."""

    from unspoken.core.config import lookup, plugins
    from unspoken.methods import METHODS
    from unspoken.recipes import RECIPES
    from unspoken.tasks import TASKS

    for kind, table in (("recipe", RECIPES), ("method", METHODS), ("task", TASKS)):
        typer.echo(f"{kind}s:")
        every = {**plugins(kind), **table}
        for name in sorted(every, key=[*table, *every].index):
            what = lookup(every, name, kind)
            text = (sys.modules[what.__module__] if kind == "method" else what).__doc__ or ""
            typer.echo(f"  {name:34} {text.strip().splitlines()[0]}")
