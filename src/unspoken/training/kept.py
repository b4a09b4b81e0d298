"""Models kept during training (`train.keep_every`): RUN/models/step-40 is itself a run directory.

Every command accepts it as a run (eval, ask, inspect, ...), as do `backbone.path` and `start` of another run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from unspoken.core.files import write_folder, write_json
from unspoken.methods.base import Method
from unspoken.runs.config import TrainConfig
from unspoken.runs.directory import TRAINING, RunDir
from unspoken.training.feeding.schedule import Schedule

MODELS = "models"
"""Folder of the kept models in a run directory."""


def keeps(config: TrainConfig, schedule: Schedule, step: int) -> bool:
    """Whether to keep the model after this many optimizer steps."""
    every, ends = config.keep_every, step == schedule.total
    if every is None:
        return False
    if every == "stages":
        return ends or schedule.stage_starts(step)
    if every == "epochs":
        return ends or step % schedule.steps_per_epoch == 0
    return step % every == 0


def keep(run: RunDir, method: Method, step: int, stage: Mapping[str, int | None]) -> None:
    """Write the model of a step.

    Args:
        stage: see `RunDir.save_model`.

    Raises:
        TrainingError: the disk is full, or the place is not writable.
    """
    about = {key: value for key, value in run.read().items() if key in ("id", "config", "data", "parameters", "provenance")}

    def write(folder: Path) -> None:
        write_json(folder / "run.json", {**about, "kept": {"step": step}}, **TRAINING)
        RunDir(folder).save_model(method, step, None, stage)

    write_folder(run.path / MODELS / f"step-{step}", write, **TRAINING)


def forget_after(run: RunDir, step: int) -> None:
    """Remove the models of steps that will be trained again."""
    for folder in (run.path / MODELS).glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdecimal() and int(number) > step:
            shutil.rmtree(folder, ignore_errors=True)
