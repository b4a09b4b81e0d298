"""`unspoken eval`: answer a split and score it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unspoken.cli._options import (
    CONTROLLED,
    FILE,
    BatchSize,
    Chains,
    Dtype,
    Expect,
    Latents,
    MaxNewTokens,
    OtherTask,
    RunOrModel,
    Seed,
    Soft,
    SplitName,
    Stop,
    TaskOverrides,
    Temperature,
    Texts,
    Thinking,
    TopK,
    TopP,
    app,
    given,
    new_console,
    rule_names,
    seed_list,
    task_of,
)
from unspoken.cli._progress import bar
from unspoken.cli.controls import show_controls
from unspoken.errors import ConfigError

if TYPE_CHECKING:
    from unspoken.causal.campaign import Evaluated
    from unspoken.cli._terminal import Terminal


def _seeds(text: str | None, seed: int | None, out: Path | None) -> list[int]:
    """The seeds of several evaluations; none = one, as the run or --seed says."""
    if text is None:
        return []
    if seed is not None or out is not None:
        raise ConfigError("--seeds goes without --seed and --out: there is one report per seed, named by it")
    return seed_list(text, "evaluations")


def _tasks(run: Path, task: str | None, tasks: str | None, overrides: list[str] | None, out: Path | None) -> list[Any]:
    """The tasks of an evaluation; each takes all overrides."""
    from unspoken.runs.places import is_plain

    if tasks is None and task is None and is_plain(run):
        raise ConfigError(f"{run} is a plain Hugging Face model, without a task of its own; give --task, e.g. gsm8k")
    if tasks is None:
        return [task_of(run, task, overrides)]
    if task is not None or out is not None:
        raise ConfigError("--tasks goes without --task and --out: there is one report per task, named by it")
    names = [name.strip() for name in tasks.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--tasks needs different names with commas between them, e.g. gsm8k,svamp; got {tasks!r}")
    return [task_of(run, name, overrides) for name in names]


@app.command("eval")
def evaluate(
    run: RunOrModel,
    overrides: TaskOverrides = None,
    task: OtherTask = None,
    tasks: Annotated[str | None, typer.Option(help="Several, with commas: gsm8k,svamp; one report each.")] = None,
    split: SplitName = "test",
    limit: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    latents: Latents = None,
    parallel: Annotated[int | None, typer.Option(help="Make the latents in so many parallel passes (PCCoT).")] = None,
    batch_size: BatchSize = 32,
    explain: Annotated[bool, typer.Option(help="Decode the thoughts too, and score the steps.")] = False,
    chains: Chains = None,
    samples: Annotated[int, typer.Option(help="Answers per set of thoughts; several answers vote.")] = 1,
    seeds: Annotated[str | None, typer.Option(help="Once per seed: 5 (0 to 4) or 41,42,43; a report each.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    stop: Stop = None,
    expect: Expect = None,
    soft: Soft = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Report file; default RUN/eval-TASK-SPLIT.json.", **FILE)] = None,
    controls: Annotated[
        bool | None, typer.Option(help="Do the latents matter? Default: asked where there are some; with --soft, baselines.")
    ] = None,
    controls_limit: Annotated[int, typer.Option(help="Problems per control (see `controls`).")] = CONTROLLED,
    extractors: Annotated[str | None, typer.Option(help="Also score by these rules (`rescore`): all, or names.")] = None,
    card: Annotated[Path | None, typer.Option(help="Also write a card, for `verify`.", **FILE)] = None,
    track: Annotated[
        bool | None, typer.Option(help="Tell the trackers of the run's training. Default: if it had some.")
    ] = None,
    restart: Annotated[bool, typer.Option(help="Throw away what an interrupted evaluation left.")] = False,
    shots: Annotated[int, typer.Option(help="Solved problems shown to a plain model before each question.")] = 0,
    thinking: Thinking = False,
    texts: Texts = None,
) -> None:
    """Answer a split and score it: accuracy with intervals, and what it cost. Writes a JSON report.

    A plain Hugging Face model is asked with its chat template, as a baseline; its report lands in the current folder.
    The same command goes on where an interrupted one stopped. Processes that torchrun starts share the problems.
    """
    from unspoken.causal.campaign import Campaign
    from unspoken.evaluation.tables import by_rules, details
    from unspoken.tasks.reading.remarks import remarks

    every, said = _tasks(run, task, tasks, overrides, out), _seeds(seeds, seed, out)
    if card is not None and len(every) * max(len(said), 1) > 1:
        raise ConfigError("--card is of one report; give one task and one seed, or run `unspoken card` on each report")
    if controls_limit < 1:
        raise ConfigError(f"--controls-limit must be at least 1, got {controls_limit}; --no-controls leaves them out")
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    campaign = Campaign(
        run=run, tasks=every, seeds=said, split=split, limit=limit, latents=latents, parallel=parallel, card=card, out=out,
        batch_size=batch_size, explain=explain, chains=chains, samples=samples, dtype=dtype, controls=controls,
        controls_limit=controls_limit, extractors=rule_names(extractors), restart=restart,
        shots=shots, thinking=thinking, texts=texts,
        speaking={**speaking, **given(stop=stop, expect=expect, soft=soft)},
    )  # fmt: skip
    me = campaign.processes
    console = new_console(quiet=not me.main)
    if len(said) > 1 and speaking.get("temperature", campaign.model.speaking.temperature) == 0:
        console.print("note: at temperature 0 nothing is drawn, so every seed gives the same answers; see --temperature")
    for chosen in campaign.tasks:
        for line in remarks(chosen, split) if me.main else ():
            typer.echo(f"warning: {line}", err=True)
        found = []
        for one in said or (None,):
            with bar(console, "questions") as draw, _goes_on(campaign.path(chosen, one), me.main):
                found.append(campaign.evaluate(chosen, one, _teller(draw, console)))
            if len(said) > 1:
                console.say(f"report: {found[-1].path}")
        _show(found, run.name, console)
        if me.main and track is not False:
            _track(run, found, track)
        for done in found:
            where = f"{run.name}, seed {done.seed}: " if len(said) > 1 else ""
            for line in details(done.report) + by_rules(done.by_rules, done.left_out):
                console.say(where + line)
        if len(said) < 2:
            console.say(f"report: {found[0].path}")
        if campaign.controlled:
            most = campaign.most_controlled
            what = "in ordinary thinking" if campaign.soft else "with tampered latents"
            console.say(f"controls: the first {most} problems again, {what} (--no-controls leaves this out)")
            with bar(console, "controls") as draw:
                done = campaign.control(chosen, found[0], draw)
            if done.controls is not None:
                show_controls(done.controls, done.controls_path, console)
    if card is not None:
        console.say(f"card: {card}")
    me.close()


def _track(run: Path, found: Sequence[Evaluated], asked: bool | None) -> None:
    """Tell the trackers of the run's training of its evaluations."""
    from unspoken.runs.directory import RunDir
    from unspoken.runs.places import TRACKERS, is_plain

    if not is_plain(run) and (RunDir(run).path / TRACKERS).is_file():
        from unspoken.training.callbacks import track_report

        for done in found:
            track_report(RunDir(run), done.report)
    elif asked:
        raise ConfigError(f"--track needs a run that was trained with a tracker (train.tracker), and {run} was not")


def _show(found: Sequence[Evaluated], name: str, console: Terminal) -> None:
    """The table of a task, and what several seeds come to."""
    from unspoken.evaluation.records import pooled_over_seeds
    from unspoken.evaluation.tables import over_sampling_seeds, table

    reports = [done.report for done in found]
    if len(found) == 1:
        console.print(table({name: reports[0]}))
        return
    console.print(table({f"{name}, seed {done.seed}": done.report for done in found}))
    for line in (over_sampling_seeds(reports), *pooled_over_seeds(reports).lines()):
        console.say(line)


def _teller(draw: Callable[..., None], console: Terminal) -> Callable[[str, int, int], None]:
    """Moves a bar; says first how much an interrupted evaluation has left."""
    calls: list[int] = []

    def tell(what: str, done: int, total: int) -> None:
        if not calls and done:
            console.print(f"going on: {done} of {total} problems were answered before", highlight=False)
        calls.append(done)
        draw(what, done, total)

    return tell


@contextlib.contextmanager
def _goes_on(report: Path, main: bool) -> Iterator[None]:
    """Where an evaluation is stopped, say that what is done is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if main:
            typer.echo(f"interrupted; the same command goes on with what is kept beside {report}", err=True)
        raise typer.Exit(130) from None
