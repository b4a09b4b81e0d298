"""`unspoken card`: a score and a part of its answers, for `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import FILE, Report, app, report_file


@app.command("card")
def card_(
    report: Report,
    out: Annotated[Path, typer.Option(help="The card: a JSON file.", **FILE)],
    n: Annotated[int, typer.Option("-n", help="How many of the answers it holds.")] = 64,
) -> None:
    """Make a card of a report: its score and a part of its answers, which `verify` holds a run to."""
    from unspoken.evaluation.card import make_card
    from unspoken.evaluation.records import EvalReport

    made = make_card(EvalReport.from_json(report_file(report)), n)
    made.save(out)
    typer.echo(f"{out}: {len(made.records)} answers of {made.score.n}")
