"""`unspoken eval`: answer a split and score it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

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
    Run,
    Seed,
    SplitName,
    Stop,
    TaskOverrides,
    Temperature,
    TopK,
    TopP,
    app,
    given,
    new_console,
    rule_names,
    task_of,
)
from unspoken.cli.controls import after_eval
from unspoken.errors import ConfigError

MOST_SEEDS = 10_000


def _seeds(text: str | None, seed: int | None, out: Path | None) -> list[int | None]:
    """The seeds of an evaluation; None = as the run says. One number is how many: 5 = 0, 1, 2, 3, 4."""
    if text is None:
        return [seed]
    if seed is not None or out is not None:
        raise ConfigError("--seeds goes without --seed and --out: there is one report per seed, named by it")
    parts = [part.strip() for part in text.split(",")]
    if any(len(part) > 18 for part in parts):
        raise ConfigError(f"--seeds needs numbers of at most 18 digits, got {text!r:.60}")
    if len(parts) == 1 and parts[0].isdecimal() and int(parts[0]):
        if int(parts[0]) > MOST_SEEDS:
            raise ConfigError(
                f"--seeds {parts[0]} asks for so many evaluations; {MOST_SEEDS} at most. The one seed {parts[0]} is "
                f"--seeds {parts[0]},"
            )
        return list(range(int(parts[0])))
    if len(parts) == 2 and not parts[-1]:  # "41," is the seed 41 alone
        del parts[-1]
    elif len(parts) == 1:
        parts = [""]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(
            f"--seeds needs how many, e.g. 5 for 0 to 4, or different numbers with commas, e.g. 41,42,43; got {text!r}"
        )
    return [int(part) for part in parts]


def _tasks(run: Path, task: str | None, tasks: str | None, overrides: list[str], out: Path | None) -> list[Any]:
    """The tasks of an evaluation; each takes all overrides."""
    if tasks is None:
        return [task_of(run, task, overrides)]
    if task is not None or out is not None:
        raise ConfigError("--tasks goes without --task and --out: there is one report per task, named by it")
    names = [name.strip() for name in tasks.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--tasks needs different names with commas between them, e.g. gsm8k,svamp; got {tasks!r}")
    return [task_of(run, name, overrides) for name in names]


def _report_path(run: Path, task: str, split: str, changed: dict[str, Any]) -> Path:
    """Where a report goes. Settings other than the run's own stand in its name: `compare` reads the plain one."""
    plain = {name: re.sub(r"[^\w.]+", "-", str(value)) for name, value in changed.items()}
    settings = "".join(f"-{name}-{value}" for name, value in plain.items())
    name = f"eval-{task}-{split}{settings}.json"
    return Path(f"{run.name.replace(':', '-')}-{name}") if str(run).startswith("builtin:") else run / name


