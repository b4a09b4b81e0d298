"""Adapters (LoRA, trained rows) of a base model that is kept in bf16, on their way to disk and back.

Merged into bf16 an adapter loses what falls below a weight's last digit: two per cent of a short run's update. So it is
merged in fp32, and the folder is an ordinary one whose model is the one that was trained. Beside it lies the adapter by
itself: taken off again, it leaves the base model's own bf16 weights, so that the model that is loaded computes with the
very numbers that were scored, and in their memory.

    FOLDER/model*.safetensors     everything merged, fp32
    FOLDER/adapter.safetensors    the adapter alone; its settings are in the metadata
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from unspoken.core.backbone import ADAPTER, Backbone, LoraSettings
from unspoken.core.precision import adapter_parameters
from unspoken.errors import RunError


def restore(backbone: Backbone, folder: Path) -> None:
    """Take the adapter that lies in a folder off the merged model that was loaded from there, and put it on as it was.

    Nothing happens where there is no adapter.

    Raises:
        RunError: the adapter is broken, or of another model.
    """
    from peft.tuners.lora import LoraLayer

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
