"""Fill in the tables that pages quote from studies: `make results`. tests/studies/test_pages.py fails until that is done.

    <!-- studies -->                      every study: how many of its runs are finished, and the command
    <!-- study NAME: EVALUATION -->       what the study found under an evaluation; before anything has run, how to run it
    <!-- headline -->                     the methods that most readers ask for, out of the study of every method

Each stands above its table, which goes to the next empty line. Nothing is trained or asked here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.errors import DataError
from unspoken.evaluation.statistics import mean
from unspoken.evaluation.tables import percent
from unspoken.studies.places import StudyPlaces
from unspoken.studies.plan import plan
from unspoken.studies.report import label, quoted
from unspoken.studies.results import read_results
from unspoken.studies.study import read_study

ROOT = Path(__file__).resolve().parents[1]
RESULTS, README = ROOT / "docs" / "results.md", ROOT / "README.md"
PAGES = (RESULTS, README)
MARK = re.compile(r"^<!-- (studies|headline|study [\w.-]+: [^>\n]+?) -->\n((?:[^\n]+\n)*)", re.MULTILINE)

HEADLINE = ("cot", "no_cot", "coconut", "coconut_progressive", "sim_cot", "codi", "sim_cot_codi", "mux_codi")
"""Runs of the study of every method."""

TIMES = {
    "methods": "about 3 hours on 2 cores",
    "controls": "about 2 hours on 2 cores",
    "latents": "about 7 hours on 2 cores",
    "multiplication": "9 runs of 6 to 13 minutes on a core",
    "prosqa": "19 runs of 5 to 10 minutes on a core",
    "semcot": "19 runs of 1 to 10 minutes on a core",
    "adaptive": "after `latents`: 6 runs to ask, minutes each",
    "softcot": "10 runs of 0.5 to 2 hours on a core",
    "step_weighted": "6 runs of about an hour on a core",
}
"""How long a study takes on cores that do nothing else; measured or estimated from a few updates (`--plan`)."""


def filled(text: str) -> str:
    """A page with its tables as the studies' results have them now.

    Args:
        text: the page.
    """

    def block(found: re.Match[str]) -> str:
        what, _, rest = found[1].partition(" ")
        if what == "headline":
            body = headline()
        elif what == "studies":
            body = overview()
        else:
            name, _, evaluation = rest.partition(": ")
            body = of_study(name, evaluation)
        return f"<!-- {found[1]} -->\n{body}"

    return MARK.sub(block, text)


def headline() -> str:
    """A row for each of `HEADLINE`, without controls and decoded steps."""
    whole = of_study("methods", "4 operations", HEADLINE).splitlines()
    head, _, *rows = [" | ".join(row.split(" | ")[:5]) + " |" for row in whole]
    return "\n".join([head, "|---" * 5 + "|", *rows]) + "\n"


def found_by(name: str) -> Mapping[str, Any] | None:
    """The results of a study; None before any run of it is finished."""
    try:
        results = read_results(ROOT / "studies" / name / "results.json")
    except DataError:
        return None
    return results if results["cells"] else None


def overview() -> str:
    """A row per study."""
    rows = ["| study | runs finished | seeds planned | command | time |", "|---|---|---|---|---|"]
    for name in (names := sorted(file.parent.name for file in (ROOT / "studies").glob("*/study.*"))):
        study, results = read_study(ROOT / "studies" / name), found_by(name)
        jobs = [
            job for job in plan(study, ROOT / "studies" / name, StudyPlaces.of(ROOT / "studies" / name).runs) if job.cell
        ]
        ran = sum(bool(run["combination"]) for run in results["runs"].values()) if results else 0
        state = f"{ran} of {len(jobs)}" if ran else f"not run yet (0 of {len(jobs)})"
        seeds = ", ".join(map(str, study.seeds))
        rows.append(f"| {study.title} | {state} | {seeds} | `{command(name)}` | {TIMES[name]} |")
    if odd := set(TIMES) - set(names):
        raise DataError(f"TIMES names studies that are not there: {', '.join(sorted(odd))}")
    return "\n".join(rows) + "\n"


def command(name: str) -> str:
    """How to run a study, or to go on with it."""
    return f"unspoken study studies/{name}"


def of_study(name: str, evaluation: str, only: Sequence[str] = ()) -> str:
    """The table of an evaluation, or how to come by it.

    Args:
        name: of the study.
        evaluation: of the study.
        only: names of the runs that get a row; none = all.
    """
    study, results = read_study(ROOT / "studies" / name), found_by(name)
    if evaluation not in [one.name for one in study.evaluations]:
        raise DataError(f"study {name!r} has no evaluation {evaluation!r}")
    if results is None:
        return f"*Not run yet: `{command(name)}`, {TIMES[name]}.*\n"
    columns = [column for column in _COLUMNS if any(column[1](one) is not None for one in _each(results, evaluation))]
    said = quoted(results, evaluation)
    factors = " and ".join(label(results, factor) for factor in study.factors)
    heads = [factors, "mean accuracy % (95% over training seeds)", "each seed %", *(head for head, _ in columns)]
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for cell in results["cells"]:
        if (told := cell["evaluations"].get(evaluation)) is None or (only and cell["name"] not in only):
            continue
        title = ", ".join(label(results, value) for value in cell["combination"].values())
        figures = [_mean([column(one) for one in told["each"]]) for _, column in columns]
        rows.append(f"| {' | '.join((title, *said[title], *figures))} |")
    return "\n".join(rows) + "\n"


def _each(results: Mapping[str, Any], evaluation: str) -> list[Mapping[str, Any]]:
    told = [cell["evaluations"].get(evaluation) for cell in results["cells"]]
    return [one for evaluations in told if evaluations is not None for one in evaluations["each"]]


def _mean(values: list[Any]) -> str:
    known = [value for value in values if value is not None]
    return mean(known).__format__(".1f").removesuffix(".0") if known else "–"


def _share(*path: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(one: Any) -> float | None:
        for part in path:
            one = one.get(part) if isinstance(one, Mapping) else None
        return None if one is None else float(percent(one))

    return value


_COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], Any]], ...] = (
    ("latents", lambda one: one["mean_latents"]),
    ("forward passes", lambda one: one["mean_passes"]),
    ("decoded steps true %", _share("step_accuracy", "overall", "value")),
    ("with another problem's latents %", _share("controls", "shuffled")),
)


def main() -> int:
    """Fill in all pages; says which have changed."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"filled in: {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
