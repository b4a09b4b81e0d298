"""The method's settings that a checkpoint does not contain: given by the caller, or as published."""

from __future__ import annotations

from typing import Any, TypeVar

from unspoken.errors import ConfigError
from unspoken.importers.account import Account
from unspoken.importers.families import Family

T = TypeVar("T")

_FOREIGN = {
    "coconut": ("latents",),
    "codi": ("latents_per_step", "max_stage"),
    "cot": ("latents", "latents_per_step", "max_stage"),
    "lotus": ("latents",),
    "pccot": ("latents_per_step", "max_stage"),
}
_OWN = {
    "coconut": "latents_per_step and max_stage",
    "codi": "latents",
    "cot": "none, it thinks no latents",
    "lotus": "latents_per_step and max_stage",
    "pccot": "latents",
}


class Choices:
    """Values that are not in the checkpoint, each with its origin."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[Any, str]] = {}

    def choose(self, name: str, given: T | None, published: T, source: str) -> T:
        """The given value, or else the published one; records the choice."""
        self.made[name] = (published, f"not in the file; {source}") if given is None else (given, "as given")
        return self.made[name][0]


def settings(
    found: Account, choices: Choices, latents: int | None, latents_per_step: int | None, max_stage: int | None
) -> dict[str, Any]:
    """The method's config as plain values. The path of an auxiliary decoder is left empty.

    Args:
        found: the checkpoint.
        choices: records what was chosen.
        latents, latents_per_step, max_stage: given by the caller, or None.

    Raises:
        ConfigError: an option of another family.
    """
    family = found.family
    given = {"latents": latents, "latents_per_step": latents_per_step, "max_stage": max_stage}
    if odd := [name for name in _FOREIGN[family.method] if given[name] is not None]:
        raise ConfigError(f"{odd[0]} is no setting of {family.title}; its own: {_OWN[family.method]}")
    if family.method == "cot":
        return {"name": "cot"}
    if family.method == "lotus":
        return _lotus(found, choices, latents_per_step, max_stage)
    if family.method == "pccot":
        return _pccot(found, choices, latents)
    if family.method == "coconut":
        inner = _coconut(family, choices, latents_per_step, max_stage)
    else:
        inner = {
            "name": "codi",
            "latents": choices.choose("latents", latents, 6, "as published"),  # scripts/*.sh: num_latent 6
            "trailing": bool(family.decoder),  # the released decoder explains one latent more than is fed
            "projection": bool(found.projection),
            **found.projection,
        }
    if family.decoder is None:
        return inner
    # Coconut/coconut.py counts a latent's position from 1; CODI/src/model.py leaves it to the model, which counts from 0.
    decoder = {"kind": "model", "path": "", "first_position": 1 if family.method == "coconut" else 0}
    return {"name": "sim_cot", "inner": inner, "decoder": decoder, **_RELEASED[family.method]}


def _coconut(family: Family, choices: Choices, latents_per_step: int | None, max_stage: int | None) -> dict[str, Any]:
    """c and K. facebookresearch/coconut, args/gsm_coconut.yaml: 2 and 3; SIM-CoT, Coconut/args/gsm_simcot.yaml: 2 and 5."""
    source = "as published for GSM8K" + (" with SIM-CoT" if family.decoder else "")
    c = choices.choose("latents_per_step", latents_per_step, 2, source)
    k = choices.choose("max_stage", max_stage, 5 if family.decoder else 3, source)
    choices.made["latents"] = (c * k, "latents_per_step x max_stage")
    return {"name": "coconut", "latents_per_step": c, "max_stage": k}


def _lotus(found: Account, choices: Choices, latents_per_step: int | None, max_stage: int | None) -> dict[str, Any]:
    """c and K. yingfan-bot/lotus, args/gsm8k_lotus_*.yaml: 13 for GPT-2, 25 for Llama, and 6."""
    published = 13 if found.base.config.model_type == "gpt2" else 25
    c = choices.choose("latents_per_step", latents_per_step, published, "as published for GSM8K")
    k = choices.choose("max_stage", max_stage, 6, "as published for GSM8K")
    choices.made["latents"] = (c * k, "latents_per_step x max_stage")
    return {"name": "lotus", "latents_per_step": c, "max_stage": k}


def _pccot(found: Account, choices: Choices, latents: int | None) -> dict[str, Any]:
    """whyNLP/PCCoT, run_ccot.sh.template: 24 latents in 3 iterations."""
    return {
        "name": "codi",
        "latents": choices.choose("latents", latents, 24, "as published"),
        "iterations": choices.choose("iterations", None, 3, "as published"),
        "projection": bool(found.projection),
        **found.projection,
        "scale": "batch",
        "compare_embeddings": False,
        "template": {"question": "{question}", "step": "{step}", "answer": "The answer is:{answer}"},
        "separator": "",
    }


_RELEASED: dict[str, dict[str, Any]] = {
    "coconut": {"surplus": "merge", "missing": "visible", "normalisation": "sequence"},
    "codi": {"surplus": "merge", "missing": "nothing", "normalisation": "group"},
}
"""How the released SIM-CoT assigns steps to thoughts; used in further training and in scoring decoded steps."""
