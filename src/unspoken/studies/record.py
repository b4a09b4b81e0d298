"""What is known of one run, in a file of its own in the folder of results. It outlives the run's directory.

Results are made from these records alone. So whoever has the folder of results, in a fresh clone, goes on where they end,
and a change of the study drops nothing: a record that the study does not describe any more only is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from unspoken.causal.control_report import ControlsReport, finding
from unspoken.core.stored import Stored
from unspoken.errors import RunError
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.statistics import Rate
from unspoken.studies.places import JobPlaces, StudyPlaces
from unspoken.studies.plan import Job, evaluation_fingerprint
from unspoken.studies.state import costs_of, done, interchange_of, lacking, latents_of, report_of, whole
from unspoken.studies.study import Evaluation

_FIGURES = ("accuracy", "mean_latents", "mean_visible_tokens", "mean_passes", "fingerprint", "task")
_TRAINING = (
    "updates", "examples", "positions", "passes", "flops", "seconds", "parameters", "collapse_warnings",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run under an evaluation.

    Attributes:
        mark: fingerprint of the evaluation.
        name: what the study called it.
        figures: every figure, as plain values.
        whole: whether nothing is missing that the evaluation wants: controls, a look at latents, ...
        right: a bit per problem, the first one's highest, in hexadecimal digits; None: it is not known which were right.
        tests: id of another run -> the test of it against this one, where it cannot be made from `right`.
    """

    mark: str
    name: str
    figures: dict[str, Any]
    whole: bool
    right: str | None = None
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def rate(self) -> Rate:
        """Its accuracy."""
        return Rate(correct=self.figures["correct"], n=self.figures["n"])

    def outcomes(self) -> list[bool] | None:
        """Which problems were right; None if it is not known."""
        return None if self.right is None else [bit == "1" for bit in f"{int(self.right, 16):0{self.rate.n}b}"]


@dataclass(frozen=True, kw_only=True)
class RunRecord(Stored):
    """A run that was trained, with what it was asked.

    Attributes:
        id: that of the run directory. Another run of the same config has another one.
        name: of the job.
        environment: where it was trained.
        training: what that took.
        counted: whether its operations have been counted; there may be none that could be.
        asked: one entry per evaluation.
    """

    KIND: ClassVar[str] = "record of a run"
    MADE_BY: ClassVar[str] = "study"
    ROWS: ClassVar[tuple[str, ...]] = ("asked",)

    id: str
    name: str
    environment: dict[str, Any]
    training: dict[str, Any]
    counted: bool
    asked: tuple[Asked, ...]
    format: str = "unspoken study run 1"

    def under(self, one: Evaluation) -> Asked | None:
        """How it was asked by an evaluation, whatever that is called now."""
        mark = evaluation_fingerprint(one)
        return next((asked for asked in self.asked if asked.mark == mark), None)

    def covers(self, job: Job) -> bool:
        """Whether nothing of a job is missing, as `state.done` has it."""
        return self.counted and all((asked := self.under(one)) is not None and asked.whole for one in job.evaluations)

    def check(self, path: str | Path) -> None:
        """Refuse what tables could not show."""
        faults = [f"training has no {name!r}" for name in _TRAINING if name not in self.training]
        for asked in self.asked:
            faults += [f"{asked.name!r} has {fault}" for fault in _faults(asked)]
        if faults:
            raise RunError(f"{path}: {faults[0]}")


def _faults(asked: Asked) -> list[str]:
    """What is wrong with the figures of an evaluation."""
    figures = asked.figures
    found = [f"no {name!r}" for name in _FIGURES if name not in figures]
    n, correct = figures.get("n"), figures.get("correct")
    if not isinstance(n, int) or not isinstance(correct, int) or not 0 <= correct <= n or n < 1:
        return [*found, f"{correct!r:.20} right of {n!r:.20} problems"]
    if asked.right is not None:
        if not re.fullmatch(rf"[0-9a-f]{{{-(-n // 4)}}}", asked.right):
            return [*found, f"no bits of {n} problems in {asked.right!r:.20}"]
        bits = int(asked.right, 16)
        if bits.bit_length() > n or bits.bit_count() != correct:
            found.append(f"{correct} right of {n} problems, but other bits")
    return found


def record_file(places: StudyPlaces, job: Job) -> Path:
    """Where a job's record is, by its fingerprint; where it will be, if there is none."""
    usual = places.records / f"{job.folder.name}.json"
    return usual if usual.exists() else next(iter(sorted(places.records.glob(f"*-{job.fingerprint}.json"))), usual)


