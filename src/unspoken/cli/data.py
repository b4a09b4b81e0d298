"""`unspoken data`: look at a task's problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unspoken.cli._options import (
    FILE,
    SplitName,
    TaskName,
    TaskOverrides,
    app,
    task_named,
)
from unspoken.errors import DataError

if TYPE_CHECKING:
    from unspoken.core.text.example import Example
    from unspoken.tasks import Split, Task


@app.command()
def data(
    task: TaskName,
    overrides: TaskOverrides = None,
    split: SplitName = "train",
    n: Annotated[int, typer.Option("-n", help="How many to show.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the whole split as JSONL.", **FILE)] = None,
) -> None:
    """Look at a task's problems, check a data file, or write a split as JSONL."""
    from unspoken.core.files import write_text
    from unspoken.tasks.reading.remarks import remarks

    chosen = task_named(task, overrides)
    examples = _examples(chosen, split)
    rows = [{"question": e.question, "steps": list(e.steps), "answer": e.answer, "id": e.id} for e in examples]
    if out is not None:
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        typer.echo(f"{len(rows)} examples written to {out}")
        return
    for row in rows[:n]:
        typer.echo(json.dumps(row, ensure_ascii=False))
    if not examples:
        raise DataError(f"the {split} split of {chosen.name} is empty")
    lengths = sorted(len(e.steps) for e in examples)
    if bare := lengths.count(0):
        typer.echo(f"{bare} of {len(rows)} have no step", err=True)
    for line in remarks(chosen, split, all_of_it=True):
        typer.echo(line, err=True)
    typer.echo(
        f"{len(rows)} examples, {lengths[0]} to {lengths[-1]} steps, fingerprint {chosen.fingerprint(split)}", err=True
    )


def _examples(task: Task, split: Split) -> Sequence[Example]:
    """A split; where none of its rows is left, what is known of those there were is said before the error."""
    from unspoken.tasks.reading.remarks import before_dropping, dropped, repeated

    try:
        return task.examples(split)
    except DataError:
        for line in dropped(task, split) + repeated(before_dropping(task, split, []), split):
            typer.echo(line, err=True)
        raise
