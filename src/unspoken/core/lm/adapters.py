"""Adapters (LoRA, trained rows) of a base model that is kept in bf16, on their way to disk and back.

Merged into bf16 an adapter loses what falls below a weight's last digit: two per cent of a short run's update. So it is
merged in fp32, and the folder is an ordinary one whose model is the one that was trained. Beside it lies the adapter by
itself: taken off again, it leaves the base model's own bf16 weights, so that the model that is loaded computes with the
very numbers that were scored, and in their memory.

    FOLDER/model*.safetensors     everything merged, fp32
    FOLDER/adapter.safetensors    the adapter alone; its settings are in the metadata
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from unspoken.core.precision import adapter_parameters, is_low
from unspoken.errors import RunError

if TYPE_CHECKING:
    from unspoken.core.lm.backbone import Backbone

ADAPTER = "adapter.safetensors"
"""Beside a merged model, its adapter alone."""


def merged(adapted: Any) -> Any:
    """A copy of what peft has adapted, merged; of a base coarser than fp32 in fp32 and in host memory."""
    known: dict[int, Any] = {}  # copies that are there already
    if any(is_low(p.dtype) for p in adapted.parameters()):
        known = {id(p): nn.Parameter(p.detach().cpu().float()) for p in adapted.parameters()}
        known |= {id(b): b.detach().cpu() for b in adapted.buffers()}
    return copy.deepcopy(adapted, known).merge_and_unload()


def keep(lm: Any, settings: dict[str, Any], folder: Path) -> None:
    """Write the adapter of a model, and how it was made."""
    kept = {name: p.detach().cpu().contiguous() for name, p in adapter_parameters(lm).items()}
    about = {**settings, "dtype": str(lm.dtype).removeprefix("torch.")}
    save_file(kept, str(folder / ADAPTER), metadata={"about": json.dumps(about), "format": "pt"})


def restore(backbone: Backbone, folder: Path) -> None:
    """Take the adapter that lies in a folder off the merged model that was loaded from there, and put it on as it was.

    Nothing happens where there is no adapter.

    Raises:
        RunError: the adapter is broken, or of another model.
    """
    from peft.tuners.lora import LoraLayer

    from unspoken.core.lm.backbone import LoraSettings

    file = folder / ADAPTER
    if not file.is_file():
        return
    try:
        with safe_open(str(file), framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["about"])
        found, tokens = load_file(str(file)), tuple(about["tokens"])
        if about["lora"] is not None:
            backbone.adapt(LoraSettings(**about["lora"]), tokens)
        elif not backbone.adapted:  # a method may have seen to its rows itself
            backbone.train_rows(tokens)
        added = adapter_parameters(backbone.lm)
        if {name: p.shape for name, p in added.items()} != {name: t.shape for name, t in found.items()}:
            raise ValueError("its tensors are others")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{file} is truncated, or belongs to another model ({error}); restore the run's own") from error
    with torch.no_grad():
        for name, p in added.items():
            p.copy_(found[name])
        for module in backbone.lm.modules():
            if isinstance(module, LoraLayer):
                module.merged_adapters.append("default")
                module.unmerge()
    inside = {id(p) for p in added.values()}
    for p in backbone.lm.parameters():
        if id(p) not in inside:
            p.data = p.data.to(getattr(torch, about["dtype"]))
