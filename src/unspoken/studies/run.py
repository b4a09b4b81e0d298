"""A study from its file to its folder: plan, run what is missing, write what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unspoken.core.files import write_json
from unspoken.errors import ConfigError, RunError, UnspokenError, did_you_mean
from unspoken.evaluation.card import Card, Verification, verify
from unspoken.runs.directory import load
from unspoken.studies.places import StudyPlaces
from unspoken.studies.plan import Job, plan
from unspoken.studies.record import read_record
from unspoken.studies.report import write_report
from unspoken.studies.results import gather
from unspoken.studies.study import Study, Value, fits, read_study, study_file
from unspoken.studies.workers import CPU, Tell, Workers, places_to_run


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A study with its jobs.

    Attributes:
        study: as its file says.
        places: where things go.
        every: all jobs.
        chosen: those that are asked for, and what they need.
        known: names of jobs of which the results have everything, wherever they ran.
    """

    study: Study
    places: StudyPlaces
    every: list[Job]
    chosen: list[Job]
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of running a study.

    Attributes:
        results: every figure (see `results.gather`).
        files: what was written.
        failed: name of a job -> what went wrong.
    """

    results: Mapping[str, Any]
    files: Sequence[Path]
    failed: Mapping[str, str] = field(default_factory=dict)


def planned(
    path: str | Path,
    *,
    out: str | Path | None = None,
    runs: str | Path | None = None,
    only: Sequence[str] = (),
    missing: bool = False,
) -> Planned:
    """Read a study and work out its jobs; every config is checked.

    Args:
        path: the study file, or the folder that has it.
        out: folder of results; None = that of a file called study.*, else one of the file's name.
        runs: folder of run directories; None = runs/studies.
        only: "factor=value" or "seed=1", values with commas between them; a job must fit all.
        missing: leave out what the results have already, wherever it ran; nothing may be left.

    Raises:
        ConfigError: the file or a config is wrong, or nothing is chosen.
        RunError: a record of a run is damaged.
    """
    study, places = read_study(path), StudyPlaces.of(path, out, runs)
    every = plan(study, study_file(path).parent, places.runs)
    wanted = _conditions(study, only)
    chosen = {job.name for job in every if job.cell and _chosen(job, wanted)}
    if not chosen:
        raise ConfigError(f"--only {' '.join(only)} leaves no run of the study")
    known = {job.name for job in every if (record := read_record(places, job)) is not None and record.covers(job)}
    chosen -= known if missing else set()
    for job in reversed(every):  # what a job starts from comes before it
        chosen |= set(job.needs) if job.name in chosen else set()
    return Planned(
        study=study, places=places, every=every, chosen=[job for job in every if job.name in chosen],
        known=frozenset(known),
    )  # fmt: skip


def _conditions(study: Study, only: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in only:
        factor, sign, text = one.partition("=")
        if not sign:
            raise ConfigError(f"--only {one!r} needs the form factor=value, e.g. {next(iter(study.factors))}=...")
        values = study.seeds if factor == "seed" else study.factors.get(factor)
        if values is None:
            raise ConfigError(f"--only: no factor {factor!r}; {did_you_mean(factor, (*study.factors, 'seed'))}")
        for name in text.split(","):
            match = [value for value in values if str(value) == name.strip()]
            if not match:
                raise ConfigError(f"--only: {factor} has no value {name!r}; {did_you_mean(name, map(str, values))}")
            found.setdefault(factor, []).extend(match)
    return found


def _chosen(job: Job, wanted: Mapping[str, list[Value]]) -> bool:
    rest = {factor: values for factor, values in wanted.items() if factor != "seed"}
    return fits(job.combination, rest) and ("seed" not in wanted or job.seed in wanted["seed"])


def run_study(made: Planned, *, jobs: int | None = None, devices: Sequence[str] | None = None, tell: Tell) -> Outcome:
    """Run what is missing, then write the results of all that is finished.

    Args:
        made: see `planned`.
        jobs: so many processes at a time, on a core each; None = one.
        devices: instead, a process per device; a device may be named several times.
        tell: hears how far each job is.

    Raises:
        ConfigError: no place to run, or a device that is not there.
        KeyboardInterrupt: somebody stopped it; the same call goes on.
    """
    places = places_to_run(jobs, devices)
    _check_devices(places)
    workers = Workers(jobs=made.chosen, places=places, tell=tell)
    workers.go()
    return write_results(made, workers.failed)


def _check_devices(places: Sequence[str]) -> None:
    """Refuse GPUs that are not there: runs would train on the CPU without a word.

    Raises:
        ConfigError: names the first one.
    """
    there = torch.cuda.device_count()
    for place in places:
        if place != CPU and int(place.partition(":")[2] or "0") >= there:
            raise ConfigError(
                f"--devices: {place} is not there; this machine has {there} GPUs that torch sees"
                + (f", cuda:0 to cuda:{there - 1}" if there else "; give --jobs for the CPU")
            )


def write_results(made: Planned, failed: Mapping[str, str] | None = None) -> Outcome:
    """Write cards, tables, charts and the page of what is known of runs, here or in records; nothing is run."""
    results = gather(made.study, made.every, made.places, failed or {})
    write_json(made.places.results, results)
    files = [made.places.results, *write_report(results, made.places.out)]
    return Outcome(results=results, files=files, failed=dict(failed or {}))


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A run of a study against its card.

    Attributes:
        name: of the job.
        found: what today's answers say; None where it could not be asked.
        fault: why not.
    """

    name: str
    found: Verification | None
    fault: str = ""


def verify_study(made: Planned) -> list[Verified]:
    """Hold the runs of a study against its cards, one after the other.

    Raises:
        RunError: there are no cards.
    """
    cards = [(job, made.places.card(job.name)) for job in made.chosen if job.cell]
    if not any(card.is_file() for _, card in cards):
        raise RunError(f"{made.places.out / 'cards'} has no cards of this study; run `unspoken study` on it first")
    return [_verified(job, card) for job, card in cards if card.is_file()]


def _verified(job: Job, file: Path) -> Verified:
    try:
        return Verified(name=job.name, found=verify(load(job.folder, explain=False, device="cpu"), Card.from_json(file)))
    except UnspokenError as error:
        return Verified(name=job.name, found=None, fault=str(error))
