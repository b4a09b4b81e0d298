"""One HTML page about a set of runs: accuracy, cost, training curves, thoughts. One file, no script, nothing remote.

Every run keeps its colour through the page, lines are labelled where they end, and nothing is said by colour alone.
Charts are SVG written here; they scale to a phone, and follow the reader's light or dark scheme through CSS variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unspoken.core.files import write_text
from unspoken.core.text.markup import escape, metric_rows, number, part
from unspoken.errors import DataError
from unspoken.evaluation.records import EvalReport, same_step
from unspoken.evaluation.statistics import mean
from unspoken.evaluation.tables import cells, compare, notes, p_value, percent, points
from unspoken.pages.svg import Line, Point, bar, line_chart, scatter
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


def write_page(path: str | Path, title: str, runs: Sequence[PageRun]) -> None:
    """Write the page, all or nothing.

    Raises:
        DataError: no runs, or two with one label.
        RunError: the file cannot be written.
    """
    write_text(path, page(title, runs))


def page(title: str, runs: Sequence[PageRun]) -> str:
    """The page as text (see `write_page`)."""
    labels = [run.label for run in runs]
    if not runs:
        raise DataError("a page needs at least one run, got none")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise DataError(f"two runs on the page are called {twice!r}; give each its own label")
    sections = [_results(runs), _figures(runs), training(runs), _thoughts(runs), _sources(runs)]
    return document(title, summary(runs), "".join(sections))


def document(title: str, lead: str, body: str, style: str = "") -> str:
    """A page with the house's style: nothing remote, no script.

    Args:
        title: heading and name of the page.
        lead: a sentence or two below the heading.
        body: HTML of the sections.
        style: more CSS.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p></header>\n'
        f"{body}</main>\n</body>\n</html>\n"
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
    return said + f" {name}: {points(pair.difference)} points against {pair.a} (McNemar p {p_value(pair.p)}){passes}."


def _results(runs: Sequence[PageRun]) -> str:
    """The comparison table, its notes, and the paired tests against the first run."""
    reports = _reports(runs)
    if not reports:
        return ""
    head = ("accuracy", "", "flexible %", "latents", "visible tokens", "forward passes", "ms / question", "n")
    lines = []
    for i, run in enumerate(runs):
        if run.report is None:
            continue
        name, accuracy, *rest = cells(run.label, run.report)
        value, _, interval = accuracy.partition(" ")
        low, high = run.report.accuracy.interval
        figures = "".join(f'<td class="num" data-label="{h}">{escape(c)}</td>' for h, c in zip(head[2:], rest, strict=True))
        lines.append(
            f'<tr><th scope="row">{_key(i)}{escape(name)}</th>'
            f'<td class="bar">{bar(i, run.report.accuracy.value, low, high)}</td>'
            f'<td class="num wide"><b>{escape(value)}%</b> <span class="soft">{escape(interval)}</span></td>{figures}</tr>'
        )
    headings = "".join(f'<th scope="col" class="{"num" if i else ""}">{h}</th>' for i, h in enumerate(head))
    return (
        '<section><h2>Results</h2><table class="results">'
        f'<thead><tr><th scope="col">method</th>{headings}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        f'{_tests(reports)}<p class="note">{"<br>".join(map(escape, notes(reports)))}</p></section>\n'
    )


def _tests(reports: Mapping[str, EvalReport]) -> str:
    """Each run against the first one."""
    try:
        pairs = compare(reports).against_first
    except DataError:  # one run, or different problems: the notes say so
        return ""
    items = [
        f"<li><b>{escape(p.b)}</b> against {escape(p.a)}: {points(p.difference)} points; alone right on {p.only_b} "
        f"problems, alone wrong on {p.only_a}; McNemar p {escape(p_value(p.p))}; the intervals "
        f"{'overlap' if p.overlap else 'do not overlap'}</li>"
        for p in pairs
    ]
    return f'<ul class="tests">{"".join(items)}</ul>'


def _figures(runs: Sequence[PageRun]) -> str:
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
    figures = []
    if dots:
        chart = scatter(dots, x_label="forward passes per question", name="Accuracy against forward passes")
        figures.append(figure("Accuracy against forward passes", chart, "Whiskers: 95% interval. Up and left is better."))
    if lines:
        chart = line_chart(lines, x_label="true steps of the problem", percent=True, markers=True, name="Accuracy by steps")
        figures.append(figure("Accuracy by number of steps", chart, "Strict rule. Whiskers: 95% interval."))
    return f'<section><div class="grid">{"".join(figures)}</div></section>\n' if figures else ""


