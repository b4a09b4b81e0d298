"""One HTML page about a set of runs: accuracy, cost, training curves, thoughts. One file, no script, nothing remote.

Every run keeps its colour through the page, lines are labelled where they end, and nothing is said by colour alone. The
HTML is templates/runs.html; this file says what goes into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unspoken.core.files import write_text
from unspoken.core.text.markup import metric_rows, number, part
from unspoken.errors import DataError
from unspoken.evaluation.records import EvalReport, same_step
from unspoken.evaluation.statistics import mean
from unspoken.evaluation.tables import cells, compare, notes, p_value, percent, points
from unspoken.pages.svg import Chart, Line, Point, bar
from unspoken.pages.templating import minus, render
from unspoken.tasks.scoring.answers import equal, extract_strict

POINTS = 400
"""The most points of a curve; longer ones are averaged in equal groups of rows."""


@dataclass(frozen=True, kw_only=True)
class PageRun:
    """What the page shows of one run. Everything but the label may be missing.

    Attributes:
        label: short name, unique on the page.
        metrics: rows of `metrics.jsonl`: {"kind": "train", "step", "loss", "terms", "stage", ...} and
            {"kind": "validation", "step", "accuracy", ...}. Of rows with the same kind and step the last one counts: a run
            that was resumed has logged those steps again.
        report: its evaluation.
        thoughts: problems to show: {"question", "steps", "thoughts", "answer", "said"}, and "correct" if it is known.
    """

    label: str
    metrics: Sequence[Mapping[str, Any]] = ()
    report: EvalReport | None = None
    thoughts: Sequence[Mapping[str, Any]] = field(default=())


def thoughts_of(report: EvalReport, limit: int = 8) -> list[dict[str, Any]]:
    """The first problems of a report that have decoded thoughts, as `PageRun.thoughts`. First, not best."""
    return [
        {
            "question": r.question,
            "steps": r.steps,
            "thoughts": r.thoughts,
            "answer": r.answer,
            "said": r.text if r.extracted is None else r.extracted,
            "correct": r.strict,
        }
        for r in report.records
        if r.thoughts is not None
    ][:limit]


def write_page(path: str | Path, title: str, runs: Sequence[PageRun], lead: str | None = None) -> None:
    """Write the page, all or nothing.

    Args:
        lead: its first sentences; None = which run is best, and by how much.

    Raises:
        DataError: no runs, or two with one label.
        RunError: the file cannot be written.
    """
    write_text(path, page(title, runs, lead))


def page(title: str, runs: Sequence[PageRun], lead: str | None = None) -> str:
    """The page as text (see `write_page`)."""
    labels = [run.label for run in runs]
    if not runs:
        raise DataError("a page needs at least one run, got none")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise DataError(f"two runs on the page are called {twice!r}; give each its own label")
    return render(
        "runs.html",
        title=title,
        lead=lead or summary(runs),
        headings=HEADINGS,
        results=[_result(i, run.label, run.report) for i, run in enumerate(runs) if run.report is not None],
        pairs=_compared(runs),
        points=points,
        p_value=p_value,
        notes=notes(_reports(runs)) if _reports(runs) else (),
        costs=_costs(runs),
        curves=training(runs),
        POINTS=POINTS,
        thoughts=_thoughts(runs),
        facts=[(run.label, _facts(run.report)) for run in runs if run.report is not None],
    )


def summary(runs: Sequence[PageRun]) -> str:
    """The page in a sentence or two."""
    reports = _reports(runs)
    if not reports:
        return f"{_count(len(runs), 'run')}, not evaluated yet."
    best = max(reports, key=lambda label: reports[label].accuracy.value)
    report = reports[best]
    low, high = report.accuracy.interval
    where = f"{report.n} {report.split} problems of {report.task.get('name') or 'the task'}"
    said = (
        f"{best} answers {percent(report.accuracy.value)}% of {where} correctly (95% interval {percent(low)} to "
        f"{percent(high)}), with {report.mean_passes:.1f} forward passes and {report.mean_visible_tokens:.1f} visible "
        "tokens per question"
    )
    if len(reports) == 1:
        return said + "."
    try:
        comparison = compare(reports)
    except DataError:
        return said + f". The {len(reports)} runs were evaluated on different problems, so they are not ranked."
    said += f"; no run of the {len(reports)} scores higher."
    # Against the baseline; or, where the baseline itself leads, the one that comes nearest to it.
    against = comparison.against_first
    pair = next((p for p in against if p.b == best), None) or max(against, key=lambda p: p.difference)
    passes = f", with {reports[pair.b].mean_passes:.1f} forward passes" if pair.b != best else ""
    name = "It" if pair.b == best else f"Next, {pair.b}"
    return said + f" {name}: {minus(points(pair.difference))} points against {pair.a} (McNemar p {p_value(pair.p)}){passes}."


HEADINGS = ("accuracy", "", "flexible %", "latents", "visible tokens", "forward passes", "ms / question", "n")
"""Of the table of results, behind the run's name; the accuracy takes two columns, a bar and a number."""


