"""`unspoken train`: a recipe becomes a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unspoken.cli._options import FOLDER, RECIPE, Overrides, Quiet, app, argument, seed_list
from unspoken.cli._progress import run_training
from unspoken.errors import ConfigError

if TYPE_CHECKING:
    from unspoken.runs.config import RunConfig


@app.command()
def train(
    recipe: Annotated[str, argument("A recipe's name (see `list`) or a JSON file.", **RECIPE)],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/RECIPE.", **FOLDER)] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Once per training seed: 3 (0 to 2) or 1,2,3; a run each, in OUT-seed-N.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen and how long; train nothing.")] = False,
    plan: Annotated[
        str | None, typer.Option("--plan", help="Say what it takes on so many cards of so many GB, 8x80, and what fits.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe. The same command goes on where a killed run stopped."""
    from unspoken.recipes import recipe as load_recipe

    given = overrides or []
    place = out or Path("runs") / recipe.removesuffix(".json").replace("/", "-")
    if plan is not None and (seeds is not None or dry_run):
        raise ConfigError("--plan goes without --seeds and --dry-run: it is of one run, and makes no step")
    if seeds is None:
        config = load_recipe(recipe, given)
        if plan is not None:
            _plan(config, plan)
        elif dry_run:
            _tell(config, place)
        else:
            run_training(config, place, recipe, quiet)
            _leave_group()
        return
    if fixed := [one for one in given if one.partition("=")[0].strip() == "train.seed"]:
        raise ConfigError(f"--seeds sets train.seed, so it goes without {fixed[0]}")
    # Every config is checked before the first run begins.
    configs = {seed: load_recipe(recipe, [*given, f"train.seed={seed}"]) for seed in seed_list(seeds, "runs")}
    places = {seed: place.with_name(f"{place.name}-seed-{seed}") for seed in configs}
    if dry_run:
        seed, config = next(iter(configs.items()))
        typer.echo(f"{len(configs)} runs, one after the other; the first:")
        _tell(config, places[seed])
        return
    for seed, config in configs.items():
        run_training(config, places[seed], f"{recipe}, seed {seed}", quiet)
    _leave_group()
    named = " ".join(str(one) for one in places.values())
    typer.echo(f"next: unspoken eval RUN for each, then unspoken compare --group {named}", err=True)


def _leave_group() -> None:
    """Close what several processes had between them; in one process nothing."""
    from unspoken.training.ranks import leave_group

    leave_group()


def _plan(config: RunConfig, cards: str) -> None:
    """The tables of `--plan`."""
    from unspoken.training.memory import needs_of

    count, _, size = cards.partition("x")
    if not (count.isdecimal() and size.isdecimal() and 0 < int(count) < 100_000 and int(size) > 0):
        raise ConfigError(f"--plan takes cards and their GB, such as 8x80 or 1x80, got {cards!r}")
    for line in needs_of(config, int(count), gpu=True).lines(config.train, int(size)):
        typer.echo(line)


def _tell(config: RunConfig, out: Path) -> None:
    """What a training would do, and how long its steps take here."""
    from unspoken.core.fast.switch import using
    from unspoken.training.costs import costs
    from unspoken.training.loop import Training
    from unspoken.training.plan import duration, plan_of
    from unspoken.training.progress import Quiet

    with using(config.fast):
        plan = plan_of(Training(config, out, Quiet()))
    for line in plan.lines():
        typer.echo(line)
    if plan.finished:
        return
    seconds = costs(config, counted=False).seconds or 0.0
    left = duration(seconds * (plan.steps - (plan.done or 0)))
    typer.echo(f"a step takes {seconds:.2g} s here, the steps that are left {left}; validation comes on top")
    typer.echo("nothing was written")
