"""Trackers hear every row; one that is not there is an error, one that fails later a warning. Callbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from unspoken.cli import main
from unspoken.errors import ConfigError, TrainingError
from unspoken.evaluation.evaluator import evaluate
from unspoken.runs.directory import RunDir, load
from unspoken.tasks import make_task
from unspoken.training import callbacks
from unspoken.training.callbacks import Callback, track_report
from unspoken.training.loop import train

HEARD: list[tuple[int, dict[str, Any]]] = []
CONFIG: dict[str, Any] = {}


class Ear(GeneralTracker):
    """Keeps what it is told."""

    name = "ear"
    requires_logging_directory = False
    tracker = None
    fails_at = 99

    def __init__(self, run_name: str, **_: Any) -> None:
        super().__init__()

    def start(self) -> None:
        if self.fails_at == 0:
            raise OSError("no network")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        CONFIG.update(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if (step or 0) >= self.fails_at:
            raise OSError("no network")
        HEARD.append((step or 0, values))


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> type[Ear]:
    HEARD.clear()
    CONFIG.clear()
    monkeypatch.setattr(callbacks, "get_available_trackers", lambda: ["ear"])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "ear", Ear)
    monkeypatch.setattr(Ear, "fails_at", 99)
    return Ear


def test_unknown_tracker(make, tmp_path):
    with pytest.raises(ConfigError, match=r"tracker 'wandbb' is not installed or unknown to accelerate; installed: "):
        train(make(tracker="wandbb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tracker_is_told_every_row_and_the_whole_config(make, tmp_path, ear):
    train(make(steps=4, tracker=("ear",)), tmp_path / "run")
    assert [step for step, values in HEARD if "train/loss" in values] == [1, 2, 3, 4]
    assert any("validation/accuracy" in values for _, values in HEARD)
    assert any("train/terms/explain" in values for _, values in HEARD)
    assert CONFIG["train.lr"] == 3e-3
    assert CONFIG["method.inner.name"] == "coconut"
    assert CONFIG["train.epochs"] == "null"


def test_trackers_are_shown_thoughts_in_words_and_told_of_evaluations(make, tmp_path, ear, capsys, monkeypatch):
    run = train(make(steps=4, tracker="ear"), tmp_path / "run")
    ((step, shown),) = [(step, values["validation/shown"]) for step, values in HEARD if "validation/shown" in values]
    assert step == 4
    assert [line.split(":")[0] for line in shown.split("\n\n")[0].splitlines()[1:]] == [
        "thought 1", "thought 2", "said", "answer"
    ]  # fmt: skip
    HEARD.clear()
    monkeypatch.setattr("sys.argv", ["unspoken", "eval", str(run.path), "--no-controls"])
    main()
    ((step, values),) = HEARD
    assert step == 4
    assert values["eval/files/test/problems"] == 6
    assert values["eval/files/test/accuracy_low"] <= values["eval/files/test/accuracy"]
    Ear.fails_at = 0
    main()
    assert "'ear' was not told of the evaluation (OSError: no network)" in capsys.readouterr().err
    HEARD.clear()
    plain = train(make(steps=2), tmp_path / "plain")
    assert not any("shown" in row for row in plain.metrics())
    monkeypatch.setattr("sys.argv", ["unspoken", "eval", str(plain.path), "--no-controls", "--track"])
    with pytest.raises(SystemExit):
        main()
    assert "--track needs a run that was trained with a tracker" in capsys.readouterr().err


def test_a_tracker_that_cannot_start_is_an_error_and_one_that_fails_later_a_warning(make, tmp_path, ear):
    Ear.fails_at = 0
    with pytest.raises(ConfigError, match="'ear' could not be started: OSError: no network"):
        train(make(steps=4, tracker="ear"), tmp_path / "run")
    assert RunDir(tmp_path / "run").metrics() == []
    Ear.fails_at = 3
    with pytest.warns(UserWarning, match="'ear' failed at step 3 .* hears no more"):
        train(make(steps=4, tracker="ear"), tmp_path / "run")
    assert [row["step"] for row in RunDir(tmp_path / "run").metrics() if row["kind"] == "train"] == [1, 2, 3, 4]
    assert max(step for step, _ in HEARD) == 2


def test_callbacks_hear_of_steps_validations_and_saves(make, tmp_path):
    told: list[tuple[str, int]] = []

    class Mine(Callback):
        def on_step(self, run: RunDir, row: Any) -> None:
            told.append(("step", row["step"]))

        def on_validation(self, run: RunDir, row: Any) -> None:
            told.append(("validation", row["step"]))
            assert (run.path / "model").is_dir() is row["kept"] or not row["kept"]

        def on_save(self, run: RunDir, step: int) -> None:
            assert run.latest_step() == step
            told.append(("save", step))

    train(make(steps=4, validate_every=2, save_every=4), tmp_path / "run", callbacks=[Mine()])
    want = [("step", 1), ("step", 2), ("validation", 2), ("step", 3), ("step", 4), ("validation", 4), ("save", 4)]
    assert told == want


def test_a_callback_that_fails_ends_the_run_by_name_and_the_run_goes_on_from_its_state(make, tmp_path):
    class Broken(Callback):
        def on_step(self, run: RunDir, row: Any) -> None:
            if row["step"] == 3:
                raise KeyError("accuracy")

    config = make(steps=4, save_every=2)
    with pytest.raises(TrainingError, match=r"callback Broken\.on_step failed at step 3: KeyError: 'accuracy'"):
        train(config, tmp_path / "run", callbacks=[Broken()])
    assert RunDir(tmp_path / "run").latest_step() == 2
    train(config, tmp_path / "run")
    whole = train(config, tmp_path / "other")
    ends = [[r["loss"] for r in run.metrics() if r["kind"] == "train"] for run in (RunDir(tmp_path / "run"), whole)]
    assert ends[0] == ends[1]


FILED = {"tracker_project": "figs", "tracker_run": "mine", "tracker_group": "three", "tracker_tags": ("a", "b")}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No tracker finds a login, or writes outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def test_tensorboard(make, alone: Path):
    where = "tensorboard.backend.event_processing.event_accumulator"
    events = pytest.importorskip(where, reason="pip install 'unspoken[track]'")
    run = train(make(steps=2, tracker="tensorboard", **FILED), "run")
    track_report(run, evaluate(load("run"), make_task(run.config().task), "test"))
    folder = next(Path("run").rglob("events.out.tfevents*")).parent
    read = events.EventAccumulator(str(folder))
    read.Reload()
    assert {"train/loss", "eval/files/test/accuracy"} <= set(read.Tags()["scalars"])
    (told,) = [e.tensor_proto.string_val[0].decode() for e in read.Tensors("validation/shown/text_summary")]
    assert "thought 1: " in told
    assert told.count("Ann has ") == 3
    assert "method.inner.name: coconut" in next(Path("run").rglob("hparams.yml")).read_text()


def test_wandb_without_a_login_writes_into_the_run(make, alone: Path):
    pytest.importorskip("wandb", reason="pip install 'unspoken[track]'")
    with pytest.warns(UserWarning, match="wandb knows no login"):
        train(make(steps=2, tracker="wandb", **FILED), "run")
    (kept,) = Path("run").rglob("run-*.wandb")
    assert b"tiny" in kept.read_bytes() or b"train/loss" in kept.read_bytes()
    assert b"thoughts" in next(Path("run").rglob("*.table.json")).read_bytes()
    run = RunDir(Path("run"))
    with pytest.warns(UserWarning, match="wandb knows no login"):
        track_report(run, evaluate(load("run"), make_task(run.config().task), "test"))
    again = [file for file in Path("run").rglob("run-*.wandb") if file.name == kept.name]
    assert any(b"eval/files/test/accuracy" in file.read_bytes() for file in again), "the same run, by its id"


def test_mlflow_and_tensorboard_together(make, alone: Path):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'unspoken[track]'")
    pytest.importorskip("tensorboard", reason="pip install 'unspoken[track]'")
    done = train(make(steps=2, tracker=("mlflow", "tensorboard"), **FILED), "run")
    track_report(done, evaluate(load("run"), make_task(done.config().task), "test"))
    (run,) = mlflow.search_runs(experiment_names=["figs"], output_format="list")
    assert run.info.run_name == "mine"
    assert run.data.tags["group"] == "three"
    assert run.data.params["method.inner.name"] == "coconut"
    assert run.data.metrics["train/loss"] > 0
    assert 0 <= run.data.metrics["eval/files/test/accuracy"] <= 1
    texts = mlflow.MlflowClient().list_artifacts(run.info.run_id, "validation")
    assert [file.path for file in texts] == ["validation/shown-000002.txt"]
    assert list(Path("run").rglob("events.out.tfevents*"))


def test_trackio(make, alone: Path):
    pytest.importorskip("trackio", reason="pip install 'unspoken[track]'")
    run = train(make(steps=2, tracker="trackio", **FILED), "run")
    track_report(run, evaluate(load("run"), make_task(run.config().task), "test"))
    assert [file for file in (alone / "trackio").rglob("*") if file.is_file()]


def test_a_list_of_trackers_survives_run_json(make, tmp_path, ear):
    run = train(make(steps=1, tracker=("ear",), **FILED), tmp_path / "run")
    assert json.loads((run.path / "run.json").read_text())["config"]["train"]["tracker"] == ["ear"]
    assert run.config().train.tracker == ("ear",)
