"""`unspoken learn-steps`: learn to find reasoning steps in text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    FILE,
    TaskOverrides,
    app,
    argument,
    task_named,
)


@app.command("learn-steps")
def learn_steps(
    task: Annotated[str, argument("A task whose steps are known (see `list`).")],
    overrides: TaskOverrides = None,
    out: Annotated[Path, typer.Option(help="Where the rule goes: a JSON file.", **FILE)] = Path("steps.json"),
    limit: Annotated[int, typer.Option(help="Learn from the first N training problems.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the order in which they are looked at.")] = 0,
) -> None:
    """Learn to find reasoning steps in text without marks. `learned:FILE` then is a rule, for tasks and step_weighted."""
    from unspoken.experimental.step_tagger import learn
    from unspoken.tasks.reading.segment import bare

    examples = task_named(task, overrides).examples("train")[:limit]
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