def _result(number: int, label: str, report: EvalReport) -> dict[str, Any]:
    """A line of the table."""
    name, accuracy, *figures = cells(label, report)
    value, _, interval = accuracy.partition(" ")
    drawn = bar(number, report.accuracy.value, *report.accuracy.interval)
    return {"run": number, "name": name, "bar": drawn, "value": value, "interval": interval, "figures": figures}


def _compared(runs: Sequence[PageRun]) -> Sequence[Any]:
    """The paired tests of each run against the first one."""
    try:
        return compare(_reports(runs)).against_first
    except DataError:  # one run, or different problems: the notes say so
        return ()


def _costs(runs: Sequence[PageRun]) -> list[Chart]:
    """Accuracy against cost, and against the length of the problem."""
    dots, lines = [], []
    for i, run in enumerate(runs):
        if run.report is None:
            continue
        rate = run.report.accuracy
        dots.append(Line(i, run.label, (Point(run.report.mean_passes, rate.value, *rate.interval),)))
        lengths = [(count, r) for count, r in run.report.by_steps.items() if count]
        if len(lengths) > 1:
            lines.append(Line(i, run.label, tuple(Point(count, r.value, *r.interval) for count, r in lengths)))
    charts = []
    if dots:
        name, note = "Accuracy against forward passes", "Whiskers: 95% interval. Up and left is better."
        x_label = "forward passes per question"
        charts.append(Chart(name=name, lines=dots, x_label=x_label, percent=True, markers=True, scatter=True, note=note))
    if lines:
        name, note, x_label = (
            "Accuracy by number of steps",
            "Strict rule. Whiskers: 95% interval.",
            "true steps of the problem",
        )
        charts.append(Chart(name=name, lines=lines, x_label=x_label, percent=True, markers=True, note=note))
    return charts


Read = Callable[[Mapping[str, object]], object]
"""What a curve shows of a row of metrics."""


def training(runs: Sequence[PageRun]) -> list[Chart]:
    """Validation accuracy and every loss term over optimizer steps, with the stages' boundaries."""
    trained = [metric_rows(run.metrics, "train") for run in runs]
    checks = [metric_rows(run.metrics, "validation") for run in runs]
    stages = [(i, step, f"stage {stage}") for i, train in enumerate(trained) for step, stage in _boundaries(train)]
    found = [row["terms"] for train in trained for row in train if isinstance(row.get("terms"), dict)]
    terms = list(dict.fromkeys(term for one in found for term in one))

    def curves(source: Sequence[Sequence[Mapping[str, object]]], read: Read) -> list[Line]:
        lines = [(i, run.label, downsample(_points(source[i], read))) for i, run in enumerate(runs)]
        return [Line(i, label, points) for i, label, points in lines if points]

    charts, step = [], "optimizer step"
    if lines := curves(checks, lambda row: row.get("accuracy")):
        few = all(len(line.points) <= 40 for line in lines)
        charts.append(Chart(name="Validation accuracy", lines=lines, x_label=step, percent=True, markers=few, stages=stages))
    panels: list[tuple[str, Read]] = [(f"Loss term: {term}", lambda row, t=term: part(row, "terms", t)) for term in terms]
    if len(terms) != 1:
        panels.insert(0, ("Loss, all terms", lambda row: row.get("loss")))
    for name, read in panels:
        if lines := curves(trained, read):
            charts.append(Chart(name=name, lines=lines, x_label=step, log_y=_spans(lines), stages=stages))
    return charts


