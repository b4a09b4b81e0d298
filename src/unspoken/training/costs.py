"""What an optimizer step of a run costs, at several places of its schedule, without training it: time, and operations.

Curricula make steps longer or shorter as they go, so a few steps from the beginning would tell little of the whole.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace

from torch.utils.flop_counter import FlopCounterMode

from unspoken.core.fast.malloc import keeping_freed
from unspoken.core.fast.switch import using
from unspoken.evaluation.statistics import mean
from unspoken.runs.config import RunConfig
from unspoken.training.loop import Training
from unspoken.training.progress import Quiet

PLACES = 5
"""Steps that are looked at: first, last, and evenly between."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the updates of a run cost.

    Attributes:
        updates: optimizer steps of the whole run.
        seconds: of one, mean over the places; None where it was not timed.
        flops: of one: floating-point operations of the matrix products, forward and backward, auxiliary models included, on
            the plain path (no shortcut of core/fast); None where they were not counted.
    """

    updates: int
    seconds: float | None = None
    flops: float | None = None


def costs(config: RunConfig, *, timed: bool = True, counted: bool = True) -> Costs:
    """Take a few steps of a run, away from any run directory, and look at what they cost.

    Args:
        config: the run.
        timed: measure seconds, on the path that training takes; each step is taken twice and the second one counts.
        counted: count operations.

    Raises:
        UnspokenError: what `train` would refuse.
    """
    seconds: list[float] = []
    flops: list[float] = []
    updates = 0
    if timed:
        training = _training(config)
        updates = training.schedule.total
        with using(config.fast), keeping_freed(training.accelerator.device.type):
            for step in _places(updates):
                _take(training, step)
                began = time.perf_counter()
                _take(training, step)
                seconds.append(time.perf_counter() - began)
        training.feed.settle()
    if counted:
        plain = replace(config, fast=replace(config.fast, enabled=False))
        training = _training(plain)
        updates = training.schedule.total
        with using(plain.fast):
            for step in _places(updates):
                with FlopCounterMode(display=False) as counter:
                    _take(training, step)
                flops.append(float(counter.get_total_flops()))
        training.feed.settle()
    return Costs(updates=updates, seconds=mean(seconds) if seconds else None, flops=mean(flops) if flops else None)


def _training(config: RunConfig) -> Training:
    with using(config.fast), tempfile.TemporaryDirectory() as folder:
        return Training(config, folder, Quiet())


def _places(total: int) -> list[int]:
    return sorted({round(k * (total - 1) / (PLACES - 1)) for k in range(PLACES)})


def _take(training: Training, step: int) -> None:
    """An optimizer step, as at a place of the schedule."""
    training.step = step
    training._train_step()
    training.pending.clear()
