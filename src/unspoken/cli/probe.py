"""`unspoken probe`: a step decoder for a run that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    FOLDER,
    Overrides,
    Quiet,
    Run,
    app,
)
from unspoken.cli._progress import run_training
from unspoken.errors import ConfigError


@app.command()
def probe(
    run: Run,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="Problems with steps; default the run's own task.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default RUN-probe.", **FOLDER)] = None,
    quiet: Quiet = False,
) -> None:
    """Train a step decoder on a frozen run, so that its latents can be read: `ask --show-thoughts`, `inspect`."""
    from unspoken.inspector.probe import probe_config
    from unspoken.runs.directory import RunDir

    if out is None and RunDir(run).inside:
        raise ConfigError("a model of the package or on the Hub has no place for its probe; give --out")
    config = probe_config(run, task, overrides or [])
    run_training(config, out or run.with_name(f"{run.name}-probe"), f"probe of {run.name}", quiet)
