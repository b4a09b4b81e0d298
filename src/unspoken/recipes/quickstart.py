"""`unspoken quickstart`: train, compare and read latent reasoning in a few minutes on two CPU cores.

From the explicit-CoT model inside the package, trains No-CoT, Coconut and SIM-CoT on generated word problems with the
same number of updates on the same problems, evaluates all four on a test split none has seen, prints the table, decodes
the thoughts of three problems next to the true steps, and writes a page with curves and table. Runs that are already
there go on, or are only evaluated.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import torch
from rich.console import Console

from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport, Record, same_step
from unspoken.evaluation.tables import compare as pair
from unspoken.evaluation.tables import comparison_table, percent, table
from unspoken.pages.runs import PageRun, thoughts_of, write_page
from unspoken.recipes import tiny
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir, load
from unspoken.tasks import make_task
from unspoken.training.loop import train
from unspoken.training.progress import Bars

PROBLEMS = 500
"""Test problems. The 95% interval of a rate is then at most 4.4 points to each side."""

START = "SFT-CoT"


def quickstart(out: Path, seed: int, console: Console, problems: int = PROBLEMS) -> dict[str, EvalReport]:
    """Run it all.

    Args:
        out: gets a run directory per method, a report per method, and index.html.
        seed: of the runs and of the order of their data.
        console: where progress, table and thoughts are printed.
        problems: test problems to evaluate on.

    Returns:
        Label -> report, explicit CoT first.
    """
    began = time.perf_counter()
    runs = {label: make(seed) for label, make in tiny.QUICKSTART.items()}
    start = tiny.START
    names, cores = list(runs), _cores()
    updates = max(config.train.steps or 0 for config in runs.values())
    for line in (
        f"Three steps, about {'5' if cores > 1 else '10'} minutes on {min(cores, 2)} free core{'s' if cores > 1 else ''}:",
        f"  1. {', '.join(names[:-1])} and {names[-1]} train from {start}, a small model that writes its steps: "
        f"{updates:,} updates each, on the same problems",
        f"  2. they and {start} answer {problems:,} problems that none has seen",
        f"  3. what the latents of {names[-1]} say is decoded into words, and all of it goes into {out / 'index.html'}",
        "If it is stopped, the same command goes on.\n",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _train_all({label: (config, out / _folder(label)) for label, config in runs.items()}, console)
    task = make_task(next(iter(runs.values())).task)
    reports: dict[str, EvalReport] = {}
    for label in (START, *runs):
        model = load(start) if label == START else load(out / _folder(label))
        with console.status(f"evaluating {label} on {problems} test problems"):
            # Thoughts are decoded in a call of their own below, so that they do not count in the time per question.
            reports[label] = evaluate(model, task, "test", limit=problems, batch_size=100)
        where = out / "sft_cot.json" if label == START else RunDir(out / _folder(label)).report_path(task.name, "test")
        reports[label].save(where)
    console.print(table(reports))
    console.print(comparison_table(pair(reports)))
    explanations: dict[str, EvalReport] = {}
    for label in runs:
        model = load(out / _folder(label))
        if model.explains:
            explained = evaluate(model, task, "test", limit=problems, batch_size=100, explain=True)
            explained.save(RunDir(out / _folder(label)).report_path(task.name, "test", explain=True))
            explanations[label] = explained
            _print_thoughts(label, explained, console)
    page = out / "index.html"
    metrics = {label: RunDir(out / _folder(label)).metrics() for label in runs}
    write_page(
        page,
        "unspoken quickstart",
        [
            PageRun(
                label=label,
                metrics=metrics.get(label, ()),
                report=report,
                thoughts=thoughts_of(explanations[label], 8) if label in explanations else (),
            )
            for label, report in reports.items()
        ],
        lead=_lead(reports, explanations),
    )
    last = out / _folder(list(runs)[-1])
    console.print(f"\nDone in {(time.perf_counter() - began) / 60:.1f} minutes. Page: {page}", markup=False, highlight=False)
    asked = shlex.quote(_question(explanations.get(names[-1], reports[names[-1]])))
    for line in (
        "Ask it something:",
        f"  unspoken ask {last} {asked} --show-thoughts",
        "or talk with it, and change what it thinks on the way:",
        f"  unspoken ask {last}",
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return reports


def _lead(reports: Mapping[str, EvalReport], explanations: Mapping[str, EvalReport]) -> str:
    """The page in two sentences: what the last run, which thinks in latents, is worth beside one that writes its steps."""
    label, report = list(reports.items())[-1]
    start = reports[START]
    low, high = map(percent, report.accuracy.interval)
    right, written = percent(report.accuracy.value), percent(start.accuracy.value)
    said = (
        f"{label} answers {right}% of {report.n} problems correctly (95% interval {low} to {high}) in "
        f"{report.mean_passes:.1f} forward passes, without writing a step; {START}, which writes them, {written}% in "
        f"{start.mean_passes:.1f}."
    )
    steps = explanations[label].step_accuracy if label in explanations else None
    if steps is not None:
        said += f" Decoded into words, {percent(steps.overall.value)}% of its latents are the true step."
    return said


def _question(report: EvalReport) -> str:
    """A problem that the model gets right, with all its thoughts if there is one; else the first problem."""

    def worth(record: Record) -> int:
        pairs = zip(record.steps, record.thoughts or (), strict=False)
        return record.strict + (record.strict and bool(record.thoughts) and all(same_step(*pair) for pair in pairs))

    return max(report.records, key=worth).question


def _train_all(runs: Mapping[str, tuple[RunConfig, Path]], console: Console) -> None:
    """Train the runs side by side, one process and one thread each: small matrices gain nothing from a second thread.

    Runs that are finished are only seen to be the ones that are asked for, which takes no process.

    Raises:
        UnspokenError: whatever stopped a run.
    """
    done = {label for label, (_, path) in runs.items() if RunDir(path).finished}
    for label in done:
        train(*runs[label])
    runs = {label: run for label, run in runs.items() if label not in done}
    if not runs:
        return
    jobs = max(1, min(len(runs), _cores()))
    bars = Bars(list(runs), console)
    for label, (config, path) in runs.items():
        bars.expect(label, config.train.steps, RunDir(path).latest_step() or 0)
    seen = dict.fromkeys(runs, 0)

    def poll() -> None:
        for label, (config, path) in runs.items():
            rows = RunDir(path).metrics()
            for row in rows[seen[label] :]:
                bars.row(label, row, config.train.steps or row["step"])
            seen[label] = len(rows)

    # The longest first, so that no process is left alone at the end.
    with bars, ProcessPoolExecutor(jobs, get_context("spawn"), end_with_parent) as pool:
        waiting = [pool.submit(_train_one, config, path) for config, path in list(runs.values())[::-1]]
        while not all(job.done() for job in waiting):
            wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
            poll()
            for job in waiting:
                if job.done():
                    job.result()
        poll()


def _cores() -> int:
    """Cores that this process may use: fewer than the machine has, in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Let this worker end when the process that started it is killed: it would go on training, for nobody, for minutes.

    Nothing is lost: a run goes on from its last state.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)  # from a thread, nothing gentler ends the process

    threading.Thread(target=watch, daemon=True).start()


