"""Results that are there without their runs: of another machine, or of run directories that are gone.

Whoever goes on with a study in a fresh clone has results.json and the cards, and no run. What was found stays found until
the same run has been done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unspoken.core.config import build
from unspoken.core.files import read_object
from unspoken.errors import DataError, UnspokenError
from unspoken.studies.plan import Job, evaluation_fingerprint
from unspoken.studies.study import Evaluation

FORMAT = "unspoken study 1"
"""Version of results.json."""

UNKNOWN: Mapping[str, Any] = {"problems": "not kept one by one"}
"""Instead of the figures of a test within a seed."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What results.json says of jobs that are planned as they were then: same config, same evaluations.

    Attributes:
        runs: name of a job -> what its training took.
        figures: (name of a job, fingerprint of an evaluation) -> its figures.
        tests: (fingerprint of an evaluation, one combination, the other, seed) -> the test within that seed. Results
            written before figures had `right` have no other trace of which problems a run answered.
        whole: jobs that nothing is missing of.
        environment: where the first of them ran.
    """

    runs: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    tests: Mapping[tuple[str, str, str, int | None], Mapping[str, Any]] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    environment: Mapping[str, Any] = field(default_factory=dict)

    def answers(self, job: Job) -> list[tuple[Evaluation, Mapping[str, Any]]]:
        """The evaluations of a job that are kept, with their figures."""
        found = [(one, self.figures.get((job.name, evaluation_fingerprint(one)))) for one in job.evaluations]
        return [(one, figures) for one, figures in found if figures is not None]

    def test(self, a: Job, b: Job, one: Evaluation) -> Mapping[str, Any]:
        """The test of two kept runs of a seed against each other; `UNKNOWN` if there is none."""
        return self.tests.get((evaluation_fingerprint(one), a.cell, b.cell, a.seed), UNKNOWN)


def read_kept(file: Path, jobs: Sequence[Job]) -> Kept:
    """What of a study's results still speaks of its jobs; nothing if there are no results yet.

    Args:
        file: results.json.
        jobs: all jobs of the study as it is now.

    Raises:
        DataError: the file is damaged, or something else. Writing over it would lose what it has.
    """
    if not file.exists():
        return Kept()
    try:
        return _still_true(file, jobs)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{file} is damaged ({type(error).__name__}: {error}); move it away and run `unspoken study` again"
        ) from None


def _still_true(file: Path, jobs: Sequence[Job]) -> Kept:
    data = read_results(file)
    marks = {one["name"]: mark for one in data["study"]["evaluations"] if (mark := _mark(one)) is not None}
    now = {job.name: job for job in jobs}
    runs = {name: run for name, run in data["runs"].items() if name in now and run["folder"] == now[name].folder.name}
    figures = {}
    for cell in data["cells"]:
        for title, told in cell["evaluations"].items():
            for seed, one in zip(told["seeds"], told["each"], strict=True):
                if (name := f"{cell['name']}-{seed}") in runs and title in marks:
                    figures[name, marks[title]] = one
    unfinished = {*data["missing"], *data["failed"]}
    asked = {job.name: {evaluation_fingerprint(one) for one in job.evaluations} for job in jobs}
    whole = {name for name in runs if name not in unfinished and all((name, mark) in figures for mark in asked[name])}
    tests = {
        (marks[pair["evaluation"]], pair["a"], pair["b"], test["seed"]): test
        for pair in data["contrasts"]
        for test in pair["seeds"]
        if pair["evaluation"] in marks
    }
    return Kept(runs=runs, figures=figures, tests=tests, whole=frozenset(whole), environment=data["environment"])


def _mark(evaluation: Mapping[str, object]) -> str | None:
    """The fingerprint of an evaluation that results were made with; None where this version does not understand it."""
    try:
        return evaluation_fingerprint(build(Evaluation, evaluation))
    except UnspokenError:
        return None


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
        raise DataError(f"{file} is damaged ({error}); move it away and run `unspoken study` again") from None
    if data.get("format") != FORMAT:
        raise DataError(f"{file}: expected results of format {FORMAT!r}, got {data.get('format')!r:.40}")
    return data
