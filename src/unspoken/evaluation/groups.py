"""`compare --group`: runs of one recipe that differ only in their training seed, as one row of a table.

Another training seed gives another model; another sampling seed (`eval --seeds`) gives other answers of the same model. A
recipe's result is the mean over its training seeds, with an interval over those seeds: intervals over problems describe one
run, not how another run of the recipe would do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspoken.core.config import dump
from unspoken.core.files import parse_json
from unspoken.core.text.table import Table, csv_text
from unspoken.errors import ConfigError
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.statistics import OverSeeds, difference_of_means, mean, over_training_seeds
from unspoken.evaluation.tables import cut_notes, each_seed, over_seeds_cell, percent, points
from unspoken.runs.earlier import updated

HEADINGS = (
    "recipe",
    "mean % (95% over training seeds)",
    "each seed %",
    "within a seed",
    "latents",
    "tokens",
    "passes",
    "seeds",
)
PAIR_HEADINGS = ("a", "b", "b - a", "95% over training seeds")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How the run behind a report was trained.

    Attributes:
        recipe: config and evaluation settings without training seeds, as text; equal for runs of one recipe.
        seed: `train.seed`.
    """

    recipe: str
    seed: int


def trained(report: EvalReport, folder: Path) -> Trained | None:
    """How a report's run was trained, from the run.json next to the report; None if there is none."""
    try:
        config = updated(parse_json((folder / "run.json").read_bytes())["config"])
        seed = config["train"]["seed"]
        # The seed of a generated task (tiny) only changes the problems drawn.
        rest = {part: _without_seed(value) if part in ("train", "task") else value for part, value in config.items()}
        rest.pop("fast", None)  # does not change results
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    how = {name: dump(getattr(report, name)) for name in ("split", "limit", "latents", "speaking", "extractor", "chains")}
    how |= {"samples": report.samples, "task": _without_seed(report.task)}
    return Trained(recipe=json.dumps([rest, how], sort_keys=True, default=str), seed=seed)


def _without_seed(values: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "seed"}


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Reports of one recipe: training seed -> report, lowest seed first. Without a run.json: one report, seed None."""

    name: str
    labels: tuple[str, ...]
    reports: Mapping[int | None, EvalReport]

    @property
    def accuracy(self) -> OverSeeds:
        """Accuracy over training seeds, by the reports' scoring rule."""
        return over_training_seeds(report.accuracy for report in self.reports.values())

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        accuracy, reports = self.accuracy, list(self.reports.values())
        return {
            "runs": list(self.labels),
            "training_seeds": list(self.reports),
            "mean": accuracy.mean,
            "interval_over_training_seeds": None if accuracy.interval is None else list(accuracy.interval),
            "accuracies": list(accuracy.values),
            "intervals_within_a_seed": [list(one) for one in accuracy.within],
            "mean_latents": mean(r.mean_latents for r in reports),
            "mean_visible_tokens": mean(r.mean_visible_tokens for r in reports),
            "mean_passes": mean(r.mean_passes for r in reports),
            "cut_off": sum(r.cut_off for r in reports),
        }


def grouped(reports: Mapping[str, EvalReport], how: Mapping[str, Trained | None]) -> list[SeedGroup]:
    """Group a task's reports by recipe, in order of appearance.

    Args:
        reports: label -> report.
        how: label -> how it was trained; None = a group of its own.

    Raises:
        ConfigError: two runs of a recipe have the same training seed.
    """
    found: dict[str, dict[int | None, str]] = {}
    for label in reports:
        known = how[label]
        row = found.setdefault(known.recipe if known else f"alone {label}", {})
        seed = known.seed if known else None
        if seed in row:
            raise ConfigError(
                f"{row[seed]!r} and {label!r} are one recipe with the same training seed {seed}, so they are no two "
                "observations of it; give one run per seed, or leave --group out"
            )
        row[seed] = label
    groups: list[SeedGroup] = []
    for row in found.values():
        seeds = sorted(row, key=lambda seed: -1 if seed is None else seed)
        labels = tuple(row[seed] for seed in seeds)
        name = _name(labels, {group.name for group in groups})
        groups.append(SeedGroup(name=name, labels=labels, reports={seed: reports[row[seed]] for seed in seeds}))
    return groups


