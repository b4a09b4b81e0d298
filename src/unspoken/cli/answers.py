"""Commands that put questions to runs: eval, ask, compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unspoken.cli.options import (
    MaxNewTokens,
    Run,
    Seed,
    TaskOverrides,
    Temperature,
    TopK,
    TopP,
    app,
    argument,
    given,
    new_console,
    task_of,
)
from unspoken.errors import ConfigError


def _seeds(text: str | None, seed: int | None, out: Path | None) -> list[int | None]:
    """The seeds of an evaluation; None = as the run says."""
    if text is None:
        return [seed]
    if seed is not None or out is not None:
        raise ConfigError("--seeds goes without --seed and --out: there is one report per seed, named by it")
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"--seeds needs different numbers with commas between them, e.g. 41,42,43; got {text!r}")
    return [int(part) for part in parts]


def _report_path(run: Path, task: str, split: str, changed: dict[str, Any]) -> Path:
    """Where a report goes. Settings other than the run's own stand in its name: `compare` reads the plain one."""
    settings = "".join(f"-{name}-{value}" for name, value in changed.items())
    name = f"eval-{task}-{split}{settings}.json"
    return Path(f"{run.name.replace(':', '-')}-{name}") if str(run).startswith("builtin:") else run / name


@app.command("eval")
def evaluate(
    run: Run,
    overrides: TaskOverrides = None,
    task: Annotated[str | None, typer.Option(help="Another task than the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    latents: Annotated[int | None, typer.Option(help="How many latents to think; default as trained.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Make the latents in so many parallel passes (PCCoT).")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 32,
    explain: Annotated[bool, typer.Option(help="Decode the thoughts too, and score the steps.")] = False,
    chains: Annotated[int | None, typer.Option(help="Sets of thoughts per question; default: all (SoftCoT++).")] = None,
    samples: Annotated[int, typer.Option(help="Answers per set of thoughts; several answers vote.")] = 1,
    seeds: Annotated[str | None, typer.Option(help="Evaluate once per seed, e.g. 41,42,43; one report each.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    out: Annotated[Path | None, typer.Option(help="Report file; default RUN/eval-TASK-SPLIT.json.")] = None,
) -> None:
    """Answer a split and score it: accuracy with intervals, and what it cost. Writes a JSON report."""
    from rich.progress import Progress

    from unspoken.evaluation.evaluator import evaluate as score
    from unspoken.evaluation.report import over_seeds, percent, table
    from unspoken.tasks.base import SPLITS
    from unspoken.training.checkpoint import load

    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    chosen = task_of(run, task, overrides or [])
    model = load(run, explain=explain)
    model.parallel = parallel
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    said = _seeds(seeds, seed, out)
    console = new_console()
    reports = {}
    for one in said:
        settings = {**speaking, **given(seed=one)}
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            job = bar.add_task("questions", total=None)
            report = score(
                model, chosen, split, limit=limit, latents=latents, batch_size=batch_size, explain=explain,
                chains=model.chains if chains is None else chains, samples=samples,
                progress=lambda done, total, job=job, bar=bar: bar.update(job, completed=done, total=total), **settings,
            )  # fmt: skip
        several = {"chains": chains, "samples": samples if samples > 1 else None}
        target = out or _report_path(
            run,
            chosen.name,
            split,
            given(limit=limit, latents=latents, parallel=parallel, explain=explain or None, **several, **settings),
        )
        report.save(target)
        reports[f"{run.name}, seed {one}" if len(said) > 1 else run.name] = report
        written = f"report: {target}"
        if len(said) > 1:
            console.print(written, highlight=False, soft_wrap=True)
    console.print(table(reports))
    if len(said) > 1:
        console.print(over_seeds(list(reports.values())), highlight=False)
        return
    if (steps := report.step_accuracy) is not None:
        right = f"{percent(steps.correct_only.value)}%" if steps.correct_only.n else "there is none"
        told = f"{percent(steps.overall.value)}%; where the answer is right, {right}"
        console.print(f"decoded steps equal to the true step: {told}")
    console.print(written, highlight=False, soft_wrap=True)


@app.command()
def ask(
    run: Run,
    question: Annotated[str, argument("A question in plain text; - reads it from standard input.")],
    show_thoughts: Annotated[bool, typer.Option("--show-thoughts", help="Print the decoded thoughts.")] = False,
    latents: Annotated[int | None, typer.Option(help="How many latents to think.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Ask a trained model one question."""
    from dataclasses import asdict

    from unspoken.training.checkpoint import load

    text = sys.stdin.read() if question == "-" else question
    model = load(run, explain=show_thoughts)
    speaking = given(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens)
    said = model.answer([text], latents=latents, explain=show_thoughts, names=["the question"], **speaking)[0]
    if as_json:
        typer.echo(json.dumps(asdict(said), ensure_ascii=False))
        return
    for number, thought in enumerate(said.thoughts or (), start=1):
        typer.echo(f"thought {number}: {thought}")
    typer.echo(said.text)
    end = " and eos" if said.finished else ""
    typer.echo(f"({said.latents} latents, {said.visible} tokens{end}, {said.passes} forward passes)", err=True)


@app.command()
def compare(
    runs: Annotated[list[Path], argument("Run directories (evaluated before) or report files.")],
    out: Annotated[Path | None, typer.Option(help="Also write Markdown (.md) or JSON (.json).")] = None,
) -> None:
    """Put evaluations side by side: a table, and a paired test on the problems they share."""
    from unspoken.evaluation.records import EvalReport, write_atomic
    from unspoken.evaluation.report import compare as pair
    from unspoken.evaluation.report import comparison_markdown, comparison_table, table, to_json, to_markdown

    reports = {}
    for path in runs:
        files = sorted(path.glob("eval-*-test.json")) if path.is_dir() else [path]
        if len(files) != 1:
            there = files or (sorted(path.glob("eval-*.json")) if path.is_dir() else [])
            found = f"{len(files) or 'no'} report{'' if len(files) == 1 else 's'} of a whole test split"
            named = f" ({', '.join(f.name for f in there)})" if there else ""
            raise ConfigError(f"{path} has {found}{named}; run `unspoken eval {path}`, or name one report file")
        short = path.name if path.is_dir() else path.parent.name if path.stem.startswith("eval-") else path.stem
        label = next(n for n in (short, str(path), *(f"{path} ({k})" for k in range(2, 99))) if n not in reports)
        reports[label] = EvalReport.from_json(files[0])
    console = new_console()
    console.print(table(reports))
    comparison = pair(reports) if len(reports) > 1 else None
    if comparison is not None:
        console.print(comparison_table(comparison))
    if out is not None:
        if out.suffix == ".json":
            write_atomic(out, to_json(reports))
        else:
            write_atomic(out, to_markdown(reports) + ("\n" + comparison_markdown(comparison) if comparison else ""))
        console.print(f"written: {out}", highlight=False)
