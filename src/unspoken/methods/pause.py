"""Pause tokens: the model is fed a few learned tokens behind the question before it must answer. Time, but no thoughts.

Paper: Goyal et al., "Think before you speak: Training Language Models With Pause Tokens", arXiv 2310.02226 (of its variants
    the one that finetunes a standard model with pauses: StdPT_PauseFT; not the pretraining with pauses, which it finds to be
    where most of the gain comes from); as a baseline for latents: Hao et al., arXiv 2412.06769, section 4 and table 1.
Idea: every pause is one more position in which each layer can work before the first token of the answer is chosen.
    All of them hold the same learned vector, whatever the question, so nothing is passed on but through attention.
    What the model says at the pauses is ignored, in training and at inference.
Row:    question | pause x M | ### answer eos                    (as in Coconut's table 1)
        question | pause x M | step 1 | ... | step N | ### answer eos        (steps=true)
        labels behind the last pause, whose state predicts the first of them; pauses are never predicted
Trains: the base model and the pause's row; or that row alone (`trains="pauses"`). Freezes: then, the base model.
Reference code: none was released. facebookresearch/coconut 27273cb has no pause mode either; the row is from the papers.
Relations: `cot` with `steps=false` is this without pauses. `coconut` with `thoughts="pause"` is the same token under
    Coconut's curriculum and between its markers ("pause as thought"). `sim_cot` can wrap it, as a control: a decoder that
    sees nothing but pauses sees the same for every question, and can learn no more than what steps have in common.
Departures:
    - The pause's row starts as that of "<<", as Coconut's markers do (the papers do not say how theirs does).
    - `trains="pauses"` trains that row alone, which neither paper does.
"""

from __future__ import annotations

from dataclasses import field
from random import Random
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.markers import LATENT, add_tokens, refuse_tokens
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import Row, unlabelled
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, Written, pieces, question_ids, whole
from unspoken.errors import ConfigError
from unspoken.methods.base import Method, thoughts_asked


@config_class
class PauseConfig:
    """Settings of `Pause`."""

    name: Literal["pause"] = "pause"
    pauses: int = 6  # M; as many as Coconut has latents on GSM8K (arXiv 2412.06769, section 4: 3 stages of 2)
    steps: bool = False  # True: the chain is written behind the pauses; False: the answer at once
    trains: Literal["all", "pauses"] = "all"  # pauses: their row alone
    marker_init: str = "<<"  # the pause's row starts as this text's row
    template: Template = field(default_factory=Template)

    def __post_init__(self) -> None:
        if self.pauses < 1:
            raise ConfigError(f"pauses must be at least 1, got {self.pauses}; for none use 'cot'")


class Pause(Method):
    """Pause tokens. See the module's card."""

    Config = PauseConfig
    config: PauseConfig
    latents_per_group = 1

    def __init__(self, config: PauseConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        (self.pause,) = add_tokens(backbone, (LATENT,), config.marker_init)
        if config.trains == "pauses":
            backbone.train_rows((self.pause,))

    @classmethod
    def most_latents(cls, config: PauseConfig) -> int:
        """The number of pauses, which fill slots."""
        return config.pauses

    def new_tokens(self) -> tuple[int, ...]:
        """The pause."""
        return (self.pause,)

    @property
    def trains_base(self) -> bool:
        """False if only the pause's row trains."""
        return self.config.trains == "all"

    def curriculum(self) -> Curriculum:
        """One stage: all pauses, and all steps or none."""
        return single(Stage(removed=0 if self.config.steps else None, groups=self.config.pauses))

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """question | pauses | steps, if they are written | answer, with labels after the pauses."""
        parts = pieces(self.backbone, self.config.template, example)
        written = parts.steps if stage.removed is not None else ()
        text = (*sum(written, ()), *parts.answer)
        refuse_tokens(text, {self.pause: LATENT}, example.id)
        head = self.prompt(example.question, name=example.id)
        return head.followed_by(text, steps_covered=len(example.steps) - len(written))

    @property
    def uses_steps(self) -> bool:
        """Whether steps are written."""
        return self.config.steps

    def written(self, example: Example) -> Written:
        """Every step, then the answer."""
        return whole(self.backbone, self.config.template, example)

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """question | pauses; as many as in training, or `latents` of them.

        Raises:
            ConfigError: a negative number of pauses.
            DataError: the question contains a pause.
        """
        pauses = thoughts_asked(latents, self.config.pauses, "pauses")
        ids = refuse_tokens(question_ids(self.backbone, self.config.template, question), {self.pause: LATENT}, name)
        return unlabelled((*ids, *((self.pause,) * pauses)), start=len(ids), latents=pauses, name=name)
