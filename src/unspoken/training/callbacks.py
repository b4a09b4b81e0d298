"""What is told of a training besides its reporter: callbacks of anybody's, and trackers (wandb, tensorboard, ...)."""

from __future__ import annotations

import json
import netrc
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from unspoken.core.config import dump
from unspoken.errors import ConfigError, TrainingError
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.directory import RunDir

Row = Mapping[str, Any]
"""A row of metrics.jsonl."""


class Callback:
    """Called while a run trains, on the main process. Subclasses override what they want to hear of.

    An exception ends the training with an error that names the callback; the last saved state is kept.
    """

    def on_step(self, run: RunDir, row: Row) -> None:
        """Steps were logged: every `train.log_every` of them, and before a validation or a save."""

    def on_validation(self, run: RunDir, row: Row) -> None:
        """The validation split was scored; `row["kept"]` says whether RUN/model is now this model."""

    def on_save(self, run: RunDir, step: int) -> None:
        """A state to resume from was written."""


def tell(callbacks: Sequence[Callback], method: str, step: int, *what: object) -> None:
    """Call a method of each callback.

    Raises:
        TrainingError: one has raised an exception; names it.
    """
    for callback in callbacks:
        try:
            getattr(callback, method)(*what)
        except Exception as error:
            raise TrainingError(
                f"callback {type(callback).__name__}.{method} failed at step {step}: {type(error).__name__}: {error}; the "
                "last saved state is kept: mend it, and the same call goes on"
            ) from error


class Tracking(Callback):
    """The trackers of a run, through accelerate's classes.

    One that cannot start is an error before anything is trained. One that fails later is named in a warning and switched
    off: training goes on, and metrics.jsonl has every row.

    Args:
        config: the run's config; all of it is sent.
        run: its directory, whose name is the run's, unless `train.tracker_run` says otherwise.

    Raises:
        ConfigError: a tracker cannot be started.
    """

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        t = config.train
        self.trackers: dict[str, GeneralTracker] = {}
        for name in names_of(t):
            try:
                self.trackers[name] = _started(name, t, run)
                self.trackers[name].store_init_configuration(dict(_flat(dump(config))))
            except Exception as error:  # every tracker has its own
                self.finish()
                raise ConfigError(
                    f"tracker {name!r} could not be started: {type(error).__name__}: {' '.join(str(error).split()):.300}; "
                    "mend this, or train without it (train.tracker=null)"
                ) from error

    def row(self, row: Row) -> None:
        """Send a row: its figures, loss terms and metrics, under the name of its kind."""
        flat = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
        for group in ("terms", "metrics", "parts"):
            flat |= {f"{group}/{k}": v for k, v in row.get(group, {}).items() if isinstance(v, (int, float))}
        self._log({f"{row['kind']}/{k}": v for k, v in flat.items()}, row["step"])

    def _log(self, values: dict[str, Any], step: int) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                tracker.log(values, step=step)
            except Exception as error:
                self._give_up(name, f"at step {step}", error)

    def _give_up(self, name: str, when: str, error: Exception) -> None:
        self.trackers.pop(name, None)
        warnings.warn(
            f"tracker {name!r} failed {when} ({type(error).__name__}: {error}) and hears no more; training goes on, and "
            "metrics.jsonl has every row",
            stacklevel=3,
        )

    def finish(self) -> None:
        """Let every tracker write what it has."""
        for name, tracker in list(self.trackers.items()):
            try:
                tracker.finish()
            except Exception as error:
                self._give_up(name, "at the end", error)
        self.trackers.clear()


def names_of(t: TrainConfig) -> tuple[str, ...]:
    """The names in `train.tracker`."""
    return () if t.tracker is None else (t.tracker,) if isinstance(t.tracker, str) else t.tracker


def check_trackers(t: TrainConfig) -> None:
    """Refuse a tracker that is not there.

    Raises:
        ConfigError: it is not installed, or accelerate does not know it.
    """
    known = [str(one) for one in get_available_trackers()]
    for name in names_of(t):
        if name not in known:
            raise ConfigError(
                f"tracker {name!r} is not installed or unknown to accelerate; installed: {', '.join(known) or 'none'}; pip "
                "install it, or set train.tracker=null"
            )


def _started(name: str, t: TrainConfig, run: RunDir) -> GeneralTracker:
    title = t.tracker_run or run.path.resolve().name
    how: dict[str, Any] = {}
    if name == "wandb":
        how = {"name": title, "group": t.tracker_group, "tags": list(t.tracker_tags), "dir": str(run.path)}
        if "WANDB_MODE" not in os.environ and not _logged_in():
            warnings.warn("wandb knows no login, so it writes into the run's folder; `wandb sync` sends that", stacklevel=4)
            how.update(mode="offline")  # it would ask at the terminal
    elif name == "trackio":
        how = {"name": title, "group": t.tracker_group}
    elif name == "mlflow":
        tags = {"group": t.tracker_group, "tags": ", ".join(t.tracker_tags)}
        how = {"run_name": title, "tags": {key: value for key, value in tags.items() if value}}
    kind = LOGGER_TYPE_TO_CLASS[name]
    where = [str(run.path)] if kind.requires_logging_directory else []
    tracker = kind(t.tracker_project, *where, **how)
    tracker.start()
    return tracker


def _logged_in() -> bool:
    """Whether wandb would find a key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].strip("/")
    try:
        return netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc").authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(data: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """A nested config as dotted names and plain values, which is what every tracker takes."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value if isinstance(value, (str, int, float, bool)) else json.dumps(value)
