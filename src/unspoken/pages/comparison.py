"""Compare runs on several tasks: a table of accuracies, a comparison per task, a chart of accuracy against forward passes.

With one task, the tables are those of `evaluation/tables.py`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.core.seal import changed, identity
from unspoken.core.text.table import Table, csv_text
from unspoken.errors import ConfigError
from unspoken.evaluation.groups import SeedGroup
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.statistics import mean
from unspoken.evaluation.tables import Reports, compare, comparison_table, table, to_json, with_interval
from unspoken.pages.svg import Chart, Line, Point
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
    """Like `read`, with the folder of each report.

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
            if path.is_file() and not path.stem.startswith("eval-"):  # MODEL-eval-TASK-test.json of a model without a folder
                short = path.stem.replace(f"-eval-{report.task.get('name')}-{report.split}", "")
            if (fault := _stale(report, file.parent / "model")) is not None:
                warnings.warn(f"{file} is no longer of the model beside it: {fault}; run the evaluation again", stacklevel=2)
            row = grid.setdefault(str(report.task.get("name") or "a task"), {})
            label = next(n for n in (short, str(path), *(f"{path} ({k})" for k in range(2, 99))) if n not in row)
            row[label] = report, file.parent
    return grid


def _stale(report: EvalReport, model: Path) -> str | None:
    """Why a report is not about the model next to it; None if nothing indicates that."""
    saved, now = report.model.get("saved"), identity(model)
    if saved is not None and now is not None and saved != now:
        return "the model was saved again since"
    return changed(model)


def labels(grid: Grid) -> list[str]:
    """The runs, in the given order."""
    return list(dict.fromkeys(label for reports in grid.values() for label in reports))


def tables(grid: Grid) -> dict[str, list[Table]]:
    """Per task name, the table of its runs and, if there are several, of their pairs.

    The key "" holds tables without a task name: runs by tasks, or the tables of the only task.
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


CSV = (
    "task", "run", "correct", "n", "accuracy", "low", "high", "flexible", "latents", "tokens", "passes", "positions", "ms",
    "cut_off",
)  # fmt: skip
"""Columns of `grid_csv`: shares from 0 to 1, means per question."""


def grid_csv(grid: Grid) -> str:
    """A line per task and run, for spreadsheets and plotting tools."""
    rows = [
        [
            task, label, r.accuracy.correct, r.n, r.accuracy.value, *r.accuracy.interval, r.flexible.value, r.mean_latents,
            r.mean_visible_tokens, r.mean_passes, r.mean_positions, r.ms_per_question, r.cut_off,
        ]
        for task, reports in grid.items()
        for label, r in reports.items()
    ]  # fmt: skip
    return csv_text(CSV, rows)


def grid_json(grid: Grid) -> str:
    """The same as JSON: label -> figures for one task; otherwise task -> `methods` (the same) and `pairs`."""
    if len(grid) == 1:
        return to_json(next(iter(grid.values())))
    data: dict[str, Any] = {}
    for name, reports in grid.items():
        pairs = json.loads(compare(reports).to_json())["pairs"] if len(reports) > 1 else []
        data[name] = {"methods": json.loads(to_json(reports)), "pairs": pairs}
    return json.dumps(data, indent=2) + "\n"


def charts(grid: Grid) -> list[Chart]:
    """Accuracy against forward passes: a chart per task, with the same colour for a run in each."""
    points = {
        name: {label: Point(r.mean_passes, r.accuracy.value, *r.accuracy.interval) for label, r in reports.items()}
        for name, reports in grid.items()
    }
    return _by_passes(points, "95% interval")


def group_charts(tasks: Mapping[str, Sequence[SeedGroup]]) -> list[Chart]:
    """Accuracy against forward passes, a point per recipe: its mean over training seeds with the interval over them."""
    points = {
        name: {
            group.name: Point(
                mean(report.mean_passes for report in group.reports.values()), group.accuracy.mean,
                *(group.accuracy.interval or (None, None)),
            )
            for group in groups
        }
        for name, groups in tasks.items()
    }  # fmt: skip
    return _by_passes(points, "95% over training seeds")


def _by_passes(tasks: Mapping[str, Mapping[str, Point]], interval: str) -> list[Chart]:
    """A chart per task; a run has the same colour in all."""
    colours = {label: n for n, label in enumerate(dict.fromkeys(label for row in tasks.values() for label in row))}
    return [
        Chart(
            name=f"{name}: accuracy against forward passes, {interval}",
            lines=[Line(colours[label], label, (point,)) for label, point in row.items()],
            x_label="forward passes per question", percent=True, markers=True, scatter=True,
        )
        for name, row in tasks.items()
    ]  # fmt: skip
