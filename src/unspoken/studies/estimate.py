"""How long a study will take: from its own finished runs where there are some, else from a few steps of each combination."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from unspoken.errors import UnspokenError
from unspoken.evaluation.statistics import mean
from unspoken.runs.config import RunConfig
from unspoken.studies.places import JobPlaces
from unspoken.studies.plan import Job
from unspoken.studies.state import done
from unspoken.training.costs import costs


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do of a job.

    Attributes:
        job: the job.
        state: "done", "evaluation is missing", "120 of 2400 updates", "to do", or what is wrong with its folder.
        minutes: of training that are left; None where they could not be estimated.
        how: "measured" on a few steps, or "from N runs".
    """

    job: Job
    state: str
    minutes: float | None
    how: str = ""


def estimate(
    jobs: Sequence[Job], measure: bool = True, tell: Callable[[str, int, int], None] | None = None
) -> list[Estimate]:
    """What is left of each job.

    Args:
        jobs: of a study.
        measure: take a few steps of the combinations of which no run is finished; one thread, in this process.
        tell: called with (what is measured, measured, in all).
    """
    tell = tell or (lambda what, measured, total: None)
    took = {job.name: _seconds(job) for job in jobs}
    known = {key: [s for job in jobs if _kind(job) == key and (s := took[job.name]) is not None] for key in map(_kind, jobs)}
    begun = [job for job in jobs if took[job.name] is None]
    wanted = {_kind(job): job for job in begun if not known[_kind(job)]} if measure else {}
    measured: dict[str, float | None] = {}
    for number, (key, job) in enumerate(wanted.items()):
        tell(job.name, number, len(wanted))
        measured[key] = _measured(job, {other.name: other for other in jobs})
    found = []
    for job in jobs:
        state, share = _state(job)
        if took[job.name] is not None:
            found.append(Estimate(job=job, state=state, minutes=0.0))
        elif runs := known[_kind(job)]:
            found.append(Estimate(job=job, state=state, minutes=share * mean(runs) / 60, how=f"from {len(runs)} runs"))
        else:
            seconds = measured.get(_kind(job))
            minutes = None if seconds is None else share * seconds / 60
            found.append(Estimate(job=job, state=state, minutes=minutes, how="" if minutes is None else "measured"))
    return found


def hours(found: Sequence[Estimate], places: int) -> float:
    """How long the rest takes with so many places to run: never less than its longest run."""
    left = [one.minutes for one in found if one.minutes]
    return max(sum(left) / places, max(left, default=0.0)) / 60


def _kind(job: Job) -> str:
    """What a job's time depends on: all but the seed."""
    return job.cell or f"prepare {job.name.removesuffix(f'-{job.seed}')}"


def _seconds(job: Job) -> float | None:
    """How long a finished run has trained; None where it is not finished."""
    try:
        run = JobPlaces(job.folder).run
        finished = run.read().get("finished") if run.exists else None
    except UnspokenError:
        return None
    return None if not finished else float(finished["seconds"])


def _state(job: Job) -> tuple[str, float]:
    """What there is of a job, in words, and the share of training that is left."""
    run = JobPlaces(job.folder).run
    try:
        about = run.read() if run.exists else None
    except UnspokenError as error:
        return str(error), 1.0
    if about is None:
        return "to do", 1.0
    if "finished" in about:
        return ("done" if done(job) else "evaluation is missing"), 0.0
    step, total = run.latest_step() or 0, job.config.train.steps
    if total is None:
        return f"{step} updates done", 1.0
    return f"{step} of {total} updates", 1 - step / total


def _measured(job: Job, jobs: Mapping[str, Job]) -> float | None:
    """Seconds that the whole training would take; None where a step cannot be taken."""
    try:
        seen = costs(_on_its_own(job, jobs), counted=False)
    except (UnspokenError, OSError, ValueError):
        return None
    return None if seen.seconds is None else seen.seconds * seen.updates


def _on_its_own(job: Job, jobs: Mapping[str, Job]) -> RunConfig:
    """The config of a job without runs that are not trained yet: their base model costs as much per step."""
    config = replace(job.config, train=replace(job.config.train, threads=1))
    for name in job.needs:
        start = jobs[name]
        if config.backbone.path == str(start.folder) and _seconds(start) is None:
            base = start.config.backbone
            config = replace(
                config, backbone=replace(config.backbone, path=base.path, arch=base.arch, tokenizer=base.tokenizer)
            )
    return config
