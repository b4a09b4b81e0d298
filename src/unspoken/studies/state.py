"""What of a run is there already. Reading it loads no model, so a study that is done is known to be done at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from unspoken.causal.control_report import ControlsReport
from unspoken.core.files import read_object
from unspoken.core.stored import Stored
from unspoken.errors import RunError
from unspoken.evaluation.records import EvalReport
from unspoken.studies.places import JobPlaces
from unspoken.studies.plan import Job
from unspoken.studies.study import Evaluation

S = TypeVar("S", bound=Stored)
Part = Literal["report", "controls", "latents", "interchange"]


def done(job: Job) -> bool:
    """Whether there is nothing left to do of a job. One whose folder is damaged is not done."""
    places = JobPlaces(job.folder)
    try:
        ready = places.run.finished
    except RunError:
        return False
    return ready and costs_of(places) is not None and not any(missing(places, one) for one in job.evaluations)


def missing(places: JobPlaces, one: Evaluation) -> set[Part]:
    """What of an evaluation is not there, or damaged. Controls and a look at latents need some."""
    return lacking(places, one, report_of(places, one))


def lacking(places: JobPlaces, one: Evaluation, report: EvalReport | None) -> set[Part]:
    """The same, for a report that has been read already."""
    if report is None:
        return {"report", *_wanted(one)}
    found: set[Part] = _wanted(one) if report.mean_latents else set()
    if whole(ControlsReport, places.controls(one)) is not None:
        found.discard("controls")
    if latents_of(places, one) is not None:
        found.discard("latents")
    if interchange_of(places, one) is not None:
        found.discard("interchange")
    return found


def _wanted(one: Evaluation) -> set[Part]:
    found: set[Part] = set()
    if one.controls:
        found.add("controls")
    if one.inspect:
        found.add("latents")
    if one.interchange:
        found.add("interchange")
    return found


def report_of(places: JobPlaces, one: Evaluation) -> EvalReport | None:
    """The report of an evaluation, if it is there and whole."""
    return whole(EvalReport, places.report(one))


def whole(kind: type[S], file: Path) -> S | None:
    """A stored report, if it is there and whole."""
    try:
        return kind.from_json(file)
    except RunError:
        return None


def costs_of(places: JobPlaces) -> dict[str, Any] | None:
    """What training steps cost, if it was counted."""
    return _object(places.costs, "updates")


def latents_of(places: JobPlaces, one: Evaluation) -> dict[str, Any] | None:
    """Stability figures of the latents, if they are there."""
    return _object(places.look(one), "figures")


def interchange_of(places: JobPlaces, one: Evaluation) -> list[dict[str, Any]] | None:
    """What another problem's thought groups did, place by place, if it was tried; [] where there was nothing to try."""
    return None if (found := _object(places.interchange(one), "places")) is None else found["places"]


def _object(file: Path, entry: str) -> dict[str, Any] | None:
    try:
        data = read_object(file)
    except (OSError, ValueError):
        return None
    return data if entry in data else None
