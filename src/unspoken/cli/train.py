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
    seed_list,
)
from unspoken.cli._progress import run_training
from unspoken.errors import ConfigError


@app.command()
def train(
    recipe: Annotated[str, argument("A recipe's name (see `list`) or a JSON file.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/RECIPE.", **FOLDER)] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Once per training seed: 3 (0 to 2) or 1,2,3; a run each, in OUT-seed-N.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe. The same command goes on where a killed run stopped."""
    from unspoken.recipes import recipe as load_recipe

    given = overrides or []
    place = out or Path("runs") / recipe.removesuffix(".json").replace("/", "-")
    if seeds is None:
        run_training(load_recipe(recipe, given), place, recipe, quiet)
        return
    if fixed := [one for one in given if one.partition("=")[0].strip() == "train.seed"]:
        raise ConfigError(f"--seeds sets train.seed, so it goes without {fixed[0]}")
    # Every config is checked before the first run begins.
    configs = {seed: load_recipe(recipe, [*given, f"train.seed={seed}"]) for seed in seed_list(seeds, "runs")}
    places = {seed: place.with_name(f"{place.name}-seed-{seed}") for seed in configs}
    for seed, config in configs.items():
        run_training(config, places[seed], f"{recipe}, seed {seed}", quiet)
    named = " ".join(str(one) for one in places.values())
    typer.echo(f"next: unspoken eval RUN for each, then unspoken compare --group {named}", err=True)
