"""A run whose model is in shards, on one GPU: the run without shards. Skipped without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

IN_SHARDS = """
import sys
from unspoken.__main__ import main
from unspoken.training import loop
from unspoken.training.sharding.shards import Shards

if "train.sharding=none" not in sys.argv:  # one process has nothing to share, and is not asked to
    loop.placed = lambda method, config, accelerator: Shards(
        method, accelerator.device, low=config.low, even=config.train.sharding == "zero3"
    )
main()
"""

SMALL = (
    "task.train_size=64", "task.test_size=8", "train.epochs=null", "train.steps=6", "train.validate_every=6",
    "train.validate_limit=4", "train.log_every=1", "train.threads=1", "train.encodings=null",
)  # fmt: skip


def trained(out: Path, sharding: str) -> tuple[list[float], dict[str, torch.Tensor], dict[str, int]]:
    """The losses, the kept model, and what run.json says of the end."""
    script = out.with_suffix(".py")
    script.write_text(IN_SHARDS, encoding="utf-8")
    alone = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", str(script)]
    words = [*alone, "train", "tiny/sim_cot", f"train.sharding={sharding}", *SMALL, "--out", str(out), "--quiet"]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr[-2000:]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    weights: dict[str, torch.Tensor] = {}
    for file in sorted((out / "model").rglob("*.safetensors")):
        weights |= {f"{file.name}:{name}": value for name, value in load_file(file).items()}
    finished = json.loads((out / "run.json").read_text(encoding="utf-8"))["finished"]
    return [row["loss"] for row in rows if row["kind"] == "train"], weights, finished


def test_shards_of_one_gpu_are_the_whole(tmp_path):
    want, wanted, about = trained(tmp_path / "none", "none")
    assert len(want) == 6
    assert about["peak_device_bytes"] > 0
    for kind in ("zero2", "zero3"):
        losses, weights, _ = trained(tmp_path / kind, kind)
        assert losses == pytest.approx(want, rel=1e-4), kind
        assert weights.keys() == wanted.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=2e-4, msg=f"{kind}: {name}")
