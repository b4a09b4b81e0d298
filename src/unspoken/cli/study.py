"""`unspoken study`: a study from its file to its folder of cards, tables, charts and a page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unspoken.cli._options import FOLDER, app, argument, new_console

if TYPE_CHECKING:
    from unspoken.cli._terminal import Terminal
    from unspoken.studies.run import Outcome, Planned, Verified


@app.command()
def study(
    file: Annotated[Path, argument("A study file (.toml, .json), or the folder of a study.toml.")],
    jobs: Annotated[int | None, typer.Option(help="So many runs at a time, on a core each; default 1.")] = None,
    devices: Annotated[str | None, typer.Option(help="A run at a time per device named: cuda:0,cuda:0,cuda:1.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these: factor=value,... or seed=1; may be repeated.")] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Leave out what the results have already, wherever it ran.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what there is to do, and how long it takes.")] = False,
    tables: Annotated[bool, typer.Option("--tables", help="Run nothing; write what is known of runs.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Run nothing; hold the runs against their cards.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of results; default beside the study file.", **FOLDER)] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of runs; default runs/studies.", **FOLDER)] = None,
) -> None:
    """Train and ask every combination of a study with every seed; write cards, tables, charts and a page.

    The same command goes on where an interrupted one stopped; runs that are finished are only read. Runs of which there
    are results but no run directory (made on another machine) are done again, and stay in the results until they are.
    Exit code 1: a run failed, or does not say what its card says.
    """
    from unspoken.errors import ConfigError
    from unspoken.studies.run import planned, run_study, verify_study, write_results

    if sum((plan, tables, verify)) > 1:
        raise ConfigError("give one of --plan, --tables and --verify")
    if missing and (tables or verify):
        raise ConfigError("--missing chooses what is run; --tables and --verify run nothing, so leave it out")
    places = [name.strip() for name in devices.split(",")] if devices is not None else None
    made = planned(file, out=out, runs=runs, only=only or [], missing=missing)
    console = new_console()
    if plan:
        _plan(made, jobs, places, console)
        if not missing:
            _elsewhere(made, console)
        return
    if verify:
        _verify(verify_study(made), console)
        return
    if tables:
        done = write_results(made)
    else:
        console.say(f"{len(made.chosen)} runs in {made.places.runs}; results in {made.places.out}")
        if not missing:
            _elsewhere(made, console)
        try:
            done = run_study(made, jobs=jobs, devices=places, tell=_Teller(console, len(made.chosen)).tell)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on", err=True)
            raise typer.Exit(130) from None
    _show(done, console)


class _Teller:
    """A line when a run begins, ends or has failed, and now and then about how far it is."""

    SECONDS = 60.0

    def __init__(self, console: Terminal, total: int) -> None:
        self.console, self.total, self.ended = console, total, 0
        self.last: dict[str, tuple[str, float]] = {}

    def tell(self, name: str, what: Mapping[str, object]) -> None:
        """See `studies.workers.Tell`."""
        doing = str(what.get("doing", ""))
        before, when = self.last.get(name, ("", 0.0))
        ends = doing == "done" or doing.startswith("failed")
        self.ended += ends
        if not ends and doing.partition(":")[0] == before.partition(":")[0] and time.monotonic() - when < self.SECONDS:
            return
        self.last[name] = (doing, time.monotonic())
        step, of = what.get("step"), what.get("of")
        far = f" {step} of {of}" if step is not None and of else ""
        count = f" ({self.ended} of {self.total})" if ends else ""
        self.console.say(f"{time.strftime('%H:%M:%S')} {name}: {doing}{far}{count}")


def _plan(made: Planned, jobs: int | None, devices: list[str] | None, console: Terminal) -> None:
    """What there is to do of each run, and how long all of it takes."""
    import torch

    from unspoken.cli._progress import bar
    from unspoken.core.text.table import Table
    from unspoken.studies.estimate import estimate, hours
    from unspoken.studies.workers import places_to_run

    count = len(places_to_run(jobs, devices))
    torch.set_num_threads(1)
    with bar(console, "combinations") as tell:
        found = estimate(made.chosen, tell=tell)
    rows = [[one.job.name, one.state, "?" if one.minutes is None else f"{one.minutes:.1f}", one.how] for one in found]
    unknown = sum(one.minutes is None for one in found)
    console.print(
        Table(
            headings=("run", "state", "minutes left", "how known"),
            rows=rows,
            text_columns=2,
            notes=[
                "Minutes of training; evaluations come on top. Measured: a few steps at five places of the schedule, on one "
                "thread of this machine as busy as it is now."
            ],
        )
    )
    console.say(
        f"{len(found)} runs, {sum(one.state == 'done' for one in found)} done; about {hours(found, count):.1f} hours left "
        f"with {count} at a time" + (f", without {unknown} whose time is not known" if unknown else "")
    )


def _elsewhere(made: Planned, console: Terminal) -> None:
    """Say how many of the chosen runs there are results of, but no run directory."""
    if count := sum(job.name in made.known and bool(job.cell) and not job.folder.exists() for job in made.chosen):
        console.say(f"{count} of them have results already, of runs that are not here; --missing leaves them out")


def _verify(found: list[Verified], console: Terminal) -> None:
    """Each run against its card."""
    bad = 0
    for one in found:
        good = one.found is not None and one.found.verified
        bad += not good
        console.say(f"{one.name}: {one.found.lines()[0] if one.found is not None else one.fault}")
        for line in one.found.lines()[1:] if one.found is not None and not good else ():
            console.say(f"  {line}")
    console.say(f"{len(found) - bad} of {len(found)} runs say what their cards say")
    if bad:
        raise typer.Exit(1)


def _show(done: Outcome, console: Terminal) -> None:
    """The tables, what was written, and what failed."""
    from unspoken.studies.report import tables

    for name, some in tables(done.results).items():
        for part in ([name] if name else []) + some:
            console.print(part, highlight=False)
    for file in done.files:
        console.say(f"written: {file}")
    if missing := done.results["missing"]:
        console.say(
            f"not finished: {', '.join(missing[:6])}" + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        )
    for name, why in done.failed.items():
        typer.echo(f"failed: {name}: {why}", err=True)
    if done.failed:
        typer.echo(f"error: {len(done.failed)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)
