"""What lies in a folder of runs: how far each is, what it scored, and how much room it takes. Loads no weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unspoken.core.text.markup import number
from unspoken.core.text.table import Table
from unspoken.errors import UnspokenError
from unspoken.evaluation.records import EvalReport
from unspoken.runs.lock import Lock
from unspoken.runs.places import Places


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run.

    Attributes:
        path: its folder.
        state: finished, training, stopped (the same command goes on), no training (imported or exported), or broken.
        method, task: names; of a wrapping method with what it wraps, "sim_cot(coconut)".
        step, steps: optimizer steps done, and of the whole run; None = it does not say.
        validation: the best score of the validation split; None = none.
        scores: task -> share right and number of problems, of whole test splits.
        size, states: bytes of all of it, and of the states that only resuming needs.
        fault: what is wrong with it.
    """

    path: str
    state: str
    method: str = ""
    task: str = ""
    step: int | None = None
    steps: int | None = None
    validation: float | None = None
    scores: dict[str, tuple[float, int]]
    size: int
    states: int
    fault: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def find_runs(folder: Path) -> list[Path]:
    """The run directories in a folder, at any depth; those inside a run (`models/`) are its own affair."""
    found = []
    for where, folders, files in os.walk(folder):
        if "run.json" in files:
            found.append(Path(where))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def listed(path: Path) -> Listed:
    """One run."""
    run = Places(path)
    sizes: dict[str, Any] = {"size": size_of(path), "states": size_of(path / "state")}
    try:
        about, rows = run.read(), run.metrics()
    except UnspokenError as error:
        return Listed(path=str(path), state="broken", scores={}, fault=str(error), **sizes)
    config = about["config"]
    best = [score for row in rows if row["kind"] == "validation" and (score := number(row.get("accuracy"))) is not None]
    train, task = config.get("train"), config.get("task")
    done = about.get("finished")
    return Listed(
        path=str(path), state=_state(path, about), method=_name(config.get("method")),
        task=str(task.get("name", "")) if isinstance(task, dict) else "",
        step=max((row["step"] for row in rows if row["kind"] == "train"), default=None),
        steps=_steps(done) or _steps(train),
        validation=max(best, default=None), scores=dict(_scores(run)), **sizes,
    )  # fmt: skip


def _steps(part: object) -> int | None:
    return part.get("steps") if isinstance(part, dict) else None


def _state(path: Path, about: Mapping[str, object]) -> str:
    try:
        Lock(path).check()
    except UnspokenError:
        return "training"
    if "finished" in about:
        return "finished"
    return "no training" if {"imported", "exported_from", "kept"} & set(about) else "stopped"


def _name(settings: object) -> str:
    if not isinstance(settings, dict):
        return ""
    inside = next((_name(part) for part in settings.values() if isinstance(part, dict) and "name" in part), "")
    return f"{settings.get('name', '')}({inside})" if inside else str(settings.get("name", ""))


def _scores(run: Places) -> Iterator[tuple[str, tuple[float, int]]]:
    for file in run.reports(whole=True):
        try:
            report = EvalReport.from_json(file)
        except UnspokenError:
            continue  # `compare` says what is wrong with it
        yield str(report.task.get("name", file.stem)), (report.accuracy.value, report.n)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, 0 where there is none."""
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            file = os.path.join(where, name)
            total += os.lstat(file).st_size if os.path.lexists(file) else 0
    return total


def size_text(count: float) -> str:
    """`1.9 GB`: bytes for a reader."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def table(runs: Sequence[Listed]) -> Table:
    """Runs as a table."""
    rows = [
        (
            one.path,
            one.method,
            one.state,
            "–" if one.step is None else str(one.step) if one.steps is None else f"{one.step}/{one.steps}",
            "–" if one.validation is None else f"{100 * one.validation:.1f}",
            "; ".join(f"{100 * value:.1f} ({task}, {n})" for task, (value, n) in one.scores.items()) or "–",
            size_text(one.size),
            size_text(one.states),
        )
        for one in runs
    ]
    freed = sum(one.states for one in runs if one.state == "finished")
    notes = ["Accuracies in per cent: the best of the validation split, and of whole test splits (`unspoken eval RUN`)."]
    if freed:
        notes.append(f"`unspoken clean` frees {size_text(freed)}: states of finished runs, which only going on needs.")
    notes += [f"{one.path}: {one.fault}" for one in runs if one.fault is not None]
    return Table(
        headings=("run", "method", "state", "steps", "valid. %", "test %", "size", "states"),
        rows=rows, notes=notes, text_columns=3,
    )  # fmt: skip
