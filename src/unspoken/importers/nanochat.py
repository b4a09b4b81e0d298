"""nanochat's own checkpoints: `model_000650.pt` with `meta_000650.json` beside it, from nanochat of October 2025.

transformers has that design (`model_type` "nanochat"). Later ones add value embeddings and weights per layer, which it
lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from unspoken.core.files import read_object
from unspoken.errors import CheckpointError
from unspoken.importers.base import Architecture, BaseOutline
from unspoken.importers.rules import KeyRule, listed

WRAPPED = "_orig_mod."
"""Stands before all names where the compiled model was saved."""

_LATER = ("value_embeds", "resid_lambdas", "x0_lambdas", "smear", "backout")

_LAYER = {
    "attn.c_q": "self_attn.q_proj",
    "attn.c_k": "self_attn.k_proj",
    "attn.c_v": "self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}

_META = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
    "vocab_size": "vocab_size",
}


def is_nanochat(keys: Collection[str]) -> bool:
    """Whether these are the keys of nanochat's code."""
    return any(key.removeprefix(WRAPPED) == "transformer.h.0.attn.c_q.weight" for key in keys)


def check_nanochat(keys: Collection[str], model: Architecture) -> None:
    """Refuse designs that transformers lacks, and another base model.

    Raises:
        CheckpointError: so it is.
    """
    later = sorted(key for key in keys if any(part.startswith(_LATER) for part in key.split(".")))
    if later:
        raise CheckpointError(
            f"a nanochat checkpoint of a design after October 2025 ({listed(later)}), which transformers cannot run; import "
            "one that was trained with nanochat's code of that time"
        )
    if "model.layers.0.mlp.fc1.weight" not in model.shapes:
        raise CheckpointError(
            "a nanochat checkpoint needs a --base of model_type nanochat: a folder with its config.json and tokenizer in "
            "the format of transformers"
        )


def nanochat_rules(keys: Collection[str], target: str) -> list[KeyRule]:
    """Rules for nanochat's names, to those of transformers behind `target`."""
    wrap = WRAPPED if any(key.startswith(WRAPPED) for key in keys) else ""
    rules = [
        KeyRule(pattern=f"{wrap}transformer.wte.weight", target=f"{target}model.embed_tokens.weight"),
        KeyRule(pattern=f"{wrap}lm_head.weight", target=f"{target}lm_head.weight"),
    ]
    for theirs, ours in _LAYER.items():
        place = f"{target}model.layers.*.{ours}.weight"
        rules.append(KeyRule(pattern=f"{wrap}transformer.h.*.{theirs}.weight", target=place))
    return rules


def check_meta(files: Sequence[Path], base: BaseOutline) -> list[str]:
    """Compare the settings beside `model_N.pt` with the base model's: no tensor says how many heads there are.

    Returns:
        A note about what was compared.

    Raises:
        CheckpointError: they differ, or the file is damaged.
    """
    found = [
        file.with_name(f"{file.stem.replace('model_', 'meta_')}.json") for file in files if file.stem.startswith("model_")
    ]
    if not (found and found[0].is_file()):
        return ["not checked: the number of heads, for lack of nanochat's meta_N.json beside the file"]
    try:
        told = read_object(found[0]).get("model_config")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{found[0]} cannot be read ({error}); take another copy, or remove it") from None
    if not isinstance(told, dict):
        raise CheckpointError(f"{found[0]} has no model_config, which nanochat writes; take another copy, or remove it")
    mine: Any = base.config
    for theirs, ours in _META.items():
        if theirs in told and told[theirs] != getattr(mine, ours):
            raise CheckpointError(
                f"{found[0]} says {theirs}={told[theirs]!r}, but {base.path} has {ours}={getattr(mine, ours)}; give the "
                "--base that belongs to this checkpoint"
            )
    return [f"checked: {', '.join(name for name in _META if name in told)} of {found[0].name}"]
