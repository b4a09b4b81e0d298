"""Estimate time and operations of a run's optimizer steps at several places of its schedule, without training it.

Curricula make steps longer or shorter over time, so the first few steps would say little about the whole run.
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
"""Number of steps measured: the first, the last, and evenly between."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The cost of a run's updates.

    Attributes:
        updates: number of optimizer steps of the whole run.
        seconds: per step, mean over the places; None if not timed.
        flops: per step: floating-point operations of matrix products, forward and backward, including auxiliary models, on
            the plain path (without core/fast); None if not counted.
    """

    updates: int
    seconds: float | None = None
    flops: float | None = None


def costs(config: RunConfig, *, timed: bool = True, counted: bool = True) -> Costs:
    """Make a few steps of a run, without a run directory, and measure their cost.

    Args:
        config: the run.
        timed: measure seconds as in training; each step is made twice, and the second is timed.
        counted: count operations.

    Raises:
        UnspokenError: see `train`.
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
    """Make an optimizer step as at a place of the schedule."""
    training.step = step
    training._train_step()
    training.pending.clear()
