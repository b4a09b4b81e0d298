"""Quick models and problems for the inspector's tests: random weights, nothing trained."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from contract.cases import EXAMPLES
from support import backbones

from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.text.example import Example
from unspoken.methods import make_method
from unspoken.runs.model import Model
from unspoken.tasks.base import Score, Split, fingerprint_examples
from unspoken.tasks.scoring.answers import score_number

SIM_COT: dict[str, Any] = {
    "name": "sim_cot",
    "inner": {"name": "coconut", "latents_per_step": 1, "max_stage": 3, "curriculum": "progressive", "first_stage": 0},
    "max_step_tokens": 8,
}


class Problems:
    """A task that has the contract's examples in every split."""

    name: ClassVar[str] = "problems"

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}

    def examples(self, split: Split) -> list[Example]:
        """All of them."""
        return list(EXAMPLES)

    def score(self, example: Example, text: str) -> Score:
        """By number."""
        return score_number(example, text)

    def fingerprint(self, split: Split) -> str:
        """Of the examples."""
        return fingerprint_examples(EXAMPLES)


def model(method: Any = None, family: str = "llama", **more: Any) -> Model:
    """A random model of a method."""
    made: Any = make_method(method or SIM_COT, backbones.backbone(family, **more))
    return Model(made.eval(), SamplingParams(max_new_tokens=6))


def collapsed(share: float = 0.0) -> Model:
    """A Coconut model whose states are all nearly one vector: its last norm lets through `share` of what it is given."""
    it = model({"name": "coconut", "latents_per_step": 4, "max_stage": 3, "first_stage": 0}, "gpt2")
    norm = it.method.backbone.lm.transformer.ln_f
    with torch.no_grad():
        norm.weight.fill_(share)
        norm.bias.normal_()
    return it
