"""A run that trains in a second: a random Llama of 20k weights on a handful of problems from a JSONL file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.backbones import ARCHS, tokenizer

from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.methods import method_config
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.tasks import task_config

SIM_COT: dict[str, Any] = {
    "name": "sim_cot",
    "inner": {"name": "coconut", "curriculum": "progressive", "first_stage": 0, "epochs_per_stage": 0.5, "max_stage": 2},
    "decoder": {"kind": "layers"},
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """train.jsonl, validation.jsonl, test.jsonl and a tokenizer folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, first, n in (("train", 1, 24), ("validation", 101, 6), ("test", 201, 6)):
        rows = [
            {
                "question": f"Ann has {k} pens and buys {k % 7} more. She doubles them.",
                "steps": [f"<<{k}+{k % 7}={k + k % 7}>>", f"<<{k + k % 7}*2={2 * (k + k % 7)}>>"],
                "answer": str(2 * (k + k % 7)),
            }
            for k in range(first, first + n)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def make(files: Path):
    """make(method, backbone={...}, **train) -> RunConfig."""

    def config(method: Any = SIM_COT, backbone: dict[str, Any] | None = None, **train: Any) -> RunConfig:
        start: dict[str, Any] = {"arch": {**ARCHS["llama"], "attention_dropout": 0.1}, "tokenizer": str(files / "tokenizer")}
        given: dict[str, Any] = {
            "steps": 12, "batch_size": 4, "lr": 3e-3, "validate_every": 4, "validate_limit": 4, "save_every": 4,
            "log_every": 1, "length_window": 2, **train,
        }  # fmt: skip
        splits = {s: str(files / f"{s}.jsonl") for s in ("train", "validation", "test")}
        return RunConfig(
            backbone=BackboneConfig(**(backbone or start)),
            method=method_config(method),
            task=task_config({"name": "files", **splits}),
            train=TrainConfig(**given),
            speaking=SamplingParams(max_new_tokens=6),
            fast=FastConfig(states=str(files.parent / "states")),
        )

    return config
