"""`unspoken inspect`: look at a run's latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unspoken.cli._options import (
    FOLDER,
    Latents,
    OtherTask,
    Run,
    SplitName,
    app,
    argument,
    new_console,
    run_place,
    task_of,
    whole_numbers,
)
from unspoken.cli._progress import bar

if TYPE_CHECKING:
    from unspoken.cli._terminal import Terminal
    from unspoken.inspector.look import Inspection
    from unspoken.tasks import Split, Task

Rest = Annotated[
    list[str] | None, argument("Another run to stand beside it, and overrides of the task's fields, e.g. root=DIR.")
]


def _counts(text: str | None) -> list[int] | None:
    """Numbers of latents to compare; "none" = no comparison."""
    if text is None:
        return None
    if text == "none":
        return []
    return whole_numbers(text, "--counts", "1,2,4, or none", most=1 << 20)


def _formats(text: str | None) -> list[str]:
    """Formats of figures."""
    from unspoken.errors import ConfigError

    names = [name.strip().lower().removeprefix(".") for name in (text or "").split(",") if name.strip()]
    if odd := [name for name in names if name not in ("svg", "pdf", "png")]:
        raise ConfigError(f"--figures takes svg, pdf and png, e.g. --figures svg,pdf; got {odd[0]!r}")
    return list(dict.fromkeys(names))


def _second(rest: list[str] | None) -> tuple[Path | None, list[str]]:
    """The run that is to stand beside the first, and the overrides: what has a `=`, and is no folder, is one of these.

    Raises:
        ConfigError: a third run.
    """
    from unspoken.errors import ConfigError

    runs = [one for one in rest or () if "=" not in one or Path(one).is_dir()]
    if len(runs) > 1:
        raise ConfigError(f"inspect looks at one run, or at two side by side; got a third, {runs[1]!r}")
    return (run_place(runs[0]) if runs else None), [one for one in rest or () if one not in runs]


@app.command()
def inspect(
    run: Run,
    rest: Rest = None,
    task: OtherTask = None,
    split: SplitName = "test",
    n: Annotated[int, typer.Option("-n", help="How many problems, from the first on.", min=1)] = 200,
    latents: Latents = None,
    counts: Annotated[str | None, typer.Option(help="Numbers of latents to compare, e.g. 1,2,4; none = no such.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="Save the figures too: svg, pdf, png, or several (all but svg need matplotlib).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder; default RUN/inspect-TASK-SPLIT.", **FOLDER)] = None,
) -> None:
    """Look at the latents: decoded steps, nearest words, similarity, attention, stability. Writes a page, JSON, vectors.

    With two runs, the page shows both side by side on the problems of the first one's task.
    """
    from unspoken.pages.inspection import labels, summary, verdict, write_inspection
    from unspoken.runs.directory import RunDir

    numbers, formats = _counts(counts), _formats(figures)
    other, overrides = _second(rest)
    if formats:
        from unspoken.pages.drawing import check_formats

        check_formats(formats)
    chosen = task_of(run, task, overrides)
    console = new_console()
    runs = [run] if other is None else [run, other]
    seen = [_seen(console, one, chosen, split, n, latents, numbers) for one in runs]
    beside = "" if other is None else f"-beside-{other.resolve().name}"
    folder = out or RunDir(run).place(f"inspect-{chosen.name}-{split}{beside}")
    files = write_inspection(seen[0], folder, *seen[1:])
    for one, label in zip(seen, labels(seen), strict=True):
        if formats:
            from unspoken.pages.plots import draw

            files += draw(one, folder, formats, label if other is not None else "")
        console.print(summary(one) if other is None else f"{label}: {summary(one)}", highlight=False)
        if (collapsed := verdict(one)) is not None:
            console.print(f"collapsed: {collapsed}", highlight=False)
    for file in files:
        console.say(f"written: {file}")


def _seen(
    console: Terminal, run: Path, task: Task, split: Split, n: int, latents: int | None, counts: list[int] | None
) -> Inspection:
    """What there is to see of one run."""
    from unspoken.inspector.look import inspect as look
    from unspoken.runs.directory import RunDir, load

    model = load(run)
    with bar(console, "problems") as tell:
        return look(
            model, task, split, limit=n, latents=latents, counts=counts, metrics=RunDir(run).metrics(),
            progress=partial(tell, "problems"),
        )  # fmt: skip
