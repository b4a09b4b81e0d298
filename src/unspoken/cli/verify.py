"""`unspoken verify`: does a run still give its recorded score?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import Run, app


@app.command()
def verify(
    run: Run,
    card: Annotated[Path, typer.Option(help="What `card` or `eval --card` wrote.")],
    batch_size: Annotated[int | None, typer.Option(help="Questions per batch; default as recorded.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Say whether a run still gives its recorded score, and what is different if not. Exit code 1: it does not."""
    from unspoken.evaluation.card import Card
    from unspoken.evaluation.card import verify as check
    from unspoken.runs.directory import load

    recorded = Card.from_json(card)
    result = check(load(run, explain=False), recorded, batch_size)
    if as_json:
        typer.echo(json.dumps(result.plain(), indent=1, default=str))
    else:
        for line in result.lines():
            typer.echo(line)
    if not result.verified:
        raise typer.Exit(1)