@app.command("eval")
def evaluate(
    run: Run,
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
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Report file; default RUN/eval-TASK-SPLIT.json.", **FILE)] = None,
    controls: Annotated[
        bool | None, typer.Option(help="Do the latents matter? Default: asked where there are some.")
    ] = None,
    controls_limit: Annotated[int, typer.Option(help="Problems per control (see `controls`).")] = CONTROLLED,
    extractors: Annotated[str | None, typer.Option(help="Also score by these rules (`rescore`): all, or names.")] = None,
    card: Annotated[Path | None, typer.Option(help="Also write a card, for `verify`.", **FILE)] = None,
    restart: Annotated[bool, typer.Option(help="Throw away what an interrupted evaluation left.")] = False,
) -> None:
    """Answer a split and score it: accuracy with intervals, and what it cost. Writes a JSON report.

    The same command goes on where an interrupted one stopped. Processes that torchrun starts share the problems.
    """
    from rich.progress import Progress

    from unspoken.core.files import check_file
    from unspoken.evaluation.evaluator import evaluate as score
    from unspoken.evaluation.processes import processes
    from unspoken.evaluation.records import pooled_over_seeds as together
    from unspoken.evaluation.rescore import agreements
    from unspoken.evaluation.resume import PartialReport
    from unspoken.evaluation.tables import by_rules, details, over_sampling_seeds, table
    from unspoken.runs.directory import load
    from unspoken.tasks.reading.remarks import remarks
    from unspoken.tasks.scoring.extractors import EXTRACTORS

    every, said = _tasks(run, task, tasks, overrides or [], out), _seeds(seeds, seed, out)
    rules = rule_names(extractors)
    if card is not None and len(every) * len(said) > 1:
        raise ConfigError("--card is of one report; give one task and one seed, or run `unspoken card` on each report")
    if out is not None:
        check_file(out)
    me = processes()
    model = load(run, explain=explain, device=me.device, dtype=dtype)
    model.parallel = parallel
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    speaking |= given(stop=stop, expect=expect)
    console = new_console(quiet=not me.main)
    if len(said) > 1 and speaking.get("temperature", model.speaking.temperature) == 0:
        console.print("note: at temperature 0 nothing is drawn, so every seed gives the same answers; see --temperature")
    for chosen in every:
        for line in remarks(chosen, split) if me.main else ():
            typer.echo(f"warning: {line}", err=True)
        reports = {}
        for one in said:
            settings = {**speaking, **given(seed=one)}
            several = {"chains": chains, "samples": samples if samples > 1 else None}
            named = given(
                limit=limit, latents=latents, parallel=parallel, explain=explain or None, dtype=dtype, **several, **settings
            )
            target = out or _report_path(run, chosen.name, split, named)
            keep = PartialReport(target, me, restart)
            with Progress(console=console, transient=True, disable=not console.is_terminal) as bar, _goes_on(keep):
                job = bar.add_task("questions", total=None)
                tell = _teller(bar, job, console)
                report = score(
                    model, chosen, split, limit=limit, latents=latents, batch_size=batch_size, explain=explain,
                    chains=model.chains if chains is None else chains, samples=samples, keep=keep,
                    progress=tell, **settings,
                )  # fmt: skip
            if me.main:
                report.save(target)
            keep.forget()
            reports[f"{run.name}, seed {one}" if len(said) > 1 else run.name] = report
            if len(said) > 1:
                console.say(f"report: {target}")
        console.print(table(reports))
        if len(said) > 1:
            console.say(over_sampling_seeds(list(reports.values())))
            for line in together(list(reports.values())).lines():
                console.say(line)
        for label, report in reports.items():
            where = f"{label}: " if len(said) > 1 else ""
            every = set(rules) == set(EXTRACTORS)
            others = by_rules(*agreements(report, None if every else rules)) if rules else []
            for line in details(report) + others:
                console.say(where + line)
        if len(said) == 1:
            console.say(f"report: {target}")
            if me.main:
                how = {"limit": limit, "batch_size": batch_size, "latents": latents, "chains": chains, **speaking}
                how.pop("expect", None)  # it changes no answer
                wanted = (
                    False if stop is not None and controls is None else controls
                )  # with a stop rule no latent can be changed
                after_eval(model, chosen, split, target, console, wanted, controls_limit, **how)
    if card is not None and me.main:
        from unspoken.evaluation.card import make_card

        make_card(report).save(card)
        console.say(f"card: {card}")
    me.close()


def _teller(bar: Any, job: Any, console: Any) -> Callable[[int, int], None]:
    """Moves a bar; says first how much an interrupted evaluation has left."""
    calls: list[int] = []

    def tell(done: int, total: int) -> None:
        if not calls and done:
            console.print(f"going on: {done} of {total} problems were answered before", highlight=False)
        calls.append(done)
        bar.update(job, completed=done, total=total)

    return tell


@contextlib.contextmanager
def _goes_on(keep: Any) -> Iterator[None]:
    """Where an evaluation is stopped, say that what is done is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if keep.processes.main:
            typer.echo(f"interrupted; the same command goes on with what is kept beside {keep.report}", err=True)
        raise typer.Exit(130) from None
