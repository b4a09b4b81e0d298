"""Several processes train the same run as one: gloo on two CPU processes here, NCCL on GPUs elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from backbones import ARCHS

from unspoken.core.config import dump
from unspoken.training.loop import train


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(make, tmp_path):
    # 24 examples, 5 rows a step: an odd row is left to one of the processes, and each goes through micro-batches of 2
    # wide enough that the gradients of matrices are made once for all passes (core/late_weights.py)
    arch = {**ARCHS["llama"], "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    start = {"arch": arch, "tokenizer": make().backbone.tokenizer}
    config = make(backbone=start, steps=6, batch_size=5, micro_batch_size=2)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(dump(config)))
    train(config, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "unspoken"]
    subprocess.run(
        [*command, "train", str(recipe), "--out", str(tmp_path / "two"), "--quiet"],
        check=True,
        timeout=300,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    rows = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    }
    assert len(rows["one"]) == len(rows["two"])
    for one, two in zip(rows["one"], rows["two"], strict=True):
        assert one["step"] == two["step"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    assert rows["one"][0]["tokens"] == rows["two"][0]["tokens"]
