"""Tiny random backbones and a small tokenizer, built in code: no network, no files."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from unspoken.core.lm.backbone import Backbone

TEXT = [
    "Ann has 3 pens and buys 4 more. She then doubles them. How many pens?",
    "<<3+4=7>>\n<<7*2=14>>\n### 14",
    "Bob has 9 figs. He eats 2. How many are left? 0123456789",
]

ARCHS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256,
             "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    "qwen3": {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
              "tie_word_embeddings": True},
    "nanochat": {"model_type": "nanochat", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
}  # fmt: skip


@functools.cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer.to_str()


def tokenizer() -> PreTrainedTokenizerFast:
    """A fresh byte-level BPE tokenizer."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


@functools.cache
def tokenizer_folder() -> str:
    """The tokenizer as a folder, for configs."""
    kept = tempfile.TemporaryDirectory(prefix="tokenizer-")
    _KEPT.append(kept)
    tokenizer().save_pretrained(kept.name)
    return kept.name


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when Python ends."""


def settings(family: str = "llama", **more: Any) -> dict[str, Any]:
    """`backbone` as fields of a `BackboneConfig`: its weights are drawn from torch's current seed."""
    eos = tokenizer().eos_token_id
    ids = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}
    return {"arch": {**ARCHS[family], "initializer_range": 0.2, **ids, **more}, "tokenizer": tokenizer_folder()}


def backbone(family: str = "llama", seed: int = 0, **more: Any) -> Backbone:
    """A random backbone of a family, with weights wide enough that greedy decoding has no near ties."""
    words = tokenizer()
    arch = {**ARCHS[family], **more}
    kind = arch.pop("model_type")
    ids = {"bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.eos_token_id}
    config = AutoConfig.for_model(kind, vocab_size=len(words), initializer_range=0.2, **ids, **arch)
    torch.manual_seed(seed)
    return Backbone(AutoModelForCausalLM.from_config(config, dtype=torch.float32), words)
