"""A study of four runs that train in a second each."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL = """
title = "Small"
seeds = [1, 2]
chart = "latents"

[factors]
method = ["coconut", "codi"]
latents = [1, 2]

[[exclude]]
method = "codi"
latents = 2

[[runs]]
set = { "train.steps" = 4, "train.validate_every" = 4, "train.validate_limit" = 2, "train.save_every" = 2, \
"train.log_every" = 1, "train.threads" = 1, "train.warmup_steps" = 0, \
"task.train_size" = 64, "task.validation_size" = 4, "task.test_size" = 8 }

[[runs]]
when = { method = "coconut" }
config = "tiny/coconut"
set = { method = { max_stage = "{latents}", epochs_per_stage = 0.5 } }

[[runs]]
when = { method = "codi" }
config = "tiny/codi"
set = { method = { latents = "{latents}" } }

[[evaluations]]
name = "test"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with the study's file."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "study.toml").write_text(SMALL, encoding="utf-8")
    return folder


def changed(folder: Path, old: str, new: str) -> Path:
    """The study's folder, with a text in its file replaced."""
    file = folder / "study.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder
