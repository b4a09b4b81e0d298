"""`unspoken condense`: shorten a task's reasoning with a language model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import FILE, SplitName, TaskName, TaskOverrides, app, new_console, task_named
from unspoken.cli._progress import bar


@app.command()
def condense(
    task: TaskName,
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="The name of its model.")],
    out: Annotated[Path, typer.Option(help="The JSONL file; rows that are there already are kept.", **FILE)],
    overrides: TaskOverrides = None,
    split: SplitName = "train",
    words: Annotated[int, typer.Option(help="Words to ask for.", min=1)] = 10,
    key: Annotated[str, typer.Option(help="The environment variable that holds the key.")] = "OPENAI_API_KEY",
    workers: Annotated[int, typer.Option(help="Calls at the same time.", min=1)] = 4,
) -> None:
    """Let a language model condense a task's reasoning, for SemCoT's encoder. The same command goes on where it stopped."""
    from unspoken.tasks.condense import Endpoint, condense_file
    from unspoken.tasks.reading.segment import bare

    chosen = task_named(task, overrides)
    examples = chosen.examples(split)
    if all(bare(step) for e in examples for step in e.steps) and not any("reasoning" in e.meta for e in examples):
        told = "steps that are equations without words say little to be condensed; another rule keeps the words: steps=lines"
        typer.echo(f"warning: {told}", err=True)
    with bar(new_console(), "rows") as tell:
        asked = condense_file(
            Endpoint(url=url, model=model, key=key),
            examples,
            out,
            words=words,
            workers=workers,
            progress=partial(tell, "rows"),
        )
    typer.echo(f"{len(examples)} rows in {out}, {asked} of them new; train on them with task files train={out}")
