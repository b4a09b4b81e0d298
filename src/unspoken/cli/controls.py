"""`unspoken controls`: does it matter what the latents say?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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


def report_path(run: Path, task: str, split: str, changed: dict[str, Any]) -> Path:
    """Where the report goes: beside that of `eval`, settings other than the default in its name."""
    settings = "".join(f"-{name}-{value}" for name, value in changed.items())
    return run / f"controls-{task}-{split}{settings}.json"


def control(model: Any, task: Any, split: str, out: Path, console: Any, **how: Any) -> Any:
    """Run controls, write their report, and say what they found.

    Args:
        how: arguments of `run_controls`.
    """
    from unspoken.causal.control_report import table
    from unspoken.causal.controls import run_controls

    with bar(console, "controls") as tell:
        report = run_controls(
            model, task, split,
            progress=lambda name, done, total: tell(done, total, description=f"controls: {name}"),
            **how,
        )  # fmt: skip
    report.save(out)
    console.print(table(report))
    console.print(report.verdict, highlight=False)
    console.say(f"controls: {out}")
    return report


def after_eval(
    model: Any, task: Any, split: str, report: Path, console: Any, wanted: bool | None, most: int, **how: Any
) -> None:
    """What `eval` does about controls: it runs them where there are latents, unless they are not wanted.

    Args:
        report: where the evaluation went; that of the controls goes beside it.
        wanted: None = where there are latents.
        most: problems per control.
        how: limit, batch size, latents, chains and speaking of the evaluation; what is None was not given.
    """
    if most < 1:
        raise ConfigError(f"--controls-limit must be at least 1, got {most}; --no-controls leaves them out")
    how = given(**how)
    if wanted is False or (wanted is None and (not model.method.latents_per_group or how.get("latents") == 0)):
        return
    how["limit"] = min(most, how.get("limit", most))
    target = report.with_name(f"controls-{report.name.removeprefix('eval-')}")
    first = f"controls: the first {how['limit']} problems again, with tampered latents (--no-controls leaves this out)"
    console.say(first)
    control(model, task, split, target, console, **how)


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
    from unspoken.core.files import write_text
    from unspoken.runs.directory import load

    if limit < 0:
        raise ConfigError(f"--limit must be at least 1, or 0 for the whole split, got {limit}")
    chosen = task_of(run, task, overrides)
    model = load(run, explain=False)
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    names = None if only is None else [name.strip() for name in only.split(",")]
    changed = given(latents=latents, chains=chains, **speaking)
    named = {
        **changed,
        **given(seed_of_controls=control_seed or None),
        **({} if limit == CONTROLLED else {"limit": limit or "all"}),
    }
    target = out or report_path(run, chosen.name, split, named)
    report = control(
        model, chosen, split, target, new_console(), limit=limit or None, batch_size=batch_size, only=names,
        noise=numbers(noise, "--noise"), **changed, **({"control_seed": control_seed} if control_seed else {}),
    )  # fmt: skip
    if markdown is not None:
        write_text(markdown, to_markdown(report))