def training(runs: Sequence[PageRun]) -> str:
    """Validation accuracy and every loss term over optimizer steps, with the stages' boundaries."""
    trained = [metric_rows(run.metrics, "train") for run in runs]
    checks = [metric_rows(run.metrics, "validation") for run in runs]
    stages = [(i, step, stage) for i, train in enumerate(trained) for step, stage in _boundaries(train)]
    found = [row["terms"] for train in trained for row in train if isinstance(row.get("terms"), dict)]
    terms = list(dict.fromkeys(term for one in found for term in one))

    def curves(source: list[list[dict[str, Any]]], read: Callable[[Mapping[str, Any]], Any]) -> list[Line]:
        lines = [(i, run.label, downsample(_points(source[i], read))) for i, run in enumerate(runs)]
        return [Line(i, label, points) for i, label, points in lines if points]

    figures = []
    if lines := curves(checks, lambda row: row.get("accuracy")):
        markers = all(len(line.points) <= 40 for line in lines)
        chart = line_chart(
            lines, x_label="optimizer step", percent=True, stages=stages, markers=markers, name="Validation accuracy"
        )
        figures.append(figure("Validation accuracy", chart))
    panels: list[tuple[str, Callable[[Mapping[str, Any]], Any]]] = [
        (f"Loss term: {term}", lambda row, t=term: part(row, "terms", t)) for term in terms
    ]
    if len(terms) != 1:
        panels.insert(0, ("Loss, all terms", lambda row: row.get("loss")))
    for heading, read in panels:
        if lines := curves(trained, read):
            chart = line_chart(lines, x_label="optimizer step", stages=stages, log_y=_spans(lines), name=heading)
            figures.append(figure(heading + (", log scale" if _spans(lines) else ""), chart))
    if not figures:
        return ""
    said = (
        "Thin vertical lines: a new stage of the curriculum, in the run's colour where the runs differ. " if stages else ""
    )
    said += f"Curves of more than {POINTS} rows show means of equal groups of rows."
    return f'<section><h2>Training</h2><div class="grid">{"".join(figures)}</div><p class="note">{said}</p></section>\n'


def _thoughts(runs: Sequence[PageRun]) -> str:
    """Decoded thoughts beside true steps."""
    parts = []
    for i, run in enumerate(runs):
        steps = run.report.step_accuracy if run.report else None
        if not run.thoughts and steps is None:
            continue
        said = ""
        if steps is not None:
            right = f"; {percent(steps.correct_only.value)}% of {steps.correct_only.n} where the answer is right"
            by_step = ", ".join(f"{percent(r.value)}%" for r in steps.by_index)
            said = (
                f"<p>Of {steps.overall.n} decoded steps that have a true partner, {percent(steps.overall.value)}% equal it"
                f"{right if steps.correct_only.n else ''}. By step, first to last: {by_step}.</p>"
            )
        problems = "".join(map(_problem, run.thoughts))
        parts.append(f'<h3>{_key(i)}{escape(run.label)}</h3>{said}<div class="problems">{problems}</div>')
    if not parts:
        return ""
    legend = f"{mark(True)} equals the true step (white space aside) · {mark(False)} differs · – no partner"
    return f'<section><h2>Thoughts in words</h2><p class="note">{legend}</p>{"".join(parts)}</section>\n'


def _problem(item: Mapping[str, Any]) -> str:
    """One problem: decoded steps, true steps, answer."""
    thoughts, steps = list(item.get("thoughts") or ()), list(item.get("steps") or ())
    lines = []
    for k in range(max(len(thoughts), len(steps))):
        said = str(thoughts[k]) if k < len(thoughts) else None
        true = str(steps[k]) if k < len(steps) else None
        match = None if said is None or true is None else same_step(said, true)
        lines.append(_row(str(k + 1), said, true, match))
    said, true = str(item.get("said") or ""), str(item.get("answer") or "")
    known = item.get("correct")
    right = bool(known) if known is not None else equal(said, true) or equal(extract_strict(said), true)
    lines.append(_row("answer", said, true, right, last=True))
    return (
        f'<article><p class="question">{escape(str(item.get("question") or ""))}</p><table class="steps"><thead><tr>'
        '<th scope="col"><span class="hidden">step</span></th><th scope="col">decoded</th><th scope="col">true</th>'
        f'<th scope="col"><span class="hidden">match</span></th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></article>"
    )


def _row(name: str, said: str | None, true: str | None, match: bool | None, *, last: bool = False) -> str:
    kind = "none" if match is None else "yes" if match else "no"
    decoded, reference = (f"<code>{escape(text)}</code>" if text else "–" for text in (said, true))
    sign = "–" if match is None else mark(match)
    return (
        f'<tr class="{kind}{" last" if last else ""}"><th scope="row">{name}</th><td class="said">{decoded}</td>'
        f"<td>{reference}</td><td>{sign}</td></tr>"
    )