def _thoughts(runs: Sequence[PageRun]) -> list[dict[str, Any]]:
    """Decoded thoughts beside true steps, by run."""
    shown = []
    for i, run in enumerate(runs):
        steps = run.report.step_accuracy if run.report else None
        if not run.thoughts and steps is None:
            continue
        said = ""
        if steps is not None:
            right = f"; {percent(steps.correct_only.value)}% of {steps.correct_only.n} where the answer is right"
            by_step = ", ".join(f"{percent(r.value)}%" for r in steps.by_index)
            said = (
                f"Of {steps.overall.n} decoded steps that have a true partner, {percent(steps.overall.value)}% equal it"
                f"{right if steps.correct_only.n else ''}. By step, first to last: {by_step}."
            )
        problems = [{"question": item.get("question") or "", "rows": _steps(item)} for item in run.thoughts]
        shown.append({"number": i, "label": run.label, "said": said, "problems": problems})
    return shown


def _steps(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One problem: decoded steps, true steps, and the answer in the last line."""
    thoughts, steps = list(item.get("thoughts") or ()), list(item.get("steps") or ())
    rows = []
    for k in range(max(len(thoughts), len(steps))):
        said = str(thoughts[k]) if k < len(thoughts) else None
        true = str(steps[k]) if k < len(steps) else None
        match = None if said is None or true is None else same_step(said, true)
        rows.append({"name": k + 1, "said": said, "true": true, "match": match})
    said, true = str(item.get("said") or ""), str(item.get("answer") or "")
    known = item.get("correct")
    right = bool(known) if known is not None else equal(said, true) or equal(extract_strict(said), true)
    return [*rows, {"name": "answer", "said": said, "true": true, "match": right}]


def _facts(report: EvalReport) -> list[str]:
    """Where a run's numbers come from."""
    seen = report.environment
    return [
        f"{report.task.get('name')} / {report.split}, fingerprint {report.fingerprint}",
        f"model {report.model.get('path') or 'in memory'}",
        report.hardware,
        str(report.model.get("dtype") or "unknown dtype"),
        *versions(seen),
        f"commit {str(seen['commit'])[:12]}{' + changes' if seen.get('changed') else ''}" if seen.get("commit") else "",
        "speaking " + ", ".join(f"{k} {v}" for k, v in report.speaking.items()) if report.speaking else "",
        str(seen.get("time") or ""),
    ]


def versions(environment: Mapping[str, object]) -> list[str]:
    """The libraries that a report names, as facts for the foot of a page."""
    found = ((name, part(environment, "versions", name)) for name in ("unspoken", "torch", "transformers"))
    return [f"{name} {version}" for name, version in found if version]


def downsample(points: Sequence[tuple[float, float]], most: int = POINTS) -> tuple[Point, ...]:
    """At most `most` points: means of equal groups of neighbours, each at its last step, so that the end stays."""
    n = len(points)
    if n <= most:
        return tuple(Point(x, y) for x, y in points)
    groups = [points[n * k // most : n * (k + 1) // most] for k in range(most)]
    return tuple(Point(group[-1][0], mean(y for _, y in group)) for group in groups)


def _points(rows: Iterable[Mapping[str, object]], read: Read) -> list[tuple[float, float]]:
    """(step, value) where there is a finite value."""
    pairs = [(number(row.get("step")), number(read(row))) for row in rows]
    return [(float(x), float(y)) for x, y in pairs if x is not None and y is not None]


def _boundaries(rows: Iterable[Mapping[str, object]]) -> list[tuple[float, str]]:
    """(step, stage) wherever a new stage begins; the first stage has no boundary."""
    result: list[tuple[float, str]] = []
    before: object = None
    for row in rows:
        stage, step = row.get("stage"), number(row.get("step"))
        if stage is not None and before is not None and stage != before and step is not None:
            result.append((float(step), str(stage)))
        before = stage if stage is not None else before
    return result


def _spans(lines: Iterable[Line]) -> bool:
    """Whether a log scale shows more: all values positive, and the largest 20 times the smallest."""
    values = [point.y for line in lines for point in line.points]
    return min(values) > 0 and max(values) / min(values) > 20


def _reports(runs: Iterable[PageRun]) -> dict[str, EvalReport]:
    return {run.label: run.report for run in runs if run.report is not None}


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
