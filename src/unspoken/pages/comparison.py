"""Methods times tasks: one table of accuracies, the comparison per task, a chart of accuracy against forward passes.

With one task it is what `evaluation/tables.py` makes of it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.core.seal import changed, identity
from unspoken.core.text.markup import cell
from unspoken.core.text.table import Table
from unspoken.errors import ConfigError
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.tables import Reports, compare, comparison_table, table, to_json, with_interval
from unspoken.pages.svg import Line, Point, scatter, sheet
from unspoken.runs.places import Places

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
        files = Places(path).reports(whole=True) if path.is_dir() else [path]
        if not files:
            there = ", ".join(f.name for f in Places(path).reports())
            named = f" ({there})" if there else ""
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


def tables(grid: Grid) -> dict[str, list[Table]]:
    """Under each task's name the table of its runs and, where there are several, of their pairs.

    Under "" stands what no task's name stands above: runs times tasks, or the one task's tables.
    """
    found = {name: [table(row), *([comparison_table(compare(row))] if len(row) > 1 else [])] for name, row in grid.items()}
    if len(grid) == 1:
        return {"": next(iter(found.values()))}
    rows = [
        [label, *(with_interval(row[label].accuracy) if label in row else "–" for row in grid.values())]
        for label in labels(grid)
    ]
    rule = next(iter(next(iter(grid.values())).values())).extractor
    note = f"Accuracy: {rule} rule, per cent, with the 95% Wilson interval."
    matrix = Table(headings=("method", *grid), rows=rows, notes=[note], narrow=("accuracy %", *grid))
    return {"": [matrix], **found}


def markdown(tables: Mapping[str, Sequence[Table]]) -> str:
    """Tables as Markdown, under the names that they stand under."""
    return "\n".join(
        (f"## {cell(name)}\n\n" if name else "") + "\n".join(one.markdown() for one in some) for name, some in tables.items()
    )


def grid_json(grid: Grid) -> str:
    """The same as JSON: label -> figures where there is one task; else task -> `methods` (that) and `pairs`."""
    if len(grid) == 1:
        return to_json(next(iter(grid.values())))
    data: dict[str, Any] = {}
    for name, reports in grid.items():
        pairs = json.loads(compare(reports).to_json())["pairs"] if len(reports) > 1 else []
        data[name] = {"methods": json.loads(to_json(reports)), "pairs": pairs}
    return json.dumps(data, indent=2) + "\n"


def chart(grid: Grid) -> str:
    """Accuracy against forward passes as a file of its own: SVG, a panel per task, the same colour for a run in each."""
    runs = {label: number for number, label in enumerate(labels(grid))}
    panels = []
    for name, reports in grid.items():
        dots = [
            Line(runs[label], label, (Point(r.mean_passes, r.accuracy.value, *r.accuracy.interval),))
            for label, r in reports.items()
        ]
        drawn = scatter(dots, name=f"{name}: accuracy against forward passes", x_label="forward passes per question")
        panels.append((f"{name}: accuracy, 95% interval", drawn))
    return sheet("Accuracy against forward passes", panels)