def _sources(runs: Sequence[PageRun]) -> str:
    """Where each run's numbers come from."""
    items = []
    for run in runs:
        if (report := run.report) is None:
            continue
        seen = report.environment
        facts = [
            f"{report.task.get('name')} / {report.split}, fingerprint {report.fingerprint}",
            f"model {report.model.get('path') or 'in memory'}",
            report.hardware,
            str(report.model.get("dtype") or "unknown dtype"),
            *(f"{name} {v}" for name in ("unspoken", "torch", "transformers") if (v := part(seen, "versions", name))),
            f"commit {str(seen['commit'])[:12]}{' + changes' if seen.get('changed') else ''}" if seen.get("commit") else "",
            "speaking " + ", ".join(f"{k} {v}" for k, v in report.speaking.items()) if report.speaking else "",
            str(seen.get("time") or ""),
        ]
        items.append(f"<dt>{escape(run.label)}</dt><dd>{escape(' · '.join(filter(None, facts)))}</dd>")
    return f"<footer><h2>Sources</h2><dl>{''.join(items)}</dl></footer>\n" if items else ""


def downsample(points: Sequence[tuple[float, float]], most: int = POINTS) -> tuple[Point, ...]:
    """At most `most` points: means of equal groups of neighbours, each at its last step, so that the end stays."""
    n = len(points)
    if n <= most:
        return tuple(Point(x, y) for x, y in points)
    groups = [points[n * k // most : n * (k + 1) // most] for k in range(most)]
    return tuple(Point(group[-1][0], mean(y for _, y in group)) for group in groups)


def _points(rows: Iterable[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Any]) -> list[tuple[float, float]]:
    """(step, value) where there is a finite value."""
    pairs = [(row["step"], number(read(row))) for row in rows]
    return [(float(x), float(y)) for x, y in pairs if y is not None]


def _boundaries(rows: Iterable[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """(step, stage) wherever a new stage begins; the first stage has no boundary."""
    result: list[tuple[float, str]] = []
    before: Any = None
    for row in rows:
        stage = row.get("stage")
        if stage is not None and before is not None and stage != before:
            result.append((float(row["step"]), str(stage)))
        before = stage if stage is not None else before
    return result


def _spans(lines: Iterable[Line]) -> bool:
    """Whether a log scale shows more: all values positive, and the largest 20 times the smallest."""
    values = [point.y for line in lines for point in line.points]
    return min(values) > 0 and max(values) / min(values) > 20


def _reports(runs: Iterable[PageRun]) -> dict[str, EvalReport]:
    return {run.label: run.report for run in runs if run.report is not None}


def figure(heading: str, chart: str, said: str = "") -> str:
    """A chart in its frame, with a heading and a note."""
    note = f"<p>{escape(said)}</p>" if said else ""
    return f"<figure><figcaption><h3>{escape(heading)}</h3>{note}</figcaption>{chart}</figure>"


def _key(run: int) -> str:
    """The run's colour as a small square."""
    return f'<span class="key c{run % 8}" aria-hidden="true"></span>'


def mark(match: bool) -> str:
    """Whether two things agree, by shape and by colour."""
    return '<span class="sign yes" title="match">✓</span>' if match else '<span class="sign no" title="differs">✗</span>'


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --card: #fff; --ink: #1c1f23; --soft: #5f666e; --line: #dfe1dd;
  --good: #11744f; --bad: #b3261e; --good-back: #e6f4ec; --bad-back: #fceceb; --c0: #2a66cf; --c1: #b55200; --c2: #0a7a67;
  --c3: #ad2f78; --c4: #6a4bc3; --c5: #846300; --c6: #b3312b; --c7: #56616b;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --card: #1b1f23; --ink: #e8eaec; --soft: #a0a8b0; --line: #32383e; --good: #6fd3a3;
    --bad: #ff9a92; --good-back: #17322a; --bad-back: #3b2224; --c0: #7fb0ff; --c1: #ffa25e; --c2: #4fd0b8; --c3: #f58cc4;
    --c4: #b9a3ff; --c5: #e2c04f; --c6: #ff8f86; --c7: #aeb8c2 }
}
.c0 { color: var(--c0) } .c1 { color: var(--c1) } .c2 { color: var(--c2) } .c3 { color: var(--c3) }
.c4 { color: var(--c4) } .c5 { color: var(--c5) } .c6 { color: var(--c6) } .c7 { color: var(--c7) }

* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans); text-size-adjust: 100%;
  -webkit-text-size-adjust: 100%; overflow-wrap: break-word }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .5rem }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem }
