"""Import SoftCoT's `projection.bin`, the only file that its authors' code saves.

    weight     [width of the base model, width of the assistant]
    bias       [width of the base model]
    embedding  [sets of thoughts, width of the assistant]      SoftCoT++ only: what its slots hold

xuyige/SoftCoT fa7f537, `save_pretrained`; bf16, kept in fp32. The file does not contain the two models, the number of
slots, the task or the prompts; the models must be given, and their sizes must fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from unspoken.core.lm.loading import resolve
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import BackboneError, CheckpointError, ConfigError
from unspoken.importers.base import BaseOutline
from unspoken.importers.files import Weights
from unspoken.importers.rules import KeyRule, Mapped, rename, require
from unspoken.importers.settings import Choices
from unspoken.methods.base import Method, parts_of

_KEYS = {"weight", "bias", "embedding"}
_BESIDE = ("assistant_model.bin", "base_model.bin")
"""Files that the released code also saves if it has trained the models themselves."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A projection that fits.

    Attributes:
        title: what it is.
        base: the base model.
        assistant: the path of the other one.
        mapped: its tensors under our names.
        chains: sets of thoughts; 0 = it is SoftCoT's, which has one.
    """

    title: str
    base: BaseOutline
    assistant: str
    mapped: Mapped
    chains: int

    def settings(self, choices: Choices, latents: int | None, texts: str | None, dtype: str) -> dict[str, Any]:
        """The method's config as plain values.

        Args:
            choices: remembers what was chosen.
            latents: slots; None = 32, as in the released training.
            texts: a name of `core.text.prompts.TEXTS`, or a JSON file with fields of `SoftTexts`; None = "math".
            dtype: of the assistant.
        """
        # Only its scripts for Qwen3 end the prompt with the header of the answer.
        header = self.base.config.get_text_config().model_type == "qwen3"
        choices.choose("generation_header", None, header, "as released for this family")
        soft = {
            "name": "softcot",
            "assistant": {"path": self.assistant, "dtype": dtype},
            "latents": choices.choose("latents", latents, 32, "as the README trains; its evaluation takes 4"),
            "texts": choices.choose("texts", texts, "math", "ours"),
            "generation_header": header,
        }
        return {"name": "softcot_pp", "softcot": soft, "chains": self.chains} if self.chains else soft

    def speaking(self) -> SamplingParams:
        """evaluate_softcot.py: sampled, top_p forced to 1; top_k is the model's own, 50 where it says nothing."""
        top_k = int(getattr(self.base.generation, "top_k", None) or 50)
        return SamplingParams(temperature=1.0, top_k=top_k, max_new_tokens=1024)

    def fill(self, method: Method) -> None:
        """Put its tensors into the method's parts: "projection"; "initial", what slots hold."""
        for name, part in parts_of(method).items():
            if part.lm is None:
                own = {
                    key.removeprefix(f"{name}."): t for key, t in self.mapped.tensors.items() if key.startswith(f"{name}.")
                }
                part.module.load_state_dict(own)


def is_projection(keys: Iterable[str]) -> bool:
    """Whether a checkpoint is one of these."""
    keys = set(keys)
    return ("weight" in keys and keys <= _KEYS) or {"weight", "bias"} <= keys


def account_projection(weights: Weights, base: BaseOutline, assistant: str | None) -> Projection:
    """Account for all of a projection.

    Raises:
        ConfigError: nobody names the assistant.
        CheckpointError: tensors are missing, unknown, or do not have the two models' sizes; or the models were trained too,
            in a form that cannot be read.
    """
    several = "embedding" in weights.tensors
    title = "SoftCoT++'s projection" if several else "SoftCoT's projection"
    if assistant is None:
        raise ConfigError(f"{weights.path} is {title}: name the assistant it was trained with, --assistant")
    for file in weights.files:
        if trained := [name for name in _BESIDE if (file.parent / name).is_file()]:
            raise CheckpointError(
                f"{file.parent} has {trained[0]} beside the projection: that model was trained too, and how its adapters "
                "were made is not in the file; only a projection between models that were not trained can be imported"
            )
    targets = {"weight": "projection.weight", "bias": "projection.bias", "embedding": "initial.weight"}
    mapped = rename([KeyRule(pattern=key, target=target) for key, target in targets.items()], weights.tensors)
    wide, narrow = base.architecture().width, _width(assistant)
    wanted: dict[str, tuple[int, ...]] = {"projection.weight": (wide, narrow), "projection.bias": (wide,)}
    chains = int(weights.tensors["embedding"].shape[0]) if several else 0
    if several:
        wanted["initial.weight"] = (chains, narrow)
    where = f"{weights.path} does not fit --base {base.path} ({wide} wide) and --assistant {assistant} ({narrow} wide)"
    require(mapped, wanted, where)
    return Projection(title=title, base=base, assistant=assistant, mapped=mapped, chains=chains)


def _width(path: str) -> int:
    """Of a model's embedding."""
    try:
        return int(AutoConfig.from_pretrained(resolve(path), trust_remote_code=False).get_text_config().hidden_size)
    except (OSError, ValueError, AttributeError) as error:
        raise BackboneError(f"cannot read the config of {path}: {str(error).splitlines()[0]}; check --assistant") from error
