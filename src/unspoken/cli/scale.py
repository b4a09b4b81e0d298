"""`unspoken scale`: several trajectories of thought per question, a vote, and what it costs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

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
    split_of,
    task_of,
    whole_numbers,
)
from unspoken.cli._progress import bar
from unspoken.errors import ConfigError
from unspoken.tasks.base import Split

RankSplit = Annotated[
    Split, typer.Option(help="What it learns from: train or validation.", parser=split_of, metavar="<str>")
]


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
    rank: Annotated[bool, typer.Option("--rank", help="Teach a head on latents to select, and use it.")] = False,
    rank_split: RankSplit = "train",
    rank_limit: Annotated[int, typer.Option(help="The head learns from the first N problems.")] = 1000,
    ranker: Annotated[Path | None, typer.Option(help="Select by this saved head (.safetensors) instead.")] = None,
    beam: Annotated[int | None, typer.Option(help="Also search by the head: so many stay after each thought.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file, a .md and a .svg beside it; default in RUN.", **FILE)] = None,
) -> None:
    """Think several times about each question and vote: accuracy against cost. Writes JSON, a table and a curve.

    --rank also selects by a head on latents, after LatentTTS (arXiv 2510.07745), against controls.
    """
    from unspoken.causal.latent_ranker import Learned
    from unspoken.causal.ranker import learn
    from unspoken.causal.scaling import scale as along
    from unspoken.runs.directory import RunDir, load

    if limit < 0:
        raise ConfigError(f"--limit must be at least 1, or 0 for the whole split, got {limit}")
    counts = whole_numbers(n, "--n", "1,2,4,8")
    if out is not None and out.suffix != ".json":
        raise ConfigError(f"--out must end in .json (a .md and a .svg go beside it), got {str(out)!r}")
    if rank and ranker is not None:
        raise ConfigError("--rank teaches a head and --ranker names a saved one; leave one of them out")
    if rank and rank_split == split:
        raise ConfigError(f"the head must learn from another split than the one it selects in, {split}; see --rank-split")
    if beam is not None and not rank and ranker is None:
        raise ConfigError("--beam is steered by a head on latents; add --rank, or name a saved one with --ranker")
    if rank_limit < 1:
        raise ConfigError(f"--rank-limit must be at least 1, got {rank_limit}")
    chosen = task_of(run, task, overrides)
    model = load(run, explain=False)
    console = new_console()
    changed = given(latents=latents, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    how: dict[str, Any] = {"by": by, "strength": strength, "batch_size": batch_size, "trajectory_seed": trajectory_seed}
    how |= {"counts": counts, **changed}
    learned = None if ranker is None else Learned.load(ranker)
    with bar(console, "trajectories") as tell:
        if rank:
            asked = [example.question for example in chosen.examples(split)[: limit or None]]
            told = partial(tell, "trajectories to learn from")
            learned = learn(model, chosen, rank_split, limit=rank_limit, leave_out=asked, progress=told, **how)
            name = f"ranker-{by}-{learned.lesson.strength:g}"
            beside = RunDir(run).place(name, ".safetensors", **given(latents=latents))
            head = beside if out is None else out.with_name(f"{out.stem}-ranker.safetensors")
            learned.save(head)
            console.say(f"head: {head} (and .json)")
        told = partial(tell, "trajectories")
        report = along(model, chosen, split, limit=limit or None, ranker=learned, beam=beam, progress=told, **how)
    settings = {**changed, **({} if limit == 200 else {"limit": limit or "all"}), **given(beam=beam)}
    target = out or RunDir(run).place(f"scale-{chosen.name}-{split}-{by}-{report.strength:g}", ".json", **settings)
    report.save(target)
    console.print(report.table)
    if report.choices is not None:
        console.print(report.choices)
    console.print(report.verdict, highlight=False)
    console.say(f"report: {target} (and .md, .svg)")
