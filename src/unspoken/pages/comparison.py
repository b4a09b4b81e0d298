"""Methods times tasks: one table of accuracies, the comparison per task, a chart of accuracy against forward passes.

With one task it is what `evaluation/tables.py` makes of it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape as mark_up
from rich.table import Table

from unspoken.core.seal import changed, identity
from unspoken.core.text.markup import cell, escape
from unspoken.errors import ConfigError
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.tables import (
    Reports,
    compare,
    comparison_markdown,
    comparison_table,
    markdown,
    table,
    terminal_table,
    to_json,
    to_markdown,
    with_interval,
)
from unspoken.pages.svg import HEIGHT, WIDTH, Line, Point, scatter

Grid = Mapping[str, Reports]
"""Task -> label of the run -> report."""


def read(paths: Sequence[Path]) -> dict[str, dict[str, EvalReport]]:
    """The reports of run directories (all their whole test splits) and of single files, by task.

    Raises:
        ConfigError: a run directory has no reports of a whole test split.
        RunError: a file is no report.
    """
    return {task: {label: report for label, (report, _) in row.items()} for task, row in find(paths).items()}


def find(paths: Sequence[Path]) -> dict[str, dict[str, tuple[EvalReport, Path]]]:
    """What `read` gives, each with the folder that it stands in.

    Raises:
        ConfigError: a run directory has no reports of a whole test split.
        RunError: a file is no report.
    """
    grid: dict[str, dict[str, tuple[EvalReport, Path]]] = {}
    for path in paths:
        files = sorted(path.glob("eval-*-test.json")) if path.is_dir() else [path]
        if not files:
            there = sorted(path.glob("eval-*.json"))
            named = f" ({', '.join(f.name for f in there)})" if there else ""
            raise ConfigError(
                f"{path} has no reports of a whole test split{named}; run `unspoken eval {path}`, or name a report file"
            )
        short = path.name if path.is_dir() else path.parent.name if path.stem.startswith("eval-") else path.stem
        for file in files:
            report = EvalReport.from_json(file)
            if (fault := _stale(report, file.parent / "model")) is not None:
                warnings.warn(f"{file} is no longer of the model beside it: {fault}; run the evaluation again", stacklevel=2)
            row = grid.setdefault(str(report.task.get("name") or "a task"), {})
            label = next(n for n in (short, str(path), *(f"{path} ({k})" for k in range(2, 99))) if n not in row)
            row[label] = report, file.parent
    return grid


def _stale(report: EvalReport, model: Path) -> str | None:
    """Why a report does not speak of the model that lies beside it, in words; None where nothing says so."""
    saved, now = report.model.get("saved"), identity(model)
    if saved is not None and now is not None and saved != now:
        return "the model was saved again since"
    return changed(model)


def labels(grid: Grid) -> list[str]:
    """The runs, in the order in which they were given."""
    return list(dict.fromkeys(label for reports in grid.values() for label in reports))


def _matrix(grid: Grid) -> list[list[str]]:
    return [
        [label, *(with_interval(row[label].accuracy) if label in row else "–" for row in grid.values())]
        for label in labels(grid)
    ]


def terminal(grid: Grid) -> list[Table | str]:
    """What the command prints: the matrix where there are several tasks, then each task's table and pairs."""
    parts: list[Table | str] = []
    if len(grid) > 1:
        whole = terminal_table(("accuracy %", *grid), text_columns=1, caption="")
        for row in _matrix(grid):
            whole.add_row(*map(mark_up, row))
        parts.append(whole)
    for name, reports in grid.items():
        parts += [name] if len(grid) > 1 else []
        parts.append(table(reports))
        if len(reports) > 1:
            parts.append(comparison_table(compare(reports)))
    return parts


def grid_markdown(grid: Grid) -> str:
    """The same as Markdown."""
    text = ""
    if len(grid) > 1:
        rule = next(iter(next(iter(grid.values())).values())).extractor
        text = (
            markdown(["method", *grid], _matrix(grid))
            + f"\nAccuracy: {rule} rule, per cent, with the 95% Wilson interval.\n"
        )
    for name, reports in grid.items():
        text += f"\n## {cell(name)}\n\n" if len(grid) > 1 else ""
        text += to_markdown(reports)
        text += "\n" + comparison_markdown(compare(reports)) if len(reports) > 1 else ""
    return text


def grid_json(grid: Grid) -> str:
    """The same as JSON: label -> figures where there is one task; else task -> `methods` (that) and `pairs`."""
    if len(grid) == 1:
        return to_json(next(iter(grid.values())))
    data: dict[str, Any] = {}
    for name, reports in grid.items():
        pairs = json.loads(compare(reports).to_json())["pairs"] if len(reports) > 1 else []
        data[name] = {"methods": json.loads(to_json(reports)), "pairs": pairs}
    return json.dumps(data, indent=2) + "\n"


_TITLE = 26
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #5f666e } .title { font-size: 14px; font-weight: 600; fill: #1c1f23 }
.paper { fill: #fcfcfa } .rule { stroke: #dfe1dd } .axis { stroke: #5f666e }
.dot { fill: currentColor } .whisker { stroke: currentColor; stroke-width: 1.3; fill: none; opacity: .75 }
.name { fill: currentColor; font-size: 11.5px; font-weight: 600 } .leader { stroke: currentColor; opacity: .6 }
.c0 { color: #2a66cf } .c1 { color: #b55200 } .c2 { color: #0a7a67 } .c3 { color: #ad2f78 }
.c4 { color: #6a4bc3 } .c5 { color: #846300 } .c6 { color: #b3312b } .c7 { color: #56616b }
"""


def chart(grid: Grid) -> str:
    """Accuracy against forward passes as a file of its own: SVG, a panel per task, the same colour for a run in each."""
    runs = {label: number for number, label in enumerate(labels(grid))}
    panel = HEIGHT + _TITLE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {panel * len(grid)}" width="{WIDTH}" '
        f'height="{panel * len(grid)}" role="img" aria-label="Accuracy against forward passes">',
        f'<style>{_STYLE}</style><rect class="paper" width="100%" height="100%"/>',
    ]
    for number, (name, reports) in enumerate(grid.items()):
        dots = [
            Line(runs[label], label, (Point(r.mean_passes, r.accuracy.value, *r.accuracy.interval),))
            for label, r in reports.items()
        ]
        inner = scatter(dots, name=f"{name}: accuracy against forward passes", x_label="forward passes per question")
        top = panel * number
        parts.append(f'<text class="title" x="8" y="{top + 18}">{escape(name)}: accuracy, 95% interval</text>')
        place = f'<svg y="{top + _TITLE}" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(place + inner.removeprefix("<svg "))
    return "".join(parts) + "</svg>\n"
