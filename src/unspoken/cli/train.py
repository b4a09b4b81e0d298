"""`unspoken train`: a recipe becomes a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    FOLDER,
    Overrides,
    Quiet,
    app,
    argument,
)
from unspoken.cli._progress import run_training


@app.command()
def train(
    recipe: Annotated[str, argument("A recipe's name (see `list`) or a JSON file.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/RECIPE.", **FOLDER)] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe. The same command goes on where a killed run stopped."""
    from unspoken.recipes import recipe as load_recipe

    config = load_recipe(recipe, overrides or [])
    run_training(config, out or Path("runs") / recipe.removesuffix(".json").replace("/", "-"), recipe, quiet)