h3 { font-size: .95rem; font-weight: 600; margin: 0 }
.lead { font-size: 1.08rem; max-width: 46rem; margin: 0 }
.note, figcaption p, dl { color: var(--soft); font-size: .84rem; max-width: 56rem }
.tests { color: var(--soft); font-size: .9rem; padding-left: 1.1rem } .tests b { color: var(--ink); font-weight: 600 }
.soft { color: var(--soft) }
.key { display: inline-block; width: .68em; height: .68em; border-radius: 2px; background: currentColor; margin-right: .5em }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
dl { margin: 0 } dt { color: var(--ink); font-weight: 600 } dd { margin: 0 0 .6rem }

table { border-collapse: collapse; width: 100%; font-size: .92rem }
th { font-weight: 600; text-align: left }
thead th { color: var(--soft); font-weight: 500; font-size: .8rem; vertical-align: bottom }
.results td, .results th { padding: .5rem .55rem; border-bottom: 1px solid var(--line) }
.results .num { text-align: right; font-variant-numeric: tabular-nums } .results td.num { white-space: nowrap }
.results tbody th { min-width: 8.5rem } .results .bar { width: 170px; min-width: 100px }

.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 20px }
section > .grid:first-child { margin-top: 1.6rem }
figure { margin: 0; padding: 16px 16px 10px; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  max-width: 620px; min-width: 0 }
figcaption { margin-bottom: .5rem } figcaption p { margin: .1rem 0 0 }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font: 12px var(--sans); fill: var(--soft); font-variant-numeric: tabular-nums }
svg .name { fill: currentColor; font-size: 11.5px; font-weight: 600; paint-order: stroke; stroke: var(--card);
  stroke-width: 3px; stroke-linejoin: round }
svg .rule { stroke: var(--line); stroke-width: 1 } svg .axis { stroke: var(--soft); stroke-width: 1 }
svg .stage { stroke: currentColor; stroke-width: .8; stroke-dasharray: 2 3; opacity: .75 } svg .plain { color: var(--soft) }
svg .curve { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
svg .whisker { stroke: currentColor; stroke-width: 1.4; opacity: .55 }
svg .leader { stroke: currentColor; stroke-width: .8; opacity: .6 }
svg .dot { fill: currentColor; stroke: var(--card); stroke-width: 1.2 }
svg .track { fill: var(--line); opacity: .6 } svg .fill { fill: currentColor; opacity: .85 }
svg .error { stroke: var(--ink); stroke-width: 1.3; fill: none }

.problems { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px;
  margin: .6rem 0 1.6rem }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; min-width: 0 }
.question { margin: 0 0 .6rem; white-space: pre-line }
.steps { table-layout: fixed; overflow-wrap: anywhere } .steps td, .steps th { padding: .28rem .4rem; vertical-align: top }
.steps tbody th { color: var(--soft); font-weight: 500; font-size: .82rem }
.steps th:first-child { width: 4.3rem; padding-left: 0 }
.steps th:last-child, .steps td:last-child { width: 2rem; text-align: center }
.steps .yes .said code { background: var(--good-back); color: var(--good) }
.steps .no .said code { background: var(--bad-back); color: var(--bad) }
.steps .last td, .steps .last th { border-top: 1px solid var(--line); padding-top: .45rem }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; padding: .08em .3em; border-radius: 4px;
  white-space: pre-wrap; -webkit-box-decoration-break: clone; box-decoration-break: clone }
.sign { font-weight: 700 } .sign.yes { color: var(--good) } .sign.no { color: var(--bad) }

@media (max-width: 840px) {
  main { padding: 24px 14px 48px } h1 { font-size: 1.5rem } figure { padding: 12px 10px 6px }
  .results thead { display: none }
  .results tr { display: grid; grid-template-columns: 1fr 1fr; gap: .1rem 1.4rem; padding: .8rem 0;
    border-bottom: 1px solid var(--line) }
  .results tbody th, .results td { border: 0; padding: .1rem 0 }
  .results tbody th, .results .bar, .results .wide { grid-column: 1 / -1; width: auto }
  .results td.num { display: flex; justify-content: space-between; gap: .6rem }
  .results td.num::before { content: attr(data-label); color: var(--soft); font-size: .82rem }
  .results td.wide { justify-content: flex-start } .results td.wide::before { content: none }
}
@media (max-width: 480px) { svg text { font-size: 14px } svg .name { font-size: 12.5px } }
"""
