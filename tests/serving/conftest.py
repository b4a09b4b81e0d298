"""A run of SoftCoT++ that trained for two steps, and what `export --prompt-embeds` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import ARCHS, tokenizer
from support.servers import running, thinker

from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.exporters.prompt_embeds import export_prompt_embeds
from unspoken.methods import method_config
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.serving.models import ServedModel
from unspoken.serving.service import Service
from unspoken.tasks import task_config
from unspoken.training.loop import train


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory):
    """made(method, **more) -> a run directory; the base model lies in a folder of its own, where an engine would find it."""
    folder = tmp_path_factory.mktemp("serve")
    tokenizer().save_pretrained(folder / "tokenizer")
    for name, arch in (("base", ARCHS["llama"]), ("assistant", {**ARCHS["gpt2"], "n_embd": 24})):
        torch.manual_seed(3)
        load_backbone(BackboneConfig(arch=arch, tokenizer=str(folder / "tokenizer"))).save(folder / name)
    rows = [
        {"question": f"Ann has {k} pens and buys 4.", "steps": [f"<<{k}+4={k + 4}>>"], "answer": str(k + 4)}
        for k in range(8)
    ]
    for split in ("train", "validation", "test"):
        first = {"train": 0, "validation": 10, "test": 20}[split]
        text = "".join(
            json.dumps({**row, "question": row["question"] + f" ({first + i})"}) + "\n" for i, row in enumerate(rows)
        )
        (folder / f"{split}.jsonl").write_text(text)

    def run(wrap: bool = True, backbone: dict[str, Any] | None = None, **more: Any) -> Path:
        soft: dict[str, Any] = {
            "name": "softcot", "assistant": {"path": str(folder / "assistant")}, "latents": 3, "texts": "plain",
            **more,
        }  # fmt: skip
        method = {"name": "softcot_pp", "softcot": soft, "chains": 2} if wrap else soft
        config = RunConfig(
            backbone=BackboneConfig(**{"path": str(folder / "base"), **(backbone or {})}),
            method=method_config(method),
            task=task_config({"name": "files", **{s: str(folder / f"{s}.jsonl") for s in ("train", "validation", "test")}}),
            train=TrainConfig(steps=2, batch_size=4, lr=1e-2, validate_limit=0),
            speaking=SamplingParams(max_new_tokens=6),
            fast=FastConfig(states=None),
        )
        out = tmp_path_factory.mktemp("run")
        train(config, out / "run")
        return out / "run"

    return run


@pytest.fixture(scope="session")
def run(made) -> Path:
    """SoftCoT++ on a frozen base."""
    return made()


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    out = tmp_path_factory.mktemp("exported") / "folder"
    export_prompt_embeds(run, out)
    return out


@pytest.fixture(scope="session")
def ours():
    """A server of ours with two models: one that explains its latents, and the shipped one, which has none."""
    service = Service(models=[thinker("sim_cot", slots=8), ServedModel.load("builtin:tiny", slots=8)])
    with running(service) as url:
        yield url
