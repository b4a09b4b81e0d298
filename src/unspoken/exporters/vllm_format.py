"""What a folder of `unspoken export --format vllm` says in its config.json, for the plugin inside vLLM (`unspoken/vllm`).

Kept apart and free of imports of the package, because the plugin reads it in an environment that has vLLM's dependencies
and perhaps none of ours.
"""

from __future__ import annotations

from typing import TypedDict

from unspoken.exporters.hf_generate import Layer

KEY = "unspoken"
"""The object in config.json, and in tokenizer_config.json."""

FORMAT = 1
"""Version of that object."""

PROJECTION = "unspoken_projection."
"""Prefix of the names of a projection's tensors, in `projection.safetensors` beside the model's own weights."""

PREFIX = "Unspoken"
"""Before the name of a family's class in `architectures`, so that a vLLM without the plugin refuses the folder."""

SOFT_PREFIX = "UnspokenSoft"
"""The same for the classes that think softly, which need no export: `--hf-overrides` names one."""

SOFT_USUAL = "unspoken_soft"
"""In `--hf-overrides`, the soft thinking of requests that say nothing."""

FAMILIES = (
    *("GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    *("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
)
"""Classes of transformers whose models can think inside vLLM."""


class LatentConfig(TypedDict):
    """How to think: question | before | latents | after | answer.

    `latents` are thought unless a request says otherwise, at most `most`; `group` of them stand for one step, behind which
    a rule may end the thoughts. `slot` is the token that vLLM is told in a latent's place. `markers` are the tokens' texts,
    of which `reserved` may not stand in a prompt.
    """

    format: int
    latents: int
    most: int
    group: int
    before: list[int]
    slot: int
    after: list[int]
    markers: dict[str, int]
    reserved: list[str]
    projection: list[Layer]


def latent_config(about: object, where: str) -> LatentConfig:
    """The object as the plugin needs it, checked.

    Args:
        about: what config.json has under `KEY`.
        where: the folder, for messages.

    Raises:
        ValueError: it is missing, of another version, or not whole.
    """
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        raise ValueError(
            f"config.json of {where} has no {KEY!r} object of format {FORMAT}, got {got!r}; export the run again with "
            "`unspoken export RUN DIR --format vllm`"
        )
    if missing := sorted(set(LatentConfig.__annotations__) - set(about)):
        raise ValueError(f"the {KEY!r} object in config.json of {where} lacks {missing}; export the run again")
    if not 0 <= about["latents"] <= about["most"]:
        raise ValueError(f"config.json of {where}: latents must be 0 to most={about['most']}, got {about['latents']}")
    return about  # pyright: ignore[reportReturnType] -- checked just now
