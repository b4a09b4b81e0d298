"""Random checkpoints in the layouts in which latent methods were released, made by modules of the same structure.

Written from the layouts' description, without unspoken's importers, so that what these accept is not what they define.
`UNSPOKEN`'s own classes appear nowhere here: transformers and peft make the keys.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from support.backbones import ARCHS, tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8}
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],
}


@dataclasses.dataclass(frozen=True)
class Fake:
    """A checkpoint: the module that it was saved from, and the folder of its base model."""

    module: Any
    base: Path
    words: int  # of the base model's tokenizer

    def state(self) -> dict[str, Tensor]:
        """What the released code saves, repeated tensors under every name."""
        return {key: value.detach().clone() for key, value in self.module.state_dict().items()}


def causal_lm(family: str, seed: int, rows: int, **more: Any) -> Any:
    """A random causal LM, wide enough that layers matter."""
    arch = {**ARCHS[family], **more}
    kind, eos = arch.pop("model_type"), tokenizer().eos_token_id
    config = AutoConfig.for_model(
        kind, vocab_size=rows, initializer_range=0.2, bos_token_id=eos, eos_token_id=eos, pad_token_id=eos, **arch
    )
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in lm.parameters():  # norms too: a constant 1 would hide an exchange
            parameter.add_(0.05 * torch.randn_like(parameter))
    return lm


def write_base(folder: Path, lm: Any, words: Any) -> Path:
    """A base model's folder with config and tokenizer, and no weights."""
    config = copy.deepcopy(lm.config)
    config.vocab_size = len(words)
    config.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def coconut(folder: Path, family: str = "gpt2", decoder: bool = False, **more: Any) -> Fake:
    """facebookresearch/coconut: the model, its embedding again, with SIM-CoT a second model with the old vocabulary."""
    words = tokenizer()
    module: Any = nn.Module()
    module.base_causallm = causal_lm(family, 1, len(words) + 3, **more)
    if decoder:
        module.expainable_llm = causal_lm(family, 2, len(words), **more)
    module.embedding = module.base_causallm.get_input_embeddings()
    return Fake(module, write_base(folder / "base", module.base_causallm, words), len(words))


def codi(
    folder: Path,
    family: str = "gpt2",
    *,
    lora: bool = True,
    decoder: bool = False,
    projection: bool = True,
    norm: bool = True,
    name: str = "codi",
    **more: Any,
) -> Fake:
    """zhenyi4/codi: the model, in peft's wrapper where it has LoRA, the projection, and SIM-CoT's decoder."""
    words = tokenizer()
    module: Any = nn.Module()
    lm = causal_lm(family, 1, len(words) + 3, **more)
    base = write_base(folder / "base", lm, words)
    if lora:
        targets = TARGETS[family]
        lm = get_peft_model(lm, LoraConfig(target_modules=targets, fan_in_fan_out=family == "gpt2", **LORA))
        with torch.no_grad():
            for key, parameter in lm.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.2)
    setattr(module, name, lm.eval())
    if projection:
        width, hidden = ARCHS["llama"]["hidden_size"], 20
        parts = [nn.Dropout(0.0), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)]
        module.prj = nn.Sequential(*parts)
        if norm:
            last = nn.LayerNorm(width)
            module.prj.add_module("ln", last)
            nn.init.normal_(last.weight)
    if decoder:
        module.decoder = causal_lm(family, 2, len(words), **more)
    return Fake(module, base, len(words))


def plain(folder: Path, family: str = "gpt2", **more: Any) -> Fake:
    """facebookresearch/coconut, modes cot and no_cot: a causal LM's own keys."""
    words = tokenizer()
    lm = causal_lm(family, 1, len(words), **more)
    return Fake(lm, write_base(folder / "base", lm, words), len(words))


FAMILIES: dict[str, Any] = {
    "coconut": coconut,
    "simcot_coconut": lambda folder, family="gpt2": coconut(folder, family, decoder=True),
    "codi": codi,
    "codi_full": lambda folder, family="gpt2": codi(folder, family, lora=False),
    "codi_older": lambda folder, family="gpt2": codi(folder, family, name="coconut"),
    "simcot_codi": lambda folder, family="gpt2": codi(folder, family, decoder=True),
    "cot": plain,
}
"""name -> (folder, family of the base model) -> checkpoint."""


def options(name: str) -> dict[str, Any]:
    """What the import of a family needs besides the base model: alpha, since the rank is not the published one."""
    return {"alpha": 8.0} if name in ("codi", "codi_older", "simcot_codi") else {}


FORMS = ("checkpoint", "bin", "safetensors", "one_shard", "shards", "index", "bin_shards")
"""How `write` can lay out a checkpoint."""


def write(folder: Path, state: dict[str, Tensor], form: str) -> Path:
    """Write a state dict as it would be released; returns what to give to the import. config.json is empty."""
    folder.mkdir(parents=True)
    if form == "checkpoint":
        torch.save(state, folder / "checkpoint_25")
        return folder / "checkpoint_25"
    (folder / "config.json").write_bytes(b"")
    (folder / "README.md").write_text("xx.x")
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
        torch.save({"lr": 3}, folder / "training_args.bin")
    elif form == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif form == "one_shard":
        save_file(state, folder / "model-00001-of-00001.safetensors")
    else:
        names = sorted(state)
        cut = [dict.fromkeys(names[i::3]) for i in range(3)]
        kind = "bin" if form == "bin_shards" else "safetensors"
        stem = "pytorch_model" if kind == "bin" else "model"
        table = {}
        for number, keys in enumerate(cut, start=1):
            file = f"{stem}-{number:05d}-of-00003.{kind}"
            part = {key: state[key] for key in keys}
            torch.save(part, folder / file) if kind == "bin" else save_file(part, folder / file)
            table |= dict.fromkeys(keys, file)
        if form == "index":
            (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder
