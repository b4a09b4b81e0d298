"""What a study has found: every figure of its finished runs as plain values (results.json), with statistics over seeds.

Tables, charts and the page are made from this alone, so they can be made again where the runs are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspoken.causal.control_report import ControlsReport, finding
from unspoken.core.config import dump
from unspoken.core.files import read_object
from unspoken.errors import DataError, RunError
from unspoken.evaluation.card import make_card
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.statistics import difference, over_training_seeds, paired_seeds
from unspoken.studies.places import JobPlaces, StudyPlaces
from unspoken.studies.plan import Job, cell_name, combinations
from unspoken.studies.state import costs_of, done, interchange_of, latents_of, report_of, whole
from unspoken.studies.study import Combination, Evaluation, Study, fits

FORMAT = "unspoken study 1"
"""Version of results.json."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A finished run with an evaluation of it."""

    job: Job
    one: Evaluation
    report: EvalReport


def gather(study: Study, jobs: Sequence[Job], places: StudyPlaces, failed: Mapping[str, str]) -> dict[str, Any]:
    """Every figure of what is finished, as plain values; writes a card per run beside it.

    Args:
        study: what was asked.
        jobs: its runs, finished or not.
        places: where cards go.
        failed: name of a job -> why it failed.
    """
    found = [
        Answered(job=job, one=one, report=report)
        for job in jobs
        for one in job.evaluations
        if (report := report_of(JobPlaces(job.folder), one)) is not None
    ]
    for answered in found:
        if answered.one.name == answered.job.evaluations[0].name:
            make_card(answered.report, study.card_problems).save(places.card(answered.job.name))
    environments = [answered.report.environment for answered in found]
    return {
        "format": FORMAT,
        "study": dump(study),
        "runs": {job.name: run for job in jobs if (run := _run(job)) is not None},
        "missing": [job.name for job in jobs if not done(job) and job.name not in failed],
        "failed": dict(failed),
        "cells": [cell for combination in combinations(study) if (cell := _cell(study, combination, found)) is not None],
        "contrasts": list(_contrasts(study, found)),
        "environment": environments[0] if environments else {},
    }


def _run(job: Job) -> dict[str, Any] | None:
    """What a finished run's training took."""
    places = JobPlaces(job.folder)
    try:
        about = places.run.read() if places.run.exists else {}
    except RunError:
        return None
    if not (end := about.get("finished")):
        return None
    flops = (costs_of(places) or {}).get("flops")
    metrics = places.run.metrics()
    rows = [row for row in metrics if row["kind"] == "train"]
    return {
        "folder": job.folder.name,
        "combination": dict(job.combination),
        "seed": job.seed,
        "updates": end["steps"],
        "examples": sum(row.get("examples", 0) for row in rows),
        "positions": sum(row.get("tokens", 0) for row in rows),
        "passes": end.get("passes"),
        "flops": None if flops is None else flops * end["steps"],
        "seconds": end["seconds"],
        "parameters": about.get("parameters", {}),
        "collapse_warnings": sum(1 for row in metrics if row["kind"] == "stability" and row.get("collapse")),
    }


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
    over = over_training_seeds(a.report.accuracy for a in some)
    return {
        "seeds": [a.job.seed for a in some],
        "accuracy": {
            "mean": over.mean,
            "interval": None if over.interval is None else list(over.interval),
            "each": list(over.values),
            "within": [list(one) for one in over.within],
        },
        "each": [_figures(a) for a in some],
    }


def _figures(answered: Answered) -> dict[str, Any]:
    """Every figure of one run under one evaluation."""
    places, one, report = JobPlaces(answered.job.folder), answered.one, answered.report
    told = {name: value for name, value in report.summary().items() if name != "flexible"}
    told |= {"task": report.task, "fingerprint": report.fingerprint, "weights": report.model.get("weights")}
    if (look := latents_of(places, one)) is not None:
        told["latents"] = {"geometry": look["figures"]["geometry"], "recovery": look["figures"].get("recovery")}
        told["collapse"] = look["collapse"]
    if places_found := interchange_of(places, one):
        told["interchange"] = places_found
    if (controls := whole(ControlsReport, places.controls(one))) is not None:
        told["controls"] = {c.label: c.accuracy.value for c in controls.controls}
        told["controls"] |= {"unmodified": controls.plain.accuracy.value}
        told["finding"] = finding(controls)
    return told


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
    by_cell: dict[tuple[str, str], dict[int | None, EvalReport]] = {}
    for answered in found:
        by_cell.setdefault((answered.job.cell, answered.one.name), {})[answered.job.seed] = answered.report
    for one in study.evaluations:
        for a, b in _pairs(study):
            left = by_cell.get((cell_name(a), one.name), {})
            right = by_cell.get((cell_name(b), one.name), {})
            if shared := [seed for seed in left if seed in right]:
                seeds = [_within_a_seed(seed, left[seed], right[seed]) for seed in shared]
                over = paired_seeds(
                    [left[seed].accuracy.value for seed in shared], [right[seed].accuracy.value for seed in shared]
                )
                yield {
                    "evaluation": one.name, "a": cell_name(a), "b": cell_name(b), "mean": over.mean,
                    "interval": None if over.interval is None else list(over.interval), "p": over.p, "seeds": seeds,
                }  # fmt: skip


def _within_a_seed(seed: int | None, a: EvalReport, b: EvalReport) -> dict[str, Any]:
    """The problems that two runs share, answered by one and by the other."""
    told: dict[str, Any] = {"seed": seed, "difference": b.accuracy.value - a.accuracy.value}
    right = {record.id: record.strict for record in b.records}
    if a.fingerprint != b.fingerprint or {r.id for r in a.records} != set(right):
        return {**told, "problems": "not the same"}
    paired = difference([r.strict for r in a.records], [right[r.id] for r in a.records])
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
