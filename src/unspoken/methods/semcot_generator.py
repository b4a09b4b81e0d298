"""SemCoT's reasoning generator: a small model is trained to emit a few latents that make a frozen one answer at once.

Paper: He et al., "SemCoT: Accelerating Chain-of-Thought Reasoning through Semantically-Aligned Implicit Tokens",
    arXiv 2510.24940. What is here is the generator without its alignment, and what is left of SemCoT at inference.
Idea: a small model reads the question and, in the same pass, n - 1 copies of a new token <thought>. Its states (after the
    final norm) at the last token of the question and at those copies, mapped by one linear layer to the large model's width,
    stand behind the question as n latents. The large model, frozen, is to answer from them without writing a step.
Row:    question | latent x n | (rest of the prompt) | answer eos
        labels on the answer and eos
        the generator's row:   question | <thought> x (n - 1), read from the question's last token on
Trains: the generator (of its embedding, the row of <thought>) and the projection; first the projection alone (`warmup`).
    Freezes: the base model; `backbone.lora` trains adapters, `assistant.lora` makes the generator train by adapters.
Reference code: YinhanHe123/SemCoT 27ca2ef (models/semcot.py, training/train_semcot.py, utils/utils.py), MIT.
Relations: `softcot` with an assistant that trains and writes nothing itself; `semcot` aligns its latents with the encoded
    reasoning; `sim_cot` wraps either.
Departures:
    - The end of the answer is trained. The released targets have no eos, so that every answer runs to the limit.
    - As many latents in evaluation as in training, unless asked otherwise (released: 1 and 5; with 1, what was learned for
      the other four, and <thought> itself, has no influence).
    - Prompts begin as the models expect: with bos, or in their chat template (released for Llama: neither; `plain=True`).
    - Rows of the generator's embedding other than that of <thought> stay as they are (released: weight decay shrinks them).
    - The last <thought>, whose state is read by nothing, is not forwarded.
    - Losses are means over a step, so that its size does not change them (released: sums over its rows).
    - The model kept is chosen on a validation split (released: on the test file), at the end of training only.

Shapes: A width of the generator, D of the base model.
"""

from __future__ import annotations

from dataclasses import field
from random import Random
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from unspoken.core.auxiliary.assistant import Assistant, Assisted, assistant_batch
from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import TRAINABLE_PART, Curriculum, Phase, Stage, StageSettings, single
from unspoken.core.rows.row import Row
from unspoken.core.text.chat import PLACEHOLDER, Message, SlotMarkers
from unspoken.core.text.example import Example
from unspoken.core.text.prompts import TEXTS, SoftTexts, texts_of
from unspoken.methods.soft_prompt import SoftPrompt, SoftPromptConfig

THOUGHT = "<thought>"
"""The released name of the added token."""

PROJECTION = "projection"
"""`Stage.trainable_part` while only the projection trains."""


@config_class
class SemCotGeneratorConfig(SoftPromptConfig):
    """Settings of `SemCotGenerator`; defaults are the released ones (main.py), the texts excepted."""

    name: Literal["semcot_generator"] = "semcot_generator"
    latents: int = 5  # n (train_max_contemp_tokens)
    warmup: StageSettings = field(
        default_factory=lambda: StageSettings(epochs=7.0)
    )  # of the projection alone, before both (cg_linear_*)
    texts: Annotated[SoftTexts, BeforeValidator(texts_of)] = field(default_factory=lambda: TEXTS["bare"])  # or a name
    plain: bool = False  # prompts without bos and chat template, as released: `texts` say all
    slots: SlotMarkers | None = None  # what stands around the latents in the base model's prompt; None = nothing


class SemCotGenerator(SoftPrompt):
    """Latents of a small trained model. See the module's card."""

    Config = SemCotGeneratorConfig
    config: SemCotGeneratorConfig
    reader: ClassVar[str] = "generator"
    reads_ahead: ClassVar[int] = 1  # the question's last token is read, and <thought> makes the rest

    def __init__(self, config: SemCotGeneratorConfig, backbone: Backbone) -> None:
        backbone.freeze()
        generator = Assistant(config.assistant, trains=True, tokens=(THOUGHT,))
        super().__init__(config, backbone, generator, config.slots or SlotMarkers())
        self.hold = self.assistant.token_ids[0]

    @property
    def uses_steps(self) -> bool:
        """False: it is trained on answers only."""
        return False

    def curriculum(self) -> Curriculum:
        """The projection alone, then all."""
        groups, warm = self.config.latents // self.latents_per_group, self.config.warmup
        whole = Stage(removed=None, groups=groups)
        if warm.epochs == 0:
            return single(whole)
        alone = Stage(removed=None, groups=groups, trainable_part=PROJECTION, lr=warm.lr, weight_decay=warm.weight_decay)
        last = Stage(index=1, removed=None, groups=groups, restart=True)
        return Curriculum((Phase(epochs=warm.epochs, stage=alone), Phase(epochs=0, stage=last)))

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """prompt | answer eos; see the card. A stage without groups has no latents."""
        latents = self.config.latents if stage.groups else 0
        answer = self.config.texts.written(example, steps=False)
        return self.answered(example, answer, latents, **{TRAINABLE_PART: HostValue(stage.trainable_part)})

    def encoded(self, chat: list[Message]) -> tuple[int, ...]:
        """Token ids of a prompt without slots."""
        return self.backbone.encode(_joined(chat)) if self.config.plain else super().encoded(chat)

    def around(self, backbone: Backbone, chat: list[Message], *, prompt: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids before and behind the place of the thoughts."""
        if not self.config.plain:
            return super().around(backbone, chat, prompt=prompt)
        before, behind = _joined(chat).split(PLACEHOLDER)
        return backbone.encode(before), backbone.encode(behind)

    def source(self) -> PrecomputedThoughts:
        """The generator, projected."""
        return _Generated(self.assistant, self.project)


def _joined(chat: list[Message]) -> str:
    return "".join(text for _, text in chat)


class _Generated(Assisted):
    """The generator's latents; rows that train only the projection get no gradient into the generator."""

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `PrecomputedThoughts.vectors`."""
        alone_B = np.array([part == PROJECTION for part in batch.values(TRAINABLE_PART)], dtype=bool)
        if (asked := assistant_batch(batch)) is None or not alone_B.any():
            return super().vectors(batch, chains)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone_B.all()):
            states = self.assistant.states(asked)
        alone = torch.from_numpy(alone_B).to(states.device)[:, None, None]
        return self.project(torch.where(alone, states.detach(), states))
