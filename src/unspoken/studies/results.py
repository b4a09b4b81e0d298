"""What a study has found: every figure of its finished runs as plain values (results.json), with statistics over seeds.

Tables, charts and the page are made from this alone, so they can be made again where the runs are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspoken.core.config import dump
from unspoken.core.files import read_object
from unspoken.errors import DataError
from unspoken.evaluation.card import make_card
from unspoken.evaluation.statistics import difference, over_training_seeds, paired_seeds
from unspoken.studies.places import JobPlaces, StudyPlaces
from unspoken.studies.plan import Job, cell_name, combinations
from unspoken.studies.record import Asked, RunRecord, current, run_id, tested
from unspoken.studies.state import report_of
from unspoken.studies.study import Combination, Evaluation, Study, fits

FORMAT = "unspoken study 1"
"""Version of results.json."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A run under an evaluation."""

    job: Job
    one: Evaluation
    run: str
    asked: Asked


def gather(study: Study, jobs: Sequence[Job], places: StudyPlaces, failed: Mapping[str, str]) -> dict[str, Any]:
    """Every figure of what is finished, as plain values; writes a record and a card per run beside it.

    Args:
        study: what was asked.
        jobs: its runs, finished or not, here or elsewhere.
        places: where records and cards are.
        failed: name of a job -> why it failed.

    Raises:
        RunError: a record is damaged.
    """
    records = {job.name: record for job in jobs if (record := current(places, job)) is not None}
    for job in jobs:
        _save_card(study, job, places, records.get(job.name))
    found = [
        Answered(job=job, one=one, run=records[job.name].id, asked=asked)
        for job in jobs
        for one in job.evaluations
        if job.name in records and (asked := records[job.name].under(one)) is not None
    ]
    covered = {job.name for job in jobs if job.name in records and records[job.name].covers(job)}
    needed = {name for job in jobs if job.name not in covered for name in job.needs}
    covered |= {job.name for job in jobs if not job.cell and job.name not in needed}
    environments = [record.environment for record in records.values() if record.environment]
    return {
        "format": FORMAT,
        "study": dump(study),
        "runs": {
            job.name: {
                "folder": job.folder.name, "combination": dict(job.combination), "seed": job.seed,
                **records[job.name].training,
            }
            for job in jobs
            if job.name in records
        },
        "missing": [job.name for job in jobs if job.name not in {*covered, *failed}],
        "failed": {name: why for name, why in failed.items() if name not in covered},
        "cells": [cell for combination in combinations(study) if (cell := _cell(study, combination, found)) is not None],
        "contrasts": list(_contrasts(study, found)),
        "environment": environments[0] if environments else {},
        "hardware": sorted({cpu for environment in environments if (cpu := environment.get("cpu"))}),
    }  # fmt: skip


def _save_card(study: Study, job: Job, places: StudyPlaces, record: RunRecord | None) -> None:
    """The card of a run that is here, by its first evaluation."""
    if record is None or not job.evaluations or run_id(job) != record.id:
        return
    if (report := report_of(JobPlaces(job.folder), job.evaluations[0])) is not None:
        make_card(report, study.card_problems).save(places.card(job.name))


def _cell(study: Study, combination: Combination, found: Sequence[Answered]) -> dict[str, Any] | None:
    """A combination with all its seeds; None where nothing of it is finished."""
    mine = [a for a in found if a.job.cell == cell_name(combination)]
    if not mine:
        return None
    evaluations = {}
    for one in study.evaluations:
        if some := [a for a in mine if a.one.name == one.name]:
            evaluations[one.name] = _evaluated(some)
    return {"name": cell_name(combination), "combination": dict(combination), "evaluations": evaluations}


def _evaluated(some: Sequence[Answered]) -> dict[str, Any]:
    """One evaluation of all seeds of a combination."""
    over = over_training_seeds(a.asked.rate for a in some)
    return {
        "seeds": [a.job.seed for a in some],
        "accuracy": {
            "mean": over.mean,
            "interval": None if over.interval is None else list(over.interval),
            "each": list(over.values),
            "within": [list(one) for one in over.within],
        },
        "each": [a.asked.figures for a in some],
    }


def _pairs(study: Study) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The combinations that are tested against each other."""
    every = combinations(study)
    if study.contrasts:
        for contrast in study.contrasts:
            for a in every:
                for b in every:
                    rest = [factor for factor in study.factors if factor not in contrast.a]
                    if fits(a, contrast.a) and fits(b, contrast.b) and all(a[f] == b[f] for f in rest) and a != b:
                        yield a, b
        return
    first, values = next(iter(study.factors.items()))
    for b in every:
        a = {**b, first: values[0]}
        if a != b and a in every:
            yield a, b


def _contrasts(study: Study, found: Sequence[Answered]) -> Iterator[dict[str, Any]]:
    """Each pair under each evaluation: a test per seed over the problems that both answered, and one over the seeds."""
    by_cell: dict[tuple[str, str], dict[int | None, Answered]] = {}
    for answered in found:
        by_cell.setdefault((answered.job.cell, answered.one.name), {})[answered.job.seed] = answered
    for one in study.evaluations:
        for a, b in _pairs(study):
            left = by_cell.get((cell_name(a), one.name), {})
            right = by_cell.get((cell_name(b), one.name), {})
            if shared := [seed for seed in left if seed in right]:
                seeds = [_within_a_seed(left[seed], right[seed]) for seed in shared]
                over = paired_seeds(
                    [left[seed].asked.rate.value for seed in shared], [right[seed].asked.rate.value for seed in shared]
                )
                yield {
                    "evaluation": one.name, "a": cell_name(a), "b": cell_name(b), "mean": over.mean,
                    "interval": None if over.interval is None else list(over.interval), "p": over.p, "seeds": seeds,
                }  # fmt: skip


def _within_a_seed(a: Answered, b: Answered) -> dict[str, Any]:
    """The problems that two runs share, answered by one and by the other."""
    left, right = a.asked, b.asked
    told: dict[str, Any] = {"seed": a.job.seed, "difference": right.rate.value - left.rate.value}
    if (left.figures["fingerprint"], left.rate.n) != (right.figures["fingerprint"], right.rate.n):
        return {**told, "problems": "not the same"}
    outcomes = left.outcomes(), right.outcomes()
    if outcomes[0] is None or outcomes[1] is None:
        return {
            **told,
            **(tested(left, right, a.run, b.run) or {"problems": "not known one by one"}),
        }
    paired = difference(outcomes[0], outcomes[1])
    return {
        **told,
        "only_a": paired.only_before,
        "only_b": paired.only_after,
        "interval": list(paired.interval),
        "p": paired.p,
    }


def read_results(file: Path) -> dict[str, Any]:
    """What `gather` found, from results.json.

    Raises:
        DataError: there is none, or it is something else.
    """
    try:
        data = read_object(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); run `unspoken study` on its study file first") from None
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); run `unspoken study` again") from None
    if data.get("format") != FORMAT:
        raise DataError(f"{file}: expected results of format {FORMAT!r}, got {data.get('format')!r:.40}")
    return data
