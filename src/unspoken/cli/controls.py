"""`unspoken controls`: does it matter what the latents say?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unspoken.cli._options import (
    CONTROLLED,
    FILE,
    BatchSize,
    Chains,
    Latents,
    MaxNewTokens,
    OtherTask,
    Run,
    Seed,
    SplitName,
    TaskOverrides,
    Temperature,
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

if TYPE_CHECKING:
    from unspoken.causal.control_report import ControlsReport
    from unspoken.cli._terminal import Terminal


def show_controls(report: ControlsReport, path: Path | None, console: Terminal) -> None:
    """Print what controls found, and where their report is."""
    from unspoken.causal.control_report import table

    console.print(table(report))
    console.print(report.verdict, highlight=False)
    console.say(f"controls: {path}")


@app.command("controls")
def controls(
    run: Run,
    overrides: TaskOverrides = None,
    task: OtherTask = None,
    split: SplitName = "test",
    limit: Annotated[int, typer.Option(help="Only the first N problems; 0 = all.")] = CONTROLLED,
    only: Annotated[
        str | None, typer.Option(help="Some controls, e.g. 'shuffled,zero'; default all (docs/guides/controls.md).")
    ] = None,
    noise: Annotated[str, typer.Option(help="Scales of the noise, in standard deviations of the latents.")] = "0.5,1,2",
    control_seed: Annotated[int, typer.Option(help="Seed of the shuffling and of the noise.")] = 0,
    latents: Latents = None,
    batch_size: BatchSize = 32,
    chains: Chains = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    out: Annotated[Path | None, typer.Option(help="Report file; default RUN/controls-TASK-SPLIT.json.", **FILE)] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write verdict and table as Markdown.", **FILE)] = None,
) -> None:
    """Does it matter what the latents say? Answers problems with latents shuffled, averaged, zeroed, noisy, or fewer."""
    from unspoken.causal.control_report import to_markdown
    from unspoken.causal.controls import run_controls
    from unspoken.core.files import write_text
    from unspoken.runs.directory import RunDir, load

    if limit < 0:
        raise ConfigError(f"--limit must be at least 1, or 0 for the whole split, got {limit}")
    chosen = task_of(run, task, overrides)
    model = load(run, explain=False)
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    names = None if only is None else [name.strip() for name in only.split(",")]
    changed = given(latents=latents, chains=chains, **speaking)
    named = {**changed, **given(seed_of_controls=control_seed or None)}
    named |= {} if limit == CONTROLLED else {"limit": limit or "all"}
    target = out or RunDir(run).place(f"controls-{chosen.name}-{split}", ".json", **named)
    console = new_console()
    with bar(console, "controls") as draw:
        report = run_controls(
            model, chosen, split, limit=limit or None, batch_size=batch_size, only=names, noise=numbers(noise, "--noise"),
            control_seed=control_seed, progress=lambda name, done, total: draw(f"controls: {name}", done, total), **changed,
        )  # fmt: skip
    report.save(target)
    show_controls(report, target, console)
    if markdown is not None:
        write_text(markdown, to_markdown(report))
