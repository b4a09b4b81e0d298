"""What is told of a training besides its reporter: callbacks of anybody's, and trackers (wandb, tensorboard, ...)."""

from __future__ import annotations

import json
import netrc
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from unspoken.core.config import dump
from unspoken.core.files import read_object, write_json
from unspoken.errors import ConfigError, TrainingError
from unspoken.evaluation.records import EvalReport
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.directory import RunDir
from unspoken.runs.places import TRACKERS

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

    What a tracker calls the run is kept in RUN/trackers.json, so that a run that goes on, and its evaluations, are filed
    there.

    Args:
        config: the run's config; all of it is sent.
        run: its directory, whose name is the run's, unless `train.tracker_run` says otherwise.

    Raises:
        ConfigError: a tracker cannot be started.
    """

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        t = config.train
        self.trackers: dict[str, GeneralTracker] = {}
        known = _known(run)
        for name in names_of(t):
            try:
                self.trackers[name] = _started(name, t, run, known.get(name))
                if name != "mlflow" or name not in known:  # which refuses another value of what it has
                    self.trackers[name].store_init_configuration(dict(_flat(dump(config))))
            except Exception as error:  # every tracker has its own
                self.finish()
                raise ConfigError(
                    f"tracker {name!r} could not be started: {type(error).__name__}: {' '.join(str(error).split()):.300}; "
                    "mend this, or train without it (train.tracker=null)"
                ) from error
        write_json(run.path / TRACKERS, {name: _id_of(name, tracker) for name, tracker in self.trackers.items()})

    def row(self, row: Row) -> None:
        """Send a row: its figures, loss terms and metrics, under the name of its kind."""
        flat = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
        for group in ("terms", "metrics", "parts"):
            flat |= {f"{group}/{k}": v for k, v in row.get(group, {}).items() if isinstance(v, (int, float))}
        self.log({f"{row['kind']}/{k}": v for k, v in flat.items()}, row["step"], row.get("shown", ()))

    def log(self, values: dict[str, Any], step: int, shown: Sequence[Mapping[str, Any]] = ()) -> None:
        """Send figures, and problems with their thoughts in words."""
        for name, tracker in list(self.trackers.items()):
            try:
                tracker.log(values, step=step)
                if shown:
                    _show(name, tracker, shown, step)
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


def track_report(run: RunDir, report: EvalReport) -> None:
    """Send an evaluation of a run to the trackers of its training.

    Accuracy with its interval and the costs, at the step of the model, as `eval/TASK/SPLIT/...`. One that fails is named in
    a warning.
    """
    t, known = run.config().train, _known(run)
    begin = re.sub(r"[^\w./-]+", "-", f"eval/{report.task.get('name')}/{report.split}")
    values = {f"{begin}/{key}": value for key, value in _figures(report).items()}
    for name in set(names_of(t)) & set(known):
        try:
            tracker = _started(name, t, run, known[name])
            tracker.log(values, step=int(run.model_info().get("step") or 0))
            tracker.finish()
        except Exception as error:  # every tracker has its own
            said = " ".join(str(error).split())
            warnings.warn(
                f"tracker {name!r} was not told of the evaluation ({type(error).__name__}: {said:.300}); the report has all "
                "of it; --no-track leaves trackers out",
                stacklevel=2,
            )


def _figures(report: EvalReport) -> dict[str, float]:
    rates = {"accuracy": report.accuracy, "flexible": report.flexible}
    rates |= {f"{part}/accuracy": rate for part, rate in report.by_part.items()}
    found = {name: rate.value for name, rate in rates.items()}
    found["accuracy_low"], found["accuracy_high"] = report.accuracy.interval
    return found | {
        "problems": report.n,
        "latents": report.mean_latents,
        "visible_tokens": report.mean_visible_tokens,
        "passes": report.mean_passes,
        "ms_per_question": report.ms_per_question,
    }


def _known(run: RunDir) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in read_object(run.path / TRACKERS).items()}
    except (OSError, ValueError):
        return {}


def _id_of(name: str, tracker: Any) -> str:
    """What a tracker calls the run; "" if its name or folder is enough."""
    if name == "wandb":
        return str(tracker.run.id)
    return str(tracker.active_run.info.run_id) if name == "mlflow" else ""


def _show(name: str, tracker: Any, shown: Sequence[Mapping[str, Any]], step: int) -> None:
    """Send problems with their thoughts, in the form that a tracker has for texts."""
    if name == "wandb":
        columns = ["question", "thoughts", "said", "answer"]
        rows = [[one["question"], "\n".join(one["thoughts"]), one["said"], one["answer"]] for one in shown]
        tracker.log_table("validation/shown", columns=columns, data=rows, step=step)
        return
    text = "\n\n".join(
        "\n".join([one["question"], *(f"thought {i}: {told}" for i, told in enumerate(one["thoughts"], 1)),
                   f"said: {one['said']}", f"answer: {one['answer']}"])
        for one in shown
    )  # fmt: skip
    if name == "mlflow":
        import mlflow  # pyright: ignore[reportMissingImports]  # an extra

        mlflow.log_text(text, f"validation/shown-{step:06d}.txt")
    else:
        tracker.log({"validation/shown": text}, step=step)


def _started(name: str, t: TrainConfig, run: RunDir, known: str | None = None) -> GeneralTracker:
    """Start a tracker; `known` is what it calls the run, if it has met it before."""
    title = t.tracker_run or run.path.resolve().name
    how: dict[str, Any] = {}
    if name == "wandb":
        how = {"name": title, "group": t.tracker_group, "tags": list(t.tracker_tags), "dir": str(run.path)}
        if "WANDB_MODE" not in os.environ and not _logged_in():
            warnings.warn("wandb knows no login, so it writes into the run's folder; `wandb sync` sends that", stacklevel=4)
            how.update(mode="offline")  # it would ask at the terminal
        if known:
            how.update(id=known, resume="allow")
    elif name == "trackio":
        how = {"name": title, "group": t.tracker_group, "resume": "never" if known is None else "allow"}
    elif name == "mlflow":
        tags = {"group": t.tracker_group, "tags": ", ".join(t.tracker_tags)}
        how = {"run_name": title, "tags": {key: value for key, value in tags.items() if value}}
        if known:
            how = {"run_id": known}
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
