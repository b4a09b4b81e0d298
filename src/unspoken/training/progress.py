"""Live progress of a run: a bar with loss terms, tokens per second and time left; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from unspoken.training.plan import Plan


class Reporter(AbstractContextManager[Any], Protocol):
    """Called with what a training will do, and with every metrics row as it is written."""

    def begins(self, plan: Plan) -> None:
        """Training begins or goes on."""
        ...

    def row(self, row: dict[str, Any], total: int) -> None:
        """Receive a row of metrics.jsonl, and the run's total number of optimizer steps."""
        ...


class Quiet(AbstractContextManager[Any]):
    """Says nothing."""

    def begins(self, plan: Plan) -> None:
        """See `Reporter.begins`."""

    def row(self, row: dict[str, Any], total: int) -> None:
        """See `Reporter.row`."""

    def __exit__(self, *_: object) -> None:
        return None


class Bars(AbstractContextManager[Any]):
    """A progress bar per run on a terminal; occasional lines on a pipe.

    Args:
        labels: one per run, shown before its bar.
        console: where to write.
        seconds: minimum time between two lines of a run on a pipe.
    """

    def __init__(self, labels: Sequence[str], console: Console | None = None, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self.console = console or Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False, table_column=_whole()),
            BarColumn(bar_width=20 if self.console.width >= 100 else 8),
            TextColumn("{task.fields[steps]}", markup=False, table_column=_whole()),
            TimeRemainingColumn(table_column=_whole()),
            # Last, as what is cut where the terminal is narrow.
            TextColumn("{task.fields[said]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            expand=True,
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks = {label: self.bar.add_task(label, total=None, said="", steps="") for label in labels}
        self.validated = dict.fromkeys(labels, "")
        self.last = dict.fromkeys(labels, 0.0)

    def __enter__(self) -> Bars:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def expect(self, label: str, total: int | None, done: int = 0) -> None:
        """A run will have so many optimizer steps; so many are done. None = not known before it begins."""
        steps = "" if total is None else f"{done}/{total}"
        self.bar.update(self.tasks[label], completed=done, total=total, steps=steps)

    def row(self, label: str, row: dict[str, Any], total: int) -> None:
        """Show a row of a run's metrics.jsonl; the run has `total` optimizer steps. The monitor warns by itself."""
        if row["kind"] == "stability":
            return
        if row["kind"] == "validation":
            self.validated[label] = f" | validation {validated}" if (validated := _validated(row)) else ""
            said = f"stage {row['stage']}{self.validated[label]}"
        else:
            terms = " ".join(f"{name} {value:.3f}" for name, value in row["terms"].items())
            rates = {name: value for name, value in row.get("metrics", {}).items() if isinstance(value, float)}
            terms += "".join(
                f" {name} {value:,.0f}" if value > 1 else f" {name} {value:.3f}" for name, value in rates.items()
            )
            said = f"stage {row['stage']} | {terms} | {row['tokens_per_second']:,.0f} tok/s{self.validated[label]}"
        self.expect(label, total, row["step"])
        self.bar.update(self.tasks[label], said=said)
        now = time.monotonic()
        told = row["kind"] == "validation" and bool(self.validated[label])  # rare and important
        if not self.console.is_terminal and (told or now - self.last[label] > self.seconds or row["step"] >= total):
            self.last[label] = now
            left = row["seconds"] / max(row["step"], 1) * (total - row["step"])
            line = f"{label}: {row['step']}/{total} {said} | {left:.0f} s left"
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)


def _whole() -> Column:
    return Column(no_wrap=True)


def _validated(row: dict[str, Any]) -> str:
    """A validation's result with its caveats; "" if nothing was validated."""
    figures = [] if row.get("accuracy") is None else [f"{row['accuracy']:.3f}"]
    figures += [f"{part} {accuracy:.3f}" for part, accuracy in row.get("parts", {}).items()]
    figures += [f"{name} is not finite" for name in row.get("not_finite", ())]
    if row.get("latents") is not None:
        figures.append(f"with {row['latents']} latents")
    if row.get("cut_off"):
        figures.append(f"{row['cut_off']} of {row['problems']} reached max_new_tokens")
    return ", ".join(figures)


class Live(AbstractContextManager[Any]):
    """The `Reporter` of one run: one bar."""

    def __init__(self, label: str, console: Console | None = None) -> None:
        self.label = label
        self.bars = Bars([label], console)

    def __enter__(self) -> Live:
        self.bars.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.__exit__()

    def begins(self, plan: Plan) -> None:
        """See `Reporter.begins`."""
        for line in plan.lines():
            self.bars.console.print(f"{self.label}: {line}", highlight=False, soft_wrap=True, markup=False)
        self.bars.expect(self.label, plan.steps, plan.steps if plan.finished else plan.done or 0)

    def row(self, row: dict[str, Any], total: int) -> None:
        """See `Reporter.row`."""
        self.bars.row(self.label, row, total)
