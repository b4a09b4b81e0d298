"""One run of a study, in a process of its own: train it, ask it, look at it. `python -m unspoken.studies.work` does a job
that it reads from standard input, and says on standard output how far it is, a JSON object a line.

What is there already is only looked at, and what was interrupted goes on, so that the same job can be started any number of
times. The process ends when standard input does: it never outlives who started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from unspoken.causal.campaign import Campaign, Evaluated
from unspoken.causal.interchange import interchange
from unspoken.core.config import build, dump, lookup
from unspoken.core.files import write_json
from unspoken.core.loop.sources import are_learned
from unspoken.errors import RunError, UnspokenError
from unspoken.inspector.look import inspect
from unspoken.methods import METHODS
from unspoken.pages.inspection import verdict
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir, load
from unspoken.runs.lock import Lock
from unspoken.runs.model import Model
from unspoken.studies.places import BUSY, JobPlaces
from unspoken.studies.plan import task_settings
from unspoken.studies.state import costs_of, missing, report_of
from unspoken.studies.study import Evaluation
from unspoken.tasks import Task, make_task
from unspoken.training.costs import costs
from unspoken.training.loop import train
from unspoken.training.progress import Quiet
from unspoken.training.signals import Interrupted

EVERY = 2.0
"""Seconds between two words about how far training is."""


class Told(Quiet):
    """A `Reporter` that says on standard output how far training is."""

    def __init__(self) -> None:
        self.last = 0.0

    def row(self, row: dict[str, Any], total: int) -> None:
        """See `Reporter.row`."""
        if row["step"] >= total or time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            tell(doing="training", step=row["step"], of=total)


def tell(**what: object) -> None:
    """Say something to who started this process; if nobody listens any more, go on."""
    with contextlib.suppress(OSError):
        print(json.dumps(what), flush=True)


def work(config: RunConfig, places: JobPlaces, evaluations: list[Evaluation]) -> None:
    """Do what is missing of a job.

    Raises:
        RunError: another process is at it, or the run directory is damaged.
        UnspokenError: as `train` and `evaluate`.
    """
    run = places.run
    if not run.finished:
        tell(doing="training", step=run.latest_step() or 0, of=config.train.steps)
        train(config, run.path, Told())
    if costs_of(places) is None:
        tell(doing="counting operations")
        write_json(places.costs, asdict(costs(config, timed=False)))
    for one in evaluations:
        ask(run, places, one)


def ask(run: RunDir, places: JobPlaces, one: Evaluation) -> None:
    """Evaluate a finished run, with controls and a look at its latents where they are asked for and it thinks in latents."""
    if not (parts := missing(places, one)):
        return
    config = run.config()
    task = make_task(task_settings(config, one))
    if parts & {"report", "controls"}:
        rules = {"stop": one.stop, "soft": one.soft}
        explains = one.explain and lookup(METHODS, config.method.name, "method").explains
        campaign = Campaign(
            run=run.path, tasks=[task], split=one.split, limit=one.limit, latents=one.latents, batch_size=one.batch_size,
            explain=explains, out=places.report(one), controls=False, controls_limit=one.controls or 1,
            samples=one.samples, speaking=one.speaking | {k: v for k, v in rules.items() if v is not None},
        )  # fmt: skip
        if "report" in parts:
            campaign.evaluate(task, None, _progress(f"evaluation {one.name}"))
            parts = missing(places, one)
        if "controls" in parts and (report := report_of(places, one)) is not None:
            answered = Evaluated(task=task.name, seed=None, report=report, path=places.report(one))
            campaign.control(task, answered, _progress(f"evaluation {one.name}"))
    if "latents" in parts:
        tell(doing=f"evaluation {one.name}: latents")
        seen = inspect(load(run.path), task, one.split, limit=one.inspect, latents=one.latents, counts=[])
        write_json(places.look(one), {"figures": seen.figures, "collapse": verdict(seen), "problems": seen.head["n"]})
    if "interchange" in parts:
        write_json(places.interchange(one), {"places": _interchanged(load(run.path, explain=False), task, one)})


def _interchanged(model: Model, task: Task, one: Evaluation) -> list[dict[str, Any]]:
    """Place by place; nothing where the latents are the same for every problem."""
    if are_learned(model.method.source()):
        return []
    found = interchange(
        model, task, one.split, limit=one.interchange, batch_size=one.batch_size,
        progress=_progress(f"evaluation {one.name}: interchange"), **one.speaking,
    )  # fmt: skip
    return [{"place": each.place, "follows": dump(each.follows), "stays": dump(each.stays)} for each in found]


def _progress(what: str) -> Any:
    """Says how far an evaluation is, now and then."""
    last = 0.0

    def say(part: str, step: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            tell(doing=f"{what}: {part}", step=step, of=of)

    return say


@contextlib.contextmanager
def _alone(places: JobPlaces) -> Iterator[None]:
    """Nobody else works on the job meanwhile; training and evaluation have locks of their own besides."""
    lock = Lock(places.claim)
    lock.take()
    try:
        yield
    finally:
        lock.release()


def _ends_with(stream: TextIO) -> None:
    """Ask this process to stop when a stream ends."""

    def wait() -> None:
        while stream.readline():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Do the job of standard input; the exit code says how it went."""
    data = json.loads(sys.stdin.readline())
    _ends_with(sys.stdin)
    places = JobPlaces(Path(data["folder"]))
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_alone(places))
            except RunError:
                return BUSY
            evaluations = [build(Evaluation, one) for one in data["evaluations"]]
            work(build(RunConfig, data["config"]), places, evaluations)
    except Interrupted as stop:
        return 128 + stop.number
    except UnspokenError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
