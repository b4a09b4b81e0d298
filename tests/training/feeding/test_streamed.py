"""A run on rows that are kept on the disk is the run on rows in memory; each process lays out its own rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import ARCHS
from support.forks import ranks

from unspoken.core.config import dump
from unspoken.errors import RunError
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir, load
from unspoken.training.loop import Training, train

COUNTED = """
import sys
from unspoken.recipes import recipe
from unspoken.training.feeding import feed
from unspoken.training.loop import train
from unspoken.training.ranks import leave_group

laid = []
lay_out = feed.Feed._lay_out

def counted(self, index, stage, epoch):
    laid.append(index)
    return lay_out(self, index, stage, epoch)

feed.Feed._lay_out = counted
train(recipe(sys.argv[1]), sys.argv[2])
print(len(laid))
leave_group()
"""


def streamed(config: RunConfig, files: Path) -> RunConfig:
    """The same rows, in shards of 5, read from the disk."""
    rows = (files / "train.jsonl").read_text().splitlines(keepends=True)
    (files / "rows").mkdir(exist_ok=True)
    for k in range(0, len(rows), 5):
        (files / "rows" / f"train-{k:02}.jsonl").write_text("".join(rows[k : k + 5]))
    task = replace(config.task, train=str(files / "rows"), stream=True, stream_folder=str(files / "kept"))
    return replace(config, task=task)


def losses(run: Path) -> list[Any]:
    kept = ("step", "kind", "loss", "grad_norm", "accuracy", "tokens")
    return [{name: row.get(name) for name in kept} for row in RunDir(run).metrics()]


def test_a_streamed_run_is_the_run_in_memory(make, files, tmp_path, monkeypatch):
    config = make(max_positions=90, steps=10)  # epochs are of 6 steps
    held = train(config, tmp_path / "held")
    step = Training._train_step

    def dying(self):
        if self.step == 5:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "_train_step", dying)
    config = streamed(config, files)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "stored")
    monkeypatch.setattr(Training, "_train_step", step)
    stored = train(config, tmp_path / "stored")  # from step 4, in the middle of a window of the first epoch
    assert losses(held.path) == losses(stored.path)
    one, other = (load(run.path).method.state_dict() for run in (held, stored))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())

    last = files / "rows" / "train-20.jsonl"
    (files / "rows" / "train-05.jsonl").write_text(last.read_text())
    last.rename(files / "rows" / "train-21.jsonl")
    told = (
        r"changed since it began \(train, .*train-20\.jsonl is gone, .*train-21\.jsonl is new, .*train-05\.jsonl differs\)"
    )
    with pytest.raises(RunError, match=told):
        train(config, tmp_path / "stored")


@pytest.mark.slow
def test_each_process_lays_out_its_own_rows(make, files, tmp_path):
    start = {"arch": ARCHS["llama"], "tokenizer": str(files / "tokenizer")}  # without dropout
    config = make(backbone=start, length_window=3, batch_size=5, steps=5, validate_limit=0)
    held = train(config, tmp_path / "one")
    (tmp_path / "recipe.json").write_text(json.dumps(dump(streamed(config, files))))
    done = ranks(2, tmp_path / "recipe.json", tmp_path / "two", script=COUNTED)
    assert [one.returncode for one in done] == [0, 0], done
    one, both = ([row for row in losses(run) if row["kind"] == "train"] for run in (held.path, tmp_path / "two"))
    for a, b in zip(one, both, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["tokens"] == b["tokens"]
    # 24 rows for the windows of the epoch, and the same for its 5 steps: half of 48 each, and the odd row of a batch of 5
    assert [int(one.stdout.split()[-1]) for one in done] == [27, 21]
