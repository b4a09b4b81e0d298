"""Several processes train the same run as one: gloo on two CPU processes here, NCCL on GPUs elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.backbones import ARCHS
from support.command_line import Done
from support.forks import in_two, launched, ranks

from unspoken.core.config import dump
from unspoken.errors import ConfigError
from unspoken.evaluation.processes import started
from unspoken.runs.directory import RunDir
from unspoken.training.loop import train

HURT = """
import os, sys
from unspoken.recipes import recipe
from unspoken.errors import UnspokenError
from unspoken.inspector import monitor
from unspoken.runs import directory
from unspoken.training import loop, validation
from unspoken.training.feeding import feed
from unspoken.training.ranks import leave_group

PLACES = {
    "building": (loop.Training, "_build", "1"),
    "layout": (feed.Feed, "_lay_out", "1"),
    "validation": (validation.Validation, "_answers", "1"),
    "monitor": (monitor.Monitor, "problems", "1"),
    "saving": (directory.RunDir, "save_state", "0"),
}

def hurt(old, rank):
    def new(*given, **how):
        if os.environ["RANK"] == rank:
            raise ValueError("this disk is gone")
        return old(*given, **how)
    return new

for name, (place, what, rank) in PLACES.items():
    old = getattr(place, what)
    setattr(place, what, hurt(old, rank))
    try:
        loop.train(recipe(sys.argv[1]), sys.argv[2] + "/" + name)
    except (UnspokenError, ValueError) as error:
        print(name, error, sep=": ")
    setattr(place, what, old)
leave_group()
"""

FAULTY = """
import os, signal, sys, time
from unspoken.__main__ import main
from unspoken.methods import base
from unspoken.training import loop

FAULTS = {
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hangs": lambda: time.sleep(1000),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fails": lambda: [][0],
}
loss, fault = loop.Training._loss, sys.argv.pop(1)

def faulty(self, part, counts):
    report = loss(self, part, counts)
    if self.step == 2 and os.environ["RANK"] == "1":  # the other is in its passes, or waits for gradients
        report.trace.hidden_BSD.register_hook(lambda _: FAULTS[fault]())
    return report

loop.Training._loss = faulty
main()
"""


@pytest.fixture(autouse=True)
def _processor_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forgot the variable once got two whole trainings in one directory."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


def torchrun(*words: str | Path) -> Done:
    """Two processes of `python -m unspoken`, started by the real launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "unspoken"]
    done = subprocess.run([*command, *map(str, words)], check=False, timeout=300, capture_output=True, text=True)
    return Done(done.returncode, done.stdout, done.stderr)


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in RunDir(run).metrics() if row["kind"] == kind]


