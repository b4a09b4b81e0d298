"""Halved: the smallest method that thinks, to copy and change. Each latent is half of the hidden state before it.

    PYTHONPATH=examples unspoken train tiny/no_cot method='{"name": "smallest_method:Halved"}' --out runs/halved

Paper: none; it is an example.
Idea: Coconut's recurrence without its curriculum: all latents from the start, no written step, and the state scaled.
Row:    question | bot | latent x K | eot | ### answer eos
        labels behind eot, whose state predicts the answer's first token
Trains: the base model, the three marker rows included. Freezes: nothing.
Reference code: none.
Relations: with `factor=1` it is `coconut` with `curriculum="none"`.
Departures: none.
"""

from __future__ import annotations

from dataclasses import field
from random import Random

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.markers import add_markers, refuse_markers
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, answer_ids, question_ids
from unspoken.methods.base import Method, thoughts_asked


@config_class
class HalvedConfig:
    """Settings of `Halved`."""

    name: str = "smallest_method:Halved"  # where unspoken finds the class; a run keeps it
    latents: int = 4  # K; latent k stands for step k
    factor: float = 0.5  # of the hidden state that is fed back
    template: Template = field(default_factory=Template)


class Halved(Method):
    """The smallest method that thinks. See the module's card."""

    Config = HalvedConfig
    config: HalvedConfig
    latents_per_group = 1

    def __init__(self, config: HalvedConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.markers = add_markers(backbone, "<<")  # bot, eot and the placeholder in a latent's slot

    @classmethod
    def most_latents(cls, config: HalvedConfig) -> int:
        """The same number in every row."""
        return config.latents

    def new_tokens(self) -> tuple[int, ...]:
        """The three markers, so that their rows train under LoRA too."""
        return self.markers.ids

    def curriculum(self) -> Curriculum:
        """One stage: all latents, no written step."""
        return single(Stage(removed=None, groups=self.config.latents))

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """question | bot | latents | eot."""
        latents = thoughts_asked(latents, self.config.latents)
        m = self.markers
        asked = refuse_markers(question_ids(self.backbone, self.config.template, question), m, name)
        ids = (*asked, m.bot, *(m.latent,) * latents, m.eot)
        return Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(asked) + 1, latents=latents, name=name)

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The prompt with the answer behind it, which has the labels."""
        head = self.prompt(example.question, name=example.id)
        text = answer_ids(self.backbone, self.config.template, example.answer)
        return Row(
            ids=(*head.ids, *text),
            labels=(*head.labels, *text),
            start=head.start,
            latents=head.latents,
            steps_covered=min(len(example.steps), self.config.latents),  # tells `sim_cot` what to supervise
            name=example.id,
        )

    def source(self) -> Recurrence:
        """The hidden state before the slot, scaled."""
        return Recurrence(lambda state: self.config.factor * state)
