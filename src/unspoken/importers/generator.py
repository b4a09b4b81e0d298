"""SemCoT's released generators: a small model without head, and the projection into the frozen model's width.

    model.*              the small model, <thought> as the last row of its embedding
    projection_layer.*   [width of the frozen model, width of the small one]

YinhanHe123/SemCoT 27ca2ef, as released on the hub; without tokenizer, encoder and frozen model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unspoken.errors import CheckpointError, ConfigError
from unspoken.importers.base import Architecture, BaseOutline
from unspoken.importers.families import BUFFERS, LM, PROJECTION
from unspoken.importers.files import Weights
from unspoken.importers.rules import KeyRule, Mapped, rename, require
from unspoken.methods.semcot_generator import THOUGHT

TITLE = "SemCoT's generator"

_PROMPTS = {
    "qwen2": ("<|im_start|>user\nQuestion: ", "<|im_end|>\n<|im_start|>assistant\nAnswer: "),
    "mistral": ("<s>[INST] Question: ", " Answer: [/INST]"),
}
_OTHER = ("Question: ", "\n Answer:")
"""Text before the question and before the answer (utils/utils.py, get_prompts), by the frozen model's family."""


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A matched generator.

    Attributes:
        base, small: the frozen model, and the model that the generator was made from.
        architecture: the generator's, with the row of <thought>.
        mapped: its tensors under our names.
    """

    base: BaseOutline
    small: BaseOutline
    architecture: Architecture
    mapped: Mapped

    def lm(self) -> dict[str, Tensor]:
        """The small model's tensors. A separate output head is not in the file and not used; it is set to zero."""
        tensors = {name.removeprefix(LM): t for name, t in self.mapped.tensors.items() if name.startswith(LM)}
        for name in _heads(self.architecture):
            tensors[name] = torch.zeros(self.architecture.shapes[name])
        return tensors

    def projection(self) -> dict[str, Tensor]:
        """The projection's tensors."""
        found = self.mapped.tensors
        return {name.removeprefix(PROJECTION): t for name, t in found.items() if name.startswith(PROJECTION)}

    def settings(self, latents: int) -> dict[str, Any]:
        """The method's config as plain values. The path of the small model is left empty."""
        start, end = _PROMPTS.get(self.base.config.get_text_config().model_type, _OTHER)
        texts = {"assistant": start + "{question}", "base": start + "{question}{thoughts}" + end, "answer": "{answer}"}
        assistant = {"path": ""}
        return {"name": "semcot_generator", "assistant": assistant, "latents": latents, "plain": True, "texts": texts}


def is_generator(keys: Iterable[str]) -> bool:
    """Whether a checkpoint is one of these."""
    return any(key.startswith("projection_layer.") for key in keys)


def account_generator(weights: Weights, base: BaseOutline, small: BaseOutline | None) -> Generator:
    """Match all tensors of a generator.

    Raises:
        ConfigError: the model that it was made from is not given.
        CheckpointError: tensors are missing, unknown, or do not have the shapes of those two models.
    """
    if small is None:
        raise ConfigError(
            f"{weights.path} is {TITLE}: give the frozen model as --base, and the small model that the generator was made "
            "from with --assistant (princeton-nlp/Sheared-LLaMA-1.3B for the released Llama ones)"
        )
    rows = small.words + 1
    model = small.architecture(rows)
    mapped = rename(_rules(model, weights.tensors), weights.tensors)
    table = mapped.tensors.get(LM + model.embedding)
    if table is not None and table.shape[-1] == model.width and table.shape[0] != rows:
        raise CheckpointError(
            f"{weights.path}: {mapped.name(LM + model.embedding)} has {table.shape[0]} rows, expected {rows} "
            f"({small.words} of {small.path} and 1 of {THOUGHT}); check --assistant, or take another copy of the file"
        )
    width = base.architecture().width
    wanted = {LM + name: shape for name, shape in model.shapes.items() if name not in _heads(model)}
    wanted |= {PROJECTION + "weight": (width, model.width), PROJECTION + "bias": (width,)}
    where = f"{weights.path} does not fit {TITLE} made from --assistant {small.path} for --base {base.path}"
    require(mapped, wanted, where)
    return Generator(base=base, small=small, architecture=model, mapped=mapped)


def _rules(model: Architecture, tensors: Mapping[str, Tensor]) -> list[KeyRule]:
    return [
        *(KeyRule(pattern=f"model.{pattern}", reason=reason) for pattern, reason in BUFFERS),
        KeyRule(pattern="projection_layer.*", target=PROJECTION + "*"),
        KeyRule(pattern="model.*", target=f"{LM}{model.body}*"),
    ]


def _heads(model: Architecture) -> list[str]:
    """Tensors of an untied output head."""
    if model.tied:
        return []
    part = model.head.rpartition(".")[0] + "."
    return [name for name in model.shapes if name.startswith(part)]