def as_one(make: Any, tmp_path: Path, launch: Callable[..., Done] = in_two, **how: Any) -> None:
    """Two processes: the losses, the validation and the kept model's step of one."""
    config = make(**how)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(dump(config)))
    train(config, tmp_path / "one")
    done = launch("train", recipe, "--out", tmp_path / "two", "--quiet")
    assert done.returncode == 0, done.stderr
    for kind in ("train", "validation"):
        one, both = rows(tmp_path / "one", kind), rows(tmp_path / "two", kind)
        assert len(one) == len(both) > 0
        for a, b in zip(one, both, strict=True):
            assert a["step"] == b["step"]
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            for name in ("accuracy", "latents", "cut_off", "problems", "kept", "tokens", "stage"):
                assert a.get(name) == b.get(name), name


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(make, tmp_path):
    # 24 examples, 5 rows a step: an odd row is left to one of the processes, and each goes through micro-batches of 2
    # wide enough that the gradients of matrices are made once for all passes (core/fast/shared_gradients.py); of 3
    # validation problems one process gets two
    arch = {**ARCHS["llama"], "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    start = {"arch": arch, "tokenizer": make().backbone.tokenizer}
    how = {"steps": 6, "batch_size": 5, "micro_batch_size": 2, "validate_limit": 3, "validate_every": 3}
    as_one(make, tmp_path, torchrun, backbone=start, **how)


@pytest.mark.slow
@pytest.mark.parametrize("around", [False, True])
def test_parts_that_have_nothing_to_do_do_not_stop_two_processes(make, tmp_path, around):
    """CODI without latents, the control: its projection gets no gradient. And one validation problem for two processes."""
    start = {"arch": ARCHS["llama"], "tokenizer": make().backbone.tokenizer}
    method: Any = {"name": "codi", "latents": 0, "marker_init": "pens"}
    if around:  # a stage without latents
        method = {"name": "sim_cot", "inner": {"name": "coconut", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 1},
                  "decoder": {"kind": "layers"}}  # fmt: skip
    as_one(make, tmp_path, method=method, backbone=start, steps=5, validate_limit=1, validate_every=2)


@pytest.mark.slow
def test_what_fails_on_one_process_ends_all_with_its_message(make, tmp_path):
    config = make(steps=3, validate_every=1, save_every=2, stability_limit=2)
    (tmp_path / "recipe.json").write_text(json.dumps(dump(config)))
    first, second = ranks(2, tmp_path / "recipe.json", tmp_path, script=HURT)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    for name, rank in (("building", 1), ("layout", 1), ("validation", 1), ("monitor", 1), ("saving", 0)):
        failed, other = (second, first) if rank else (first, second)
        assert f"{name}: this disk is gone\n" in failed.stdout
        assert f"{name}: process {rank} has stopped: ValueError: this disk is gone\n" in other.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sharding", "said"),
    [
        ("stopped", "none", "process 1 gives no sign of life: .*"),  # as by a debugger, or a disk that gives no answer
        ("hangs", "none", "process 1 did not come: it hangs"),
        ("killed", "zero3", "process 1 gives no sign of life: .*"),
        ("fails", "zero2", "process 1 has stopped: IndexError: list index out of range"),
    ],
)
def test_a_process_that_is_lost_in_a_pass_is_named_and_nobody_waits_long(make, tmp_path, fault, sharding, said):
    method = {"name": "coconut", "curriculum": "none"}
    (tmp_path / "recipe.json").write_text(json.dumps(dump(make(method, steps=5, rank_timeout=0.1, sharding=sharding))))
    words = (fault, "train", tmp_path / "recipe.json", "--quiet", "--out", tmp_path / "run")
    first, second = launched(2, *words, script=FAULTY)
    try:
        done = first.done(timeout=60)
        assert done.returncode == 2
        assert re.search(f"^error: {said}", done.stderr, re.MULTILINE), done.stderr
        if "stopped: " not in said:
            assert re.search(r"while training step 3; .* train\.rank_timeout=0\.1 minutes", done.stderr)
    finally:
        second.kill()


@pytest.mark.slow
def test_the_launchers_precision_does_not_count_and_that_is_said(make, tmp_path):
    start = {"arch": ARCHS["llama"], "tokenizer": make().backbone.tokenizer}
    config = make({"name": "cot"}, backbone=start, steps=3, validate_limit=0)
    (tmp_path / "recipe.json").write_text(json.dumps(dump(config)))
    train(config, tmp_path / "one")
    words = ("train", tmp_path / "recipe.json", "--quiet", "--out", tmp_path / "two")
    done = in_two(*words, env={"ACCELERATE_MIXED_PRECISION": "bf16"})
    assert done.returncode == 0, done.stderr
    assert "warning: accelerate is set to mixed_precision=bf16, which does not count here" in done.stderr
    for a, b in zip(rows(tmp_path / "one", "train"), rows(tmp_path / "two", "train"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    done = in_two(*words[:-1], tmp_path / "three", env={"ACCELERATE_USE_FSDP": "true"})
    assert done.returncode != 0
    assert "accelerate is set to FSDP" in done.stderr


@pytest.mark.parametrize(("variable", "launcher"), [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")])
def test_a_launcher_that_tells_torch_nothing_is_named(variable, launcher, monkeypatch, make, tmp_path):
    """Each of its processes would train the whole run."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(variable, "4")
    with pytest.raises(ConfigError, match=f"{launcher} has started 4 processes"):
        train(make(), tmp_path / "run")
    monkeypatch.setenv(variable, "1")
    assert started() == 1
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE must be a number"):
        started()
