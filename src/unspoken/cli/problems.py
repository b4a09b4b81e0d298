"""Commands about problems: data, condense, learn-steps, list."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli.options import (
    FILE,
    TaskOverrides,
    app,
    argument,
    new_console,
)
from unspoken.errors import ConfigError, DataError


@app.command()
def data(
    task: Annotated[str, argument("A task's name (see `list`).")],
    overrides: TaskOverrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    n: Annotated[int, typer.Option("-n", help="How many to show.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the whole split as JSONL.", **FILE)] = None,
) -> None:
    """Look at a task's problems, check a data file, or write a split as JSONL."""
    from unspoken.core.config import dump, override
    from unspoken.core.files import write_text
    from unspoken.tasks import make_task, task_config
    from unspoken.tasks.base import SPLITS
    from unspoken.tasks.reading.remarks import remarks

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    chosen = make_task(override(dump(task_config(task)), overrides or []))
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
    for line in remarks(chosen, split, all_of_it=True):  # pyright: ignore[reportArgumentType]
        typer.echo(line, err=True)
    typer.echo(
        f"{len(rows)} examples, {lengths[0]} to {lengths[-1]} steps, fingerprint {chosen.fingerprint(split)}", err=True
    )  # pyright: ignore[reportArgumentType]


def _examples(task: Any, split: Any) -> list[Any]:
    """A split; where none of its rows is left, what is known of those there were is said before the error."""
    from unspoken.tasks.reading.remarks import before_dropping, dropped, repeated

    try:
        return task.examples(split)
    except DataError:
        for line in dropped(task, split) + repeated(before_dropping(task, split, []), split):
            typer.echo(line, err=True)
        raise


@app.command()
def condense(
    task: Annotated[str, argument("A task's name (see `list`).")],
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(help="The name of its model.")],
    out: Annotated[Path, typer.Option(help="The JSONL file; rows that are there already are kept.", **FILE)],
    overrides: TaskOverrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    words: Annotated[int, typer.Option(help="Words to ask for.", min=1)] = 10,
    key: Annotated[str, typer.Option(help="The environment variable that holds the key.")] = "OPENAI_API_KEY",
    workers: Annotated[int, typer.Option(help="Calls at the same time.", min=1)] = 4,
) -> None:
    """Let a language model condense a task's reasoning, for SemCoT's encoder. The same command goes on where it stopped."""
    from rich.progress import Progress

    from unspoken.core.config import dump, override
    from unspoken.tasks import make_task, task_config
    from unspoken.tasks.base import SPLITS
    from unspoken.tasks.condense import Endpoint, condense_file
    from unspoken.tasks.reading.segment import bare

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    chosen = make_task(override(dump(task_config(task)), overrides or []))
    examples = chosen.examples(split)  # pyright: ignore[reportArgumentType]
    if all(bare(step) for e in examples for step in e.steps) and not any("reasoning" in e.meta for e in examples):
        told = "steps that are equations without words say little to be condensed; another rule keeps the words: steps=lines"
        typer.echo(f"warning: {told}", err=True)
    console = new_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task("rows", total=len(examples))
        asked = condense_file(
            Endpoint(url=url, model=model, key=key), examples, out, words=words, workers=workers,
            progress=lambda done, total: bar.update(job, completed=done, total=total),
        )  # fmt: skip
    typer.echo(f"{len(examples)} rows in {out}, {asked} of them new; train on them with task files train={out}")


@app.command("learn-steps")
def learn_steps(
    task: Annotated[str, argument("A task whose steps are known (see `list`).")],
    overrides: TaskOverrides = None,
    out: Annotated[Path, typer.Option(help="Where the rule goes: a JSON file.", **FILE)] = Path("steps.json"),
    limit: Annotated[int, typer.Option(help="Learn from the first N training problems.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the order in which they are looked at.")] = 0,
) -> None:
    """Learn to find reasoning steps in text without marks. `learned:FILE` then is a rule, for tasks and step_weighted."""
    from unspoken.core.config import dump, override
    from unspoken.core.text.step_tagger import learn
    from unspoken.tasks import make_task, task_config
    from unspoken.tasks.reading.segment import bare

    examples = make_task(override(dump(task_config(task)), overrides or [])).examples("train")[:limit]
    if all(bare(step) for example in examples for step in example.steps):
        told = "steps that are equations without words teach a rule for equations; for one that finds text: steps=sentences"
        typer.echo(f"warning: {told}", err=True)
    tagger, f1 = learn([example.steps for example in examples], seed=seed)
    tagger.save(out)
    few = "; too few to measure how well it finds steps"
    measured = (
        few if f1 is None else f"; of every tenth, not learned from, it finds steps with F1 {f1:.3f} (both ends right)"
    )
    typer.echo(f"{out}: learned from {len(examples)} problems{measured}; use it as the rule learned:{out}")


@app.command("list")
def list_() -> None:
    """Recipes, methods, tasks, a line each."""

    from unspoken.core.config import lookup
    from unspoken.methods import METHODS
    from unspoken.recipes import RECIPES
    from unspoken.tasks import TASKS

    for kind, table in (("recipe", RECIPES), ("method", METHODS), ("task", TASKS)):
        typer.echo(f"{kind}s:")
        for name in table:
            what = lookup(table, name, kind)
            text = (sys.modules[what.__module__] if kind == "method" else what).__doc__ or ""
            typer.echo(f"  {name:34} {text.strip().splitlines()[0]}")