def _train_one(config: RunConfig, path: Path) -> None:
    torch.set_num_threads(1)
    train(config, path)


def _folder(label: str) -> str:
    return label.split(" ")[0].lower().replace("-", "_")


def _print_thoughts(label: str, report: EvalReport, console: Console, limit: int = 3) -> None:
    """The first problems with their true steps and what each thought group says."""
    console.print(
        f"\nWhat {label} thinks (the first {limit} test problems; = the decoded step is the true step)", style="bold"
    )
    for record in report.records[:limit]:
        console.print(f"\n  {record.question}", markup=False, highlight=False)
        for number, true in enumerate(record.steps):
            said = record.thoughts[number] if record.thoughts and number < len(record.thoughts) else ""
            sign = "=" if same_step(true, said) else "≠"
            console.print(f"    step {number + 1}  {true:<14} {sign}  thought {said}", markup=False, highlight=False)
        console.print(
            f"    answer  {record.answer:<14} {'=' if record.strict else '≠'}  said    {record.text}",
            markup=False,
            highlight=False,
        )
    if (steps := report.step_accuracy) is not None:
        console.print(
            f"\n  Over {report.n} problems {steps.overall.value:.1%} of the decoded steps are the true step; "
            f"where the answer is right, {steps.correct_only.value:.1%}.",
            highlight=False,
        )
