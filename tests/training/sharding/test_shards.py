"""Several processes with the model in shards train the run of one; states go from one number of processes to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import ARCHS
from support.forks import ranks

from unspoken.core.config import dump
from unspoken.runs.directory import RunDir, load
from unspoken.training.loop import Training, train

SCRIPT = """
import sys
from pathlib import Path
from unspoken.recipes import recipe
from unspoken.training.loop import Training, train
from unspoken.training.ranks import leave_group

step = Training._train_step

def leaves(self):
    if self.step == 2 and self.run.path.name.startswith("left"):
        raise KeyboardInterrupt
    step(self)

Training._train_step = leaves
for file in sorted(Path(sys.argv[1]).glob("*.json")):
    try:
        train(recipe(str(file)), Path(sys.argv[2]) / file.stem)
    except KeyboardInterrupt:
        print("left")
leave_group()
"""

AT_ONCE = {"name": "coconut", "curriculum": "none", "pad_to_max": False}  # rows have 1 or 2 steps: other numbers of passes
STAGES = {
    "name": "sim_cot", "decoder": {"kind": "layers"},
    "inner": {"name": "coconut", "curriculum": "progressive", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 1},
}  # fmt: skip
LOTUS = {
    "name": "lotus",
    "latents_per_step": 2,
    "max_stage": 2,
    "first_stage": 1,
    "epochs_per_stage": 0.5,
    "supervise": "each",
}
PCCOT = {"name": "codi", "latents": 4, "iterations": 2, "projection": False, "compare_embeddings": False}
LORA = {"r": 4, "alpha": 8.0}
SHARDINGS = ("none", "zero2", "zero3")
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "zero2": (STAGES, {}, {}),  # the optimizer restarts with the second stage, at step 3
    "zero2-lora": (STAGES, {"lora": LORA}, {"activation_checkpointing": True}),
    "zero2-bf16": (AT_ONCE, {}, {"precision": "bf16"}),
    "zero3": (AT_ONCE, {}, {}),
    "zero3-lora": (STAGES, {"lora": LORA}, {"activation_checkpointing": True}),
    "none-lotus": (LOTUS, {}, {}),
    "zero2-lotus": (LOTUS, {}, {}),
    "zero3-lotus": (LOTUS, {}, {}),
    "zero3-pccot": (PCCOT, {"lora": LORA}, {}),
    "zero3-mux": ({"name": "mux", "inner": {"name": "codi", "latents": 2}}, {}, {}),
    "zero2-begun": (STAGES, {}, {}),  # goes on from a state of one process
    "left-zero2": (STAGES, {}, {}),  # leaves a state for one process
}


def recipe(make: Any, files: Path, name: str, sharding: str = "none") -> dict[str, Any]:
    """A run of four steps of five rows, in micro-batches of two: one process has an odd row, or none."""
    method, backbone, how = CASES[name]
    more: dict[str, Any] = {"steps": 4, "batch_size": 5, "micro_batch_size": 2, "save_every": 2, "validate_every": 4}
    data = dump(make(method, {"arch": ARCHS["llama"], "tokenizer": str(files / "tokenizer")}, **more, validate_limit=3))
    return {**data, "backbone": {**data["backbone"], **backbone}, "train": {**data["train"], **how, "sharding": sharding}}


def built(data: dict[str, Any]) -> Any:
    from unspoken.core.config import build
    from unspoken.runs.config import RunConfig

    return build(RunConfig, data)


def same(one: Path, both: Path, rel: float = 1e-4) -> None:
    """The losses, validations and kept models of two runs."""
    a, b = RunDir(one).metrics(), RunDir(both).metrics()
    assert [(row["kind"], row["step"]) for row in a] == [(row["kind"], row["step"]) for row in b]
    for x, y in zip(a, b, strict=True):
        for name in {"loss", "grad_norm", "accuracy"} & x.keys():
            assert x[name] == pytest.approx(y[name], rel=rel), (x["kind"], x["step"], name)
    first, second = (load(run).method.state_dict() for run in (one, both))
    for name, tensor in first.items():
        assert torch.allclose(tensor.float(), second[name].float(), atol=rel, rtol=10 * rel), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:training ends in stage")
@pytest.mark.parametrize(("processes", "names"), [(2, [*CASES]), (4, ["zero2", "zero3"])])
def test_shards_give_the_run_of_one_process(make, files, tmp_path, monkeypatch, processes, names):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    ones: dict[str, Path] = {}
    for name in names:
        sharding = next(part for part in name.split("-") if part in SHARDINGS)
        (recipes / f"{name}.json").write_text(json.dumps(recipe(make, files, name, sharding)))
        if (plain := json.dumps(recipe(make, files, name))) not in ones:  # cases that differ in their shards alone share one
            ones[plain] = train(built(recipe(make, files, name)), tmp_path / "one" / name).path
    if "zero2-begun" in names:
        step = Training._train_step

        def dying(self):
            if self.step == 2:
                raise KeyboardInterrupt
            step(self)

        monkeypatch.setattr(Training, "_train_step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(built(recipe(make, files, "zero2-begun")), tmp_path / "more" / "zero2-begun")
        monkeypatch.setattr(Training, "_train_step", step)
    for done in ranks(processes, recipes, tmp_path / "more", script=SCRIPT):
        assert done.returncode == 0, done.stderr
    if "left-zero2" in names:
        (left,) = (tmp_path / "more" / "left-zero2" / "state").iterdir()
        assert sorted(file.suffix for file in (left / "shards").iterdir()) == [".safetensors"] * processes
        train(built(recipe(make, files, "left-zero2")), tmp_path / "more" / "left-zero2")
    for name in names:
        same(ones[json.dumps(recipe(make, files, name))], tmp_path / "more" / name, rel=3e-2 if "bf16" in name else 1e-4)
