"""`unspoken scale`: several trajectories of thought per question, a vote, and what it costs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import (
    FILE,
    Latents,
    MaxNewTokens,
    OtherTask,
    Run,
    Seed,
    SplitName,
    TaskOverrides,
    TopK,
    TopP,
    app,
    given,
    new_console,
    numbers,
    task_of,
)
from unspoken.cli._progress import bar
from unspoken.errors import ConfigError


@app.command("scale")
def scale(
    run: Run,
    overrides: TaskOverrides = None,
    by: Annotated[str, typer.Option(help="noise or dropout (on latents), or sampling (of words).")] = "noise",
    n: Annotated[str, typer.Option("-n", "--n", help="Numbers of trajectories.")] = "1,2,4,8",
    strength: Annotated[
        float | None, typer.Option(help="Of noise, in deviations (0.3); dropout's share (0.1); temperature (1).")
    ] = None,
    task: OtherTask = None,
    split: SplitName = "test",
    limit: Annotated[int, typer.Option(help="Only the first N problems; 0 = all.")] = 200,
    latents: Latents = None,
    batch_size: Annotated[int, typer.Option(help="Answers per batch.")] = 256,
    trajectory_seed: Annotated[int, typer.Option(help="Seed of noise and dropout.")] = 0,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    out: Annotated[Path | None, typer.Option(help="JSON file, a .md and a .svg beside it; default in RUN.", **FILE)] = None,
) -> None:
    """Think several times about each question and vote: accuracy against cost. Writes JSON, a table and a curve."""
    from unspoken.causal.scaling import scale as along
    from unspoken.runs.directory import RunDir, load

    if limit < 0:
        raise ConfigError(f"--limit must be at least 1, or 0 for the whole split, got {limit}")
    counts = numbers(n, "--n")
    if any(count != int(count) for count in counts):
        raise ConfigError(f"--n needs whole numbers with commas between them, e.g. 1,2,4,8; got {n!r}")
    if out is not None and out.suffix != ".json":
        raise ConfigError(f"--out must end in .json (a .md and a .svg go beside it), got {str(out)!r}")
    chosen = task_of(run, task, overrides)
    model = load(run, explain=False)
    console = new_console()
    changed = given(latents=latents, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    with bar(console, "trajectories") as tell:
        report = along(
            model, chosen, split, by=by, counts=[int(count) for count in counts], strength=strength,
            limit=limit or None, batch_size=batch_size, trajectory_seed=trajectory_seed,
            progress=partial(tell, "trajectories"), **changed,
        )  # fmt: skip
    settings = {**changed, **({} if limit == 200 else {"limit": limit or "all"})}
    target = out or RunDir(run).place(f"scale-{chosen.name}-{split}-{by}-{report.strength:g}", ".json", **settings)
    report.save(target)
    console.print(report.table)
    console.print(report.verdict, highlight=False)
    console.say(f"report: {target} (and .md, .svg)")
