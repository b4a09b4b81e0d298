"""What a study has found: every figure of its finished runs as plain values (results.json), with statistics over seeds.

Tables, charts and the page are made from this alone, so they can be made again where the runs are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unspoken.causal.control_report import ControlsReport, finding
from unspoken.core.config import dump
from unspoken.errors import RunError
from unspoken.evaluation.card import make_card
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.statistics import Rate, difference, over_training_seeds, paired_seeds
from unspoken.studies.kept import FORMAT, UNKNOWN, Kept, read_kept
from unspoken.studies.places import JobPlaces, StudyPlaces
from unspoken.studies.plan import Job, cell_name, combinations
from unspoken.studies.state import costs_of, done, interchange_of, latents_of, report_of, whole
from unspoken.studies.study import Combination, Evaluation, Study, fits


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A run under an evaluation: every figure as plain values."""

    job: Job
    one: Evaluation
    figures: Mapping[str, Any]

    @property
    def rate(self) -> Rate:
        """Its accuracy."""
        return Rate(correct=self.figures["correct"], n=self.figures["n"])


def gather(study: Study, jobs: Sequence[Job], places: StudyPlaces, failed: Mapping[str, str]) -> dict[str, Any]:
    """Every figure of what is finished, as plain values; writes a card per run beside it.

    A run that is not here, or not finished here, keeps the figures and the card that the folder of results has of it.

    Args:
        study: what was asked.
        jobs: its runs, finished or not.
        places: where cards go, and where results may lie already.
        failed: name of a job -> why it failed.

    Raises:
        DataError: the results that lie there are damaged.
    """
    kept, ready = read_kept(places.results, jobs), {job.name for job in jobs if done(job)}
    old = kept.whole - ready
    found: list[Answered] = []
    environment: Mapping[str, Any] = {}
    for job in jobs:
        if not (reports := _reports(job) if job.name not in old else []):
            found += [Answered(job=job, one=one, figures=figures) for one, figures in kept.answers(job)]
        for one, report in reports:
            environment = environment or report.environment
            found.append(Answered(job=job, one=one, figures=_figures(job, one, report)))
            if one.name == job.evaluations[0].name:
                make_card(report, study.card_problems).save(places.card(job.name))
    here = {job.name: _run(job) for job in jobs if job.name not in old}
    runs = {job.name: here.get(job.name) or kept.runs.get(job.name) for job in jobs}
    return {
        "format": FORMAT,
        "study": dump(study),
        "runs": {name: run for name, run in runs.items() if run is not None},
        "missing": [job.name for job in jobs if job.name not in {*ready, *old, *failed}],
        "failed": {name: why for name, why in failed.items() if name not in old},
        "cells": [cell for combination in combinations(study) if (cell := _cell(study, combination, found)) is not None],
        "contrasts": list(_contrasts(study, found, kept)),
        "environment": environment or kept.environment,
    }


def _reports(job: Job) -> list[tuple[Evaluation, EvalReport]]:
    """The reports that a run's folder has."""
    found = [(one, report_of(JobPlaces(job.folder), one)) for one in job.evaluations]
    return [(one, report) for one, report in found if report is not None]


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
    over = over_training_seeds(a.rate for a in some)
    return {
        "seeds": [a.job.seed for a in some],
        "accuracy": {
            "mean": over.mean,
            "interval": None if over.interval is None else list(over.interval),
            "each": list(over.values),
            "within": [list(one) for one in over.within],
        },
        "each": [a.figures for a in some],
    }


def _figures(job: Job, one: Evaluation, report: EvalReport) -> dict[str, Any]:
    """Every figure of one run under one evaluation; `right` is a bit per problem, in hexadecimal digits."""
    places = JobPlaces(job.folder)
    told = {name: value for name, value in report.summary().items() if name != "flexible"}
    told |= {"task": report.task, "fingerprint": report.fingerprint, "weights": report.model.get("weights")}
    told["right"] = _bits([record.strict for record in report.records])
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


def _contrasts(study: Study, found: Sequence[Answered], kept: Kept) -> Iterator[dict[str, Any]]:
    """Each pair under each evaluation: a test per seed over the problems that both answered, and one over the seeds."""
    by_cell: dict[tuple[str, str], dict[int | None, Answered]] = {}
    for answered in found:
        by_cell.setdefault((answered.job.cell, answered.one.name), {})[answered.job.seed] = answered
    for one in study.evaluations:
        for a, b in _pairs(study):
            left = by_cell.get((cell_name(a), one.name), {})
            right = by_cell.get((cell_name(b), one.name), {})
            if shared := [seed for seed in left if seed in right]:
                seeds = [_within_a_seed(left[seed], right[seed], kept) for seed in shared]
                over = paired_seeds([left[seed].rate.value for seed in shared], [right[seed].rate.value for seed in shared])
                yield {
                    "evaluation": one.name, "a": cell_name(a), "b": cell_name(b), "mean": over.mean,
                    "interval": None if over.interval is None else list(over.interval), "p": over.p, "seeds": seeds,
                }  # fmt: skip


def _within_a_seed(a: Answered, b: Answered, kept: Kept) -> dict[str, Any]:
    """The problems that two runs share, answered by one and by the other."""
    told: dict[str, Any] = {"seed": a.job.seed, "difference": b.rate.value - a.rate.value}
    if (a.figures["fingerprint"], a.rate.n) != (b.figures["fingerprint"], b.rate.n):
        return {**told, "problems": "not the same"}
    known = ["right" in one.figures for one in (a, b)]
    if not any(known):  # results from before there were bits
        return {**told, **kept.test(a.job, b.job, a.one)}
    if not all(known):
        return {**told, **UNKNOWN}
    paired = difference(_outcomes(a), _outcomes(b))
    return {
        **told,
        "only_a": paired.only_before,
        "only_b": paired.only_after,
        "interval": list(paired.interval),
        "p": paired.p,
    }


def _bits(outcomes: Sequence[bool]) -> str:
    """One bit per problem, the first problem's highest, as hexadecimal digits."""
    text = "".join("01"[right] for right in outcomes)
    return f"{int(text or '0', 2):0{-(-len(text) // 4)}x}"


def _outcomes(answered: Answered) -> list[bool]:
    """What `_bits` has written of a run's problems."""
    return [bit == "1" for bit in f"{int(answered.figures['right'] or '0', 16):0{answered.rate.n}b}"]