def _name(labels: Sequence[str], taken: set[str]) -> str:
    """The labels' common prefix, without a trailing "-seed-"."""
    name = labels[0]
    if len(labels) > 1:
        shared = _common(labels).rstrip("0123456789 -_.=/")
        name = shared.removesuffix("seed").rstrip(" -_.=/") or labels[0]
    return next(n for n in (name, *(f"{name} ({k})" for k in range(2, 999))) if n not in taken)


def _common(labels: Sequence[str]) -> str:
    """The longest common prefix of all labels."""
    columns = enumerate(zip(*labels, strict=False))
    return labels[0][: next((i for i, letters in columns if len(set(letters)) > 1), min(map(len, labels)))]


def hint(groups: Sequence[SeedGroup]) -> list[str]:
    """A note for tables of single runs that says which of them belong to one recipe."""
    return [
        f"{', '.join(g.labels)} are one recipe with training seeds {', '.join(map(str, g.reports))}: --group shows their "
        "mean with an interval over seeds; the intervals here are each run's own"
        for g in groups
        if len(g.reports) > 1
    ]


def cells(group: SeedGroup) -> list[str]:
    """A row of the table, in the order of `HEADINGS`."""
    accuracy, reports = group.accuracy, list(group.reports.values())
    return [
        group.name,
        over_seeds_cell(accuracy),
        each_seed(accuracy),
        "±" + percent(max((high - low) / 2 for low, high in accuracy.within)),
        *(f"{mean(getattr(r, f'mean_{what}') for r in reports):.1f}" for what in ("latents", "visible_tokens", "passes")),
        str(len(reports)),
    ]


def _pairs(groups: Sequence[SeedGroup]) -> list[list[str]]:
    rows = []
    for number, a in enumerate(groups):
        for b in groups[number + 1 :]:
            value, interval = difference_of_means(a.accuracy, b.accuracy)
            told = "–" if interval is None else f"{points(interval[0])} to {points(interval[1])}"
            rows.append([a.name, b.name, points(value), told])
    return rows


def notes(groups: Sequence[SeedGroup]) -> list[str]:
    """Notes that explain the table."""
    rules = sorted({report.extractor for g in groups for report in g.reports.values()})
    lines = [
        f"Accuracy: {', '.join(rules)} rule, mean over training seeds with the 95% t interval over them (none for one seed, "
        "or equal ones). Within a seed: the widest 95% Wilson interval of one run, about other problems for that one model."
    ]
    prints = [{report.fingerprint for report in g.reports.values()} for g in groups]
    if any(one != prints[0] for one in prints):
        lines.append("The recipes were evaluated on different problems, so their means cannot be compared.")
    alone = [g.name for g in groups if None in g.reports]
    if alone:
        lines.append(f"No run.json beside the report, so the training settings are unknown: {', '.join(alone)} stand alone.")
    if len(groups) > 1:
        lines.append(
            "Differences: mean minus mean, Welch's 95% t interval over training seeds, not adjusted for many pairs."
        )
    return lines + cut_notes({label: r for g in groups for label, r in zip(g.labels, g.reports.values(), strict=True)})


def tables(groups: Sequence[SeedGroup]) -> list[Table]:
    """The table of recipes, and the table of their differences."""
    every = [Table(headings=HEADINGS, rows=[cells(group) for group in groups], notes=notes(groups))]
    if len(groups) > 1:
        every.append(Table(headings=PAIR_HEADINGS, rows=_pairs(groups), text_columns=2))
    return every


def to_json(tasks: Mapping[str, Sequence[SeedGroup]]) -> str:
    """Task -> recipe -> figures."""
    data = {task: {group.name: group.plain() for group in groups} for task, groups in tasks.items()}
    return json.dumps(data, indent=2) + "\n"


CSV = ("task", "recipe", "seed", "run", "correct", "n", "accuracy", "low", "high", "latents", "tokens", "passes")
"""Columns of `to_csv`."""


def to_csv(tasks: Mapping[str, Sequence[SeedGroup]]) -> str:
    """CSV with a row per task, recipe and training seed: the data behind means and intervals."""
    rows = [
        [
            task, group.name, seed, label, r.accuracy.correct, r.n, r.accuracy.value, *r.accuracy.interval, r.mean_latents,
            r.mean_visible_tokens, r.mean_passes,
        ]
        for task, groups in tasks.items()
        for group in groups
        for label, (seed, r) in zip(group.labels, group.reports.items(), strict=True)
    ]  # fmt: skip
    return csv_text(CSV, rows)
