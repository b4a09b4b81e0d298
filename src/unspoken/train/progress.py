"""Live progress of a run: a bar with loss terms, tokens per second and time left; plain lines where there is no terminal."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(AbstractContextManager[Any], Protocol):
    """Told about every metrics row as it is written."""

    def row(self, row: dict[str, Any], total: int) -> None:
        """A row of metrics.jsonl, and how many optimizer steps the run has."""
        ...


class Quiet(AbstractContextManager[Any]):
    """Says nothing."""

    def row(self, row: dict[str, Any], total: int) -> None:
        """See `Reporter.row`."""

    def __exit__(self, *_: object) -> None:
        return None


class Live(AbstractContextManager[Any]):
    """A progress bar on a terminal; on a pipe, a line now and then.

    Args:
        label: stands before the bar.
        console: where to write.
        seconds: least time between two lines on a pipe.
    """

    def __init__(self, label: str, console: Console | None = None, seconds: float = 20.0) -> None:
        self.label, self.seconds = label, seconds
        self.console = console or Console(stderr=True)
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(label, total=None, said="")
        self.validated = ""
        self._last = 0.0

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def row(self, row: dict[str, Any], total: int) -> None:
        """See `Reporter.row`."""
        if row["kind"] == "validation":
            if row["accuracy"] is not None:
                self.validated = f" | validation {row['accuracy']:.3f}"
            said = f"step {row['step']}{self.validated}"
        else:
            terms = " ".join(f"{name} {value:.3f}" for name, value in row["terms"].items())
            said = f"stage {row['stage']} | {terms} | {row['tokens_per_second']:,.0f} tok/s{self.validated}"
            self.bar.update(self.task, completed=row["step"], total=total, said=said)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self._last > self.seconds or row["step"] >= total):
            self._last = now
            left = row["seconds"] / max(row["step"], 1) * (total - row["step"])
            self.console.print(
                f"{self.label}: {row['step']}/{total} {said} | {left:.0f} s left", highlight=False, soft_wrap=True
            )
