"""`unspoken show`: all settings of a recipe or a run, as JSON."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from unspoken.cli._options import RECIPE, Overrides, app, argument


@app.command()
def show(
    recipe: Annotated[str, argument("A recipe's name (see `list`), a JSON file, or a run directory.", **RECIPE)],
    overrides: Overrides = None,
) -> None:
    """All settings of a recipe or a run, as JSON: `unspoken show tiny/sim_cot > my.json` is a recipe file to change."""
    from unspoken.core.config import dump
    from unspoken.recipes import recipe as load_recipe
    from unspoken.runs.places import Places

    there = Places(recipe)
    name = str(there.path / "run.json") if there.exists else recipe
    typer.echo(json.dumps(dump(load_recipe(name, overrides or [])), indent=1, ensure_ascii=False))