def read_record(places: StudyPlaces, job: Job) -> RunRecord | None:
    """A job's record; None if there is none.

    Raises:
        RunError: it is damaged.
    """
    file = record_file(places, job)
    try:
        return RunRecord.from_json(file) if file.exists() else None
    except RunError as error:
        raise RunError(f"{error}; restore the file from a copy, or delete it to do the run again") from None


def current(places: StudyPlaces, job: Job) -> RunRecord | None:
    """A job's record after a look at its run directory; written, if that says more.

    A run takes the place of another one, of another machine for example, when nothing of it is missing any more. If the
    other one was asked more, its record is kept in a folder beside.

    Raises:
        RunError: the record is damaged, or cannot be written.
    """
    old, new = read_record(places, job), _of_folder(job)
    if new is None or (old is not None and old.asked and old.id != new.id and not done(job)):
        return old
    if old is not None and old.id == new.id:
        new = _merged(old, new)
    elif old is not None and {asked.mark for asked in old.asked} - {asked.mark for asked in new.asked}:
        old.save(places.records / "replaced" / f"{job.folder.name}-{old.id}.json")
    if new != old:
        new.save(record_file(places, job))
    return new


def _merged(old: RunRecord, new: RunRecord) -> RunRecord:
    """What a record and a look at the same run say together: of an evaluation the look, unless only the record is whole."""
    asked = {one.mark: one for one in old.asked}
    for one in new.asked:
        before = asked.get(one.mark)
        if before is None or one.whole:
            asked[one.mark] = one
        elif not before.whole:  # either may have parts that the other lacks
            asked[one.mark] = replace(one, figures=before.figures | one.figures)
    # Files of a run may be gone, or damaged, since it was looked at first.
    training = new.training | {name: value for name, value in old.training.items() if value}
    return replace(
        new, asked=tuple(asked.values()), training=training, counted=new.counted or old.counted,
        environment=new.environment or old.environment,
    )  # fmt: skip


def _about(job: Job) -> dict[str, Any]:
    """What a job's run directory says of its run; nothing where there is none, or a damaged one."""
    run = JobPlaces(job.folder).run
    try:
        return run.read() if run.exists else {}
    except RunError:
        return {}


def run_id(job: Job) -> str | None:
    """Which run a job's directory holds; None if none."""
    return _about(job).get("id")


def _of_folder(job: Job) -> RunRecord | None:
    """What a run directory says; None if nothing was trained in it to the end."""
    places, about = JobPlaces(job.folder), _about(job)
    if not isinstance(end := about.get("finished"), dict):
        return None
    counted = costs_of(places)
    flops = (counted or {}).get("flops")
    metrics = places.run.metrics()
    rows = [row for row in metrics if row["kind"] == "train"]
    reports = [(one, report) for one in job.evaluations if (report := report_of(places, one)) is not None]
    return RunRecord(
        id=about["id"],
        name=job.name,
        environment=about.get("provenance") or (reports[0][1].environment if reports else {}),
        training={
            "updates": end["steps"],
            "examples": sum(row.get("examples", 0) for row in rows),
            "positions": sum(row.get("tokens", 0) for row in rows),
            "passes": end.get("passes"),
            "flops": None if flops is None else flops * end["steps"],
            "seconds": end["seconds"],
            "parameters": about.get("parameters", {}),
            "collapse_warnings": sum(1 for row in metrics if row["kind"] == "stability" and row.get("collapse")),
        },
        counted=counted is not None,
        asked=tuple(
            Asked(
                mark=evaluation_fingerprint(one), name=one.name, figures=_figures(places, one, report),
                whole=not lacking(places, one, report), right=_bits(report),
            )
            for one, report in reports
        ),
    )  # fmt: skip


def _figures(places: JobPlaces, one: Evaluation, report: EvalReport) -> dict[str, Any]:
    """Every figure of one run under one evaluation."""
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


def _bits(report: EvalReport) -> str:
    """See `Asked.right`."""
    text = "".join("01"[record.strict] for record in report.records)
    return f"{int(text, 2):0{-(-len(text) // 4)}x}"


def tested(a: Asked, b: Asked, this: str, other: str) -> Mapping[str, Any] | None:
    """The test of two runs that was made when their problems were known one by one; None if there is none.

    Args:
        a, b: the two.
        this, other: ids of a's run and of b's.
    """
    if (found := a.tests.get(other)) is not None:
        return found
    if (turned := b.tests.get(this)) is None:
        return None
    low, high = turned["interval"]
    return {"only_a": turned["only_b"], "only_b": turned["only_a"], "interval": [-high, -low], "p": turned["p"]}
