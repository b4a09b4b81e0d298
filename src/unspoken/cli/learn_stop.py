"""`unspoken learn-stop`: learn when to stop thinking."""

from __future__ import annotations

from typing import Annotated

import typer

from unspoken.cli._options import OtherTask, Run, TaskOverrides, app, task_of
from unspoken.errors import ConfigError


@app.command("learn-stop")
def learn_stop(
    run: Run,
    overrides: TaskOverrides = None,
    task: OtherTask = None,
    split: Annotated[str, typer.Option(help="train or validation.")] = "validation",
    limit: Annotated[int, typer.Option(help="Learn from the first N problems.")] = 500,
) -> None:
    """Learn when a run's model has thought enough; `--stop head:0.5` of eval and ask then uses it."""
    from unspoken.experimental.stop_head import learn_stop as learn
    from unspoken.experimental.stopping import STOP_HEAD, save_head
    from unspoken.runs.directory import RunDir, load

    if split not in ("train", "validation"):
        raise ConfigError(f"learn-stop learns from train or validation, never from a test split; got {split!r}")
    if RunDir(run).inside:
        raise ConfigError(f"{RunDir(run).given} is not a folder of yours to write to; give a run directory of your own")
    chosen = task_of(run, task, overrides)
    learned = learn(load(run, explain=False), chosen, chosen.examples(split)[:limit])
    save_head(run / STOP_HEAD, (learned.weight_D, learned.bias))
    typer.echo(
        f"{run / STOP_HEAD}: {learned.places} places to stop; it judges {learned.held:.1%} of those it has not seen rightly "
        f"(always the commoner answer: {learned.usual:.1%}; learned from: {learned.fit:.1%})"
    )
