"""Load a Backbone from a folder, a hub id, a built-in model, or an architecture with random weights."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from unspoken.core.builtin import BUILTIN, builtin
from unspoken.core.files import expanded
from unspoken.core.lm.adapters import ADAPTER, LoraSettings
from unspoken.core.lm.backbone import Backbone, BackboneConfig, _no_bars
from unspoken.core.lm.hf import with_attention
from unspoken.core.lm.pretrained import (
    GIVE,
    check_place,
    check_tokenizer,
    first_line,
    load_lm,
    load_tokenizer,
    tokenizer_place,
)
from unspoken.core.precision import adapter_parameters
from unspoken.core.seal import changed
from unspoken.core.weightless import is_weightless, shorten
from unspoken.errors import BackboneError, ConfigError, RunError


def device_or_gpu(device: str | torch.device | None) -> torch.device:
    """A device; for None, a GPU if there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def resolve(path: str) -> str:
    """The path that transformers loads: run directories and built-in models become their model folder.

    Raises:
        BackboneError: a run without a model yet, or with files that were changed since they were saved.
    """
    folder = builtin(path) if path.startswith(BUILTIN) else expanded(path)
    if os.path.isfile(folder / "run.json"):
        if not (folder / "model").is_dir():
            raise BackboneError(f"the run in {path} has no model yet: it has not reached a validation; train on, or wait")
        if (fault := changed(folder / "model")) is not None:
            raise BackboneError(f"{folder / 'model'}: {fault}; restore it from a copy, or give another model")
        return str(folder / "model")
    return str(folder) if path.startswith((BUILTIN, "~")) else path


def load_backbone(config: BackboneConfig, *, fits: bool = True) -> Backbone:
    """Build the causal LM and tokenizer of a config. Random weights use torch's current seed.

    A PEFT adapter is merged into its base model. Code that comes with a model is never run.

    Args:
        config: which model.
        fits: check that every token has a row in the embedding. Not for a step decoder, whose tokenizer has the base's
            markers too.

    Raises:
        BackboneError: there is no usable model at the path.
    """
    where = resolve(config.path) if config.path is not None else None
    name = str(config.path or config.arch)
    try:
        if where is not None:
            check_place(where)
        source = resolve(config.tokenizer) if config.tokenizer is not None else tokenizer_place(where or "", resolve)
        tokenizer = load_tokenizer(source, str(config.tokenizer or config.path))
        with _no_bars():
            lm = _causal_lm(config, where, tokenizer)
        if fits:
            check_tokenizer(tokenizer, lm, source)
    except (BackboneError, ConfigError):
        raise
    except Exception as error:  # transformers, tokenizers, safetensors and hub each raise their own kinds
        raise BackboneError(f"cannot load a model from {name}: {first_line(error)}; {GIVE}") from error
    return Backbone(lm, tokenizer)


def _causal_lm(config: BackboneConfig, where: str | None, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Pretrained weights, or random ones for an architecture."""
    dtype = getattr(torch, config.dtype)
    if where is not None and not is_weightless():
        return load_lm(where, dtype, config.attention, resolve)
    arch = _architecture(config, where, tokenizer)
    shorten(arch)
    # Otherwise transformers asks at the terminal whether a model's own code may run.
    make = partial(AutoModelForCausalLM.from_config, arch, dtype=dtype, trust_remote_code=False)
    return with_attention(make, config.attention)


def _architecture(config: BackboneConfig, where: str | None, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The config of a model without pretrained weights."""
    if where is not None:
        return AutoConfig.from_pretrained(where, trust_remote_code=False)
    assert config.arch is not None
    rest = {k: v for k, v in config.arch.items() if k != "model_type"}
    # A family's default eos id belongs to its own vocabulary; here it would be some ordinary token.
    mine = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    return AutoConfig.for_model(config.arch.get("model_type", ""), **{**mine, **rest})


def restore(backbone: Backbone, folder: Path) -> None:
    """Subtract the adapter in a folder from the merged model that was loaded from there, and attach it as an adapter again.

    Does nothing if there is no adapter.

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
        elif not backbone.adapted:  # a method may have set up its rows itself
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
