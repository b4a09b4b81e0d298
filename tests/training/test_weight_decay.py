"""What weight decay takes hold of: matrices, and no vector of a token, which most batches do not contain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from unspoken.core.lm.adapters import LoraSettings
from unspoken.training.loop import Training
from unspoken.training.progress import Quiet

CODI = {"name": "codi", "latents": 2}


@pytest.mark.parametrize(
    ("method", "lora"),
    [(CODI, True), (CODI, False), ({"name": "pause", "trains": "pauses"}, False), ({"name": "pause"}, True)],
)
def test_marker_rows_do_not_decay(make, tmp_path, method: dict[str, Any], lora: bool):
    """Whether they train as rows of the whole table, beside LoRA, or alone. Without gradients a step is decay and nothing
    else, so matrices shrink and the rows stay as they are, to the last bit."""
    config = make(method, steps=2, weight_decay=0.5, lr=0.1)
    if lora:
        config = replace(config, backbone=replace(config.backbone, lora=LoraSettings(r=2)))
    training = Training(config, tmp_path / "run", Quiet())
    rows = {name: p for name, p in training.trained.items() if "embed_tokens" in name}
    assert rows
    before = {name: p.detach().clone() for name, p in training.trained.items()}
    for p in training.trained.values():
        p.grad = torch.zeros_like(p)
    training.optimizer.step()
    for name, p in training.trained.items():
        kept = name in rows or p.ndim < 2 or not before[name].any()
        assert torch.equal(p.detach(), before[name]) == kept, name
