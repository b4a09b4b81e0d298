"""What a training will do, before it does it: for the lines it begins with, and for `train --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from unspoken.methods.base import Method
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir
from unspoken.training.feeding.schedule import Schedule
from unspoken.training.ranks import Ranks
from unspoken.training.sharding.whole import Placed


class Built(Protocol):
    """A `Training` that was built, as far as its plan needs it."""

    config: RunConfig
    run: RunDir
    accelerator: Any
    ranks: Ranks
    method: Method
    schedule: Schedule
    examples: Any
    validation: Any
    left_out: int
    placed: Placed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training.

    Attributes:
        method: its name; of a wrapping method with what it wraps.
        task: its name.
        device: where it computes, with the name of the GPU.
        processes, threads: how many; threads of PyTorch on a CPU.
        parameters, trained: how many there are, and how many learn.
        precision: `train.precision`.
        rows, left_out: training rows, and those that are longer than `train.max_positions`.
        steps, batch_size, epochs: optimizer steps, rows in each, and how often they go through the rows.
        stages: (number of the stage, first step of it, step behind it), in order.
        validation, every: problems that are validated, and after how many steps; 0 problems = never.
        out: the run directory.
        done: the step that it goes on from; None = it begins.
        finished: it has ended before.
    """

    method: str
    task: str
    device: str
    processes: int
    threads: int
    parameters: int
    trained: int
    precision: str
    rows: int
    left_out: int
    steps: int
    batch_size: int
    epochs: float
    stages: tuple[tuple[int, int, int], ...]
    validation: int
    every: int
    out: str
    done: int | None
    finished: bool

    def lines(self) -> list[str]:
        """As a reader wants it."""
        if self.finished:
            return [f"{self.out} has been trained to its end ({self.steps:,} steps); nothing is left to do"]
        many = f", {self.processes} processes" if self.processes > 1 else ""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.device == "cpu" else ""
        learns = "all of them learn" if self.trained == self.parameters else f"{count(self.trained)} of them learn"
        left = f" ({self.left_out:,} more are too long)" if self.left_out else ""
        stages = f", stages {self.stages[0][0]} to {self.stages[-1][0]}" if len(self.stages) > 1 else ""
        validated = (
            f"validated on {self.validation:,} problems every {self.every:,} steps" if self.validation else "never validated"
        )
        into = f"into {self.out}; if it is stopped, the same command goes on"
        return [
            f"{self.method}, {count(self.parameters)} parameters, {learns}; "
            f"{self.precision} on {self.device}{threads}{many}",
            f"{self.rows:,} rows of {self.task}{left}; {self.steps:,} steps of {self.batch_size} rows "
            f"({self.epochs:.3g} epochs){stages}; {validated}",
            into if self.done is None else f"goes on from step {self.done:,} {into}",
        ]


def count(number: float) -> str:
    """`1.24 M`."""
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number}{unit}" if not unit else f"{number:.3g}{unit}"
        number = number / 1000
    return f"{number:.3g} B"


def plan_of(training: Built) -> Plan:
    """What a training that was built will do."""
    config, schedule, device = training.config, training.schedule, training.accelerator.device
    method = config.method
    inner = getattr(getattr(method, "inner", None), "name", None)
    return Plan(
        method=method.name + (f"({inner})" if inner else ""),
        task=config.task.name,
        device=f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type,
        processes=training.ranks.count,
        threads=torch.get_num_threads(),
        parameters=training.placed.sizes[1],
        trained=training.placed.sizes[0],
        precision=config.train.precision,
        rows=len(training.examples),
        left_out=training.left_out,
        steps=schedule.total,
        batch_size=config.train.batch_size,
        epochs=schedule.total / schedule.steps_per_epoch,
        stages=tuple(_stages(training)),
        validation=len(training.validation),
        every=config.train.validate_every or schedule.steps_per_epoch,
        out=str(training.run.path),
        done=training.run.latest_step() if training.run.exists else None,
        finished=training.run.finished,
    )


def _stages(training: Built) -> Iterator[tuple[int, int, int]]:
    """See `Plan.stages`; found at the boundaries, not step by step."""
    schedule = training.schedule
    first = 0
    while first < schedule.total:
        stage = schedule.stage(first)
        low, high = first, schedule.total  # the last step that is known to be of it, the first that is known not to be
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if schedule.stage(middle).index == stage.index else (low, middle)
        yield stage.index, first, high
        first = high


def duration(seconds: float) -> str:
    """`about 40 s`, `about 5 minutes`, `about 3.2 hours`."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"
