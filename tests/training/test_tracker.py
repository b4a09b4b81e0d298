"""Trackers go through accelerate; one that is not there is an error, not a silence."""

from __future__ import annotations

from typing import Any

import accelerate.accelerator
import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker

from unspoken.errors import ConfigError
from unspoken.training import loop, ranks
from unspoken.training.loop import train

HEARD: list[tuple[int, dict[str, Any]]] = []


class Ear(GeneralTracker):
    """Keeps what it is told."""

    name = "ear"
    requires_logging_directory = False
    tracker = None

    def __init__(self, run_name: str, **_: Any) -> None:
        super().__init__()

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        HEARD.append((step or 0, values))


def test_unknown_tracker(make, tmp_path):
    with pytest.raises(ConfigError, match=r"tracker 'wandbb' is not installed or unknown to accelerate; installed: "):
        train(make(tracker="wandbb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tracker_is_told_every_row(make, tmp_path, monkeypatch):
    HEARD.clear()
    monkeypatch.setattr(loop, "get_available_trackers", lambda: ["ear"])
    monkeypatch.setattr(ranks, "Accelerator", lambda **_: accelerate.Accelerator(log_with=Ear("run")))
    train(make(steps=4, tracker="ear"), tmp_path / "run")
    assert [step for step, values in HEARD if "train/loss" in values] == [1, 2, 3, 4]
    assert any("validation/accuracy" in values for _, values in HEARD)
    assert any("train/terms/explain" in values for _, values in HEARD)
