"""`unspoken quickstart`: train, compare and read latent reasoning in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    FOLDER,
    app,
    new_console,
)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Where the runs and the page go.", **FOLDER)] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of every run.")] = 0,
) -> None:
    """Train No-CoT, Coconut and SIM-CoT on generated problems, compare them, and read the thoughts. Minutes on a laptop."""
    from unspoken.recipes.quickstart import quickstart as run

    run(out, seed, new_console())
