"""Explicit chain-of-thought by supervised fine-tuning (SFT-CoT), and its opposite, answering at once (No-CoT).

Paper: the two outer baselines of Coconut (arXiv 2412.06769, section 4) and of SIM-CoT (arXiv 2509.20317, section 4).
Idea: a plain language model, trained on question -> steps -> answer, or on question -> answer.
    No latents. Every latent method is compared with what an explicit chain gains, and what it costs in tokens.
Row:    question | step 1 | ... | step N | ### answer eos        (SFT-CoT)
        question | ### answer eos                                (No-CoT)
        labels on everything after the question
Trains: the base model. Freezes: nothing (LoRA: all but the adapters).
Reference code: facebookresearch/coconut 27273cb (configs `cot`, `no_cot`; dataset.py).
Relations: the starting point of `coconut` and `sim_cot`.
Departures: none in the loss. Answers are decoded greedily from the model alone; the released baselines use the
    checkpoint's generation config, which samples for Llama 3.
"""

from __future__ import annotations

from dataclasses import field
from random import Random
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import Row, unlabelled
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, Written, pieces, question_ids, whole
from unspoken.errors import ConfigError
from unspoken.methods.base import Method


@config_class
class CotConfig:
    """Settings of `Cot`."""

    name: Literal["cot"] = "cot"
    steps: bool = True  # True: SFT-CoT; False: No-CoT
    template: Template = field(default_factory=Template)


class Cot(Method):
    """SFT-CoT or No-CoT. See the module's card."""

    Config = CotConfig
    config: CotConfig

    def curriculum(self) -> Curriculum:
        """One stage: all steps as text, or none."""
        return single(Stage(removed=0 if self.config.steps else None))

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """question | steps | answer, with labels after the question."""
        parts = pieces(self.backbone, self.config.template, example)
        steps = parts.steps if stage.removed is not None else ()
        text = (*sum(steps, ()), *parts.answer)
        return unlabelled(parts.question, name=example.id).followed_by(text, start=len(parts.question) + len(text))

    @property
    def uses_steps(self) -> bool:
        """Whether steps are written."""
        return self.config.steps

    def written(self, example: Example) -> Written:
        """Every step, then the answer."""
        return whole(self.backbone, self.config.template, example)

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """The question alone.

        Raises:
            ConfigError: latents were asked for.
        """
        if latents:
            raise ConfigError(f"method 'cot' thinks in words or not at all: it takes 0 latents, got {latents}")
        return unlabelled(question_ids(self.backbone, self.config.template, question), name=name)
