"""The plan of a training against what it takes: the most memory that a process holds, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from support.backbones import ARCHS
from support.forks import Popen

from benchmarks.plans import LLAMA_3B
from unspoken.core.config import dump
from unspoken.errors import ConfigError
from unspoken.recipes import recipe
from unspoken.training import memory
from unspoken.training.memory import Amounts, Needs, needs_of

MEASURE = """
import json, sys, tempfile
from pathlib import Path

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

import unspoken.training.memory  # everything is imported before memory is looked at
from unspoken.core.fast.switch import using
from unspoken.recipes import recipe
from unspoken.training.costs import _take
from unspoken.training.loop import Training
from unspoken.training.progress import Quiet

config = recipe(sys.argv[1])
before = memory("VmRSS")
with using(config.fast), tempfile.TemporaryDirectory() as folder:
    training = Training(config, folder, Quiet())
    Path("/proc/self/clear_refs").write_text("5")  # forget the most that building the model took
    for step in range(2):
        _take(training, step)
    training.feed.settle()
print(memory("VmHWM") - before)
"""

ARCH = {
    "model_type": "llama", "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isfile("/proc/self/clear_refs"), reason="Linux says how much memory a process held")
def test_the_plan_is_what_a_training_takes(make, files, tmp_path):
    method = {"name": "sim_cot", "inner": {"name": "coconut", "curriculum": "none"}, "decoder": {"kind": "layers"}}
    backbone = {"arch": ARCH, "tokenizer": str(files / "tokenizer")}
    config = make(method, backbone, steps=2, batch_size=24, validate_limit=0)
    (tmp_path / "recipe.json").write_text(json.dumps(dump(config)))
    planned = needs_of(config).total("none")
    # Freed memory goes back at once, so that what is held is what is alive.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "recipe.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert planned == pytest.approx(int(done.stdout.splitlines()[-1]), rel=0.15)


AMOUNTS = Amounts(trained=8e9, frozen=0, layers=7e9, frozen_bytes=0, unit=0.2e9, whole=60e9, gathered=40e9, flops=1e15)
NEEDS = Needs(
    amounts=AMOUNTS, processes=8, rows=8, positions=200, passes=8, tokens=2e4, steps=1000, step_flops=1e16, low=True
)


def test_shards_take_less_and_what_does_not_fit_is_told(make):
    whole, zero2, zero3 = (NEEDS.total(kind) for kind in ("none", "zero2", "zero3"))
    assert whole > zero2 > zero3
    assert NEEDS.bytes("zero2")["optimizer"] == NEEDS.bytes("none")["optimizer"] / 8
    train = make().train
    said = NEEDS.lines(train, 80)
    assert said[2].startswith("none")
    assert said[2].endswith("does not fit")
    assert said[-1] == "set train.sharding=zero2 for 8 cards of 80 GB" if zero2 < 0.92 * 80e9 else "zero3" in said[-1]
    assert "fits on 8 cards of 800 GB" in NEEDS.lines(train, 800)[-1]
    small = NEEDS.lines(train, 24)[-1]
    assert "nothing of this fits on 8 cards of 24 GB" in small
    assert "activation_checkpointing" in small
    assert replace(NEEDS, processes=1).total("zero2") == replace(NEEDS, processes=1).total("none")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`needs_of` asks a process that begins with everything imported; the first test asks a real one."""

    def run(command: list[str], *, input: str, **_: object) -> subprocess.CompletedProcess[str]:
        process = Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout:
            with process.stdin:
                process.stdin.write(input)
            said = process.stdout.read()
        return subprocess.CompletedProcess(command, process.wait(), said, "")

    monkeypatch.setattr(memory.subprocess, "run", run)


@pytest.mark.slow
def test_the_recipe_of_3b_fits_on_one_card(files, forked):
    """With the longest rows that it takes: 200 positions."""
    row = {"question": "pens " * 145, "steps": ["<<3+4=7>>"] * 3, "answer": "7"}
    (files / "train.jsonl").write_text((json.dumps(row) + "\n") * 2)
    splits = {split: str(files / f"{split}.jsonl") for split in ("train", "validation", "test")}
    task = json.dumps({"name": "files", **splits})
    config = recipe("gsm8k/sim_cot_codi_llama3b", [f"task={task}", "method.decoder.kind=layers"])
    start = replace(config.backbone, path=None, arch=LLAMA_3B, tokenizer=str(files / "tokenizer"))
    needs = needs_of(replace(config, backbone=start), gpu=True)
    assert 195 <= needs.positions <= 200
    assert (needs.rows, needs.passes) == (16, 7)
    assert needs.amounts.trained + needs.amounts.frozen == pytest.approx(
        3.92e9, rel=0.01
    )  # 3.21e9 and LoRA, the decoder, ...
    assert needs.lines(config.train, 80)[-1].endswith("fits on 1 card of 80 GB")
    assert needs.lines(config.train, 40)[-1].startswith("nothing of this fits on 1 card of 40 GB")


def test_gradients_of_earlier_micro_batches_are_there(make, files, forked):
    """When the second begins, those of the first lie beside its activations; in shards they do not."""
    backbone = {"arch": ARCHS["llama"], "tokenizer": str(files / "tokenizer")}
    one, two = (make(backbone=backbone, batch_size=rows, micro_batch_size=8) for rows in (8, 16))
    alone, after = needs_of(one), needs_of(two)
    assert (alone.rows, after.rows) == (8, 8)
    assert after.total("none") - alone.total("none") == pytest.approx(4 * alone.amounts.trained, rel=0.05)
    shared = needs_of(replace(two, train=replace(two.train, batch_size=32)), processes=2)
    assert shared.amounts.gathered == pytest.approx(alone.amounts.whole, rel=0.02)


def test_what_cannot_be_built_is_said(make, files, forked):
    config = make(backbone={"path": str(files / "nowhere"), "tokenizer": str(files / "tokenizer")})
    with pytest.raises(ConfigError, match="nowhere"):
        needs_of(config)
