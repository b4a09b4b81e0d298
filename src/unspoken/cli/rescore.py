"""`unspoken rescore`: stored answers by other rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import FILE, Report, app, new_console, report_file
from unspoken.errors import ConfigError


@app.command()
def rescore(
    report: Report,
    extractor: Annotated[list[str] | None, typer.Option(help="A rule, several times if need be; default: all.")] = None,
    show: Annotated[int, typer.Option("--list", help="Also show this many problems on which rules differ.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the report as scored by the one --extractor.", **FILE)] = None,
) -> None:
    """Score stored answers again by other rules (the papers', lm-eval's, ...), without the model."""
    from unspoken.core.text.table import Table
    from unspoken.evaluation.records import EvalReport
    from unspoken.evaluation.rescore import agreements, several_marks
    from unspoken.evaluation.rescore import rescore as again
    from unspoken.evaluation.tables import cut_notes, with_interval
    from unspoken.tasks.scoring.extractors import EXTRACTORS

    names = tuple(extractor or ())
    if out is not None and len(names) != 1:
        raise ConfigError(f"--out writes the report as one rule scores it; give one --extractor, got {len(names)}")
    given = EvalReport.from_json(report_file(report))
    found, left_out = agreements(given, names or None)
    table = Table(
        headings=("extractor", "accuracy % (95%)", "found", f"only {given.extractor}", "only this"),
        rows=[
            (one.name, with_interval(one.accuracy), str(one.extracted), str(len(one.only_own)), str(len(one.only_this)))
            for one in found
        ],
    )
    console = new_console()
    console.print(table)
    console.say(
        f"{given.n} problems; found: texts in which the rule finds an answer; only ...: right by one of the two rules alone"
    )
    if several := several_marks(given):
        console.say(
            f"in {several} of {given.answers} texts the first and the last answer mark are followed by other answers: the "
            "model goes on after its answer; `first` scores the first one"
        )
    for line in cut_notes({"": given}):
        console.say(line)
    for one in found:
        for record in (*one.only_own, *one.only_this)[:show]:
            side = f"right by {one.name}" if record.strict else f"right by {given.extractor}"
            found_in = f"answer {record.answer!r}, found {record.extracted!r} in {record.text!r:.160}"
            typer.echo(f"{one.name}: {record.id}: {side} alone; {found_in}")
    for name, reason in left_out.items():
        typer.echo(f"left out: {name}: {reason}", err=True)
    if out is not None:
        again(given, names[0]).save(out)
        console.say(f"written: {out}")
    for one in found if not names else ():
        typer.echo(f"  {one.name:17} {EXTRACTORS[one.name].says}")
