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

from dataclasses import dataclass, field
from datetime import date
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from unspoken.core.auxiliary.assistant import ASSISTANT_PROMPT, Assistant, AssistantPrompt, Assisted, assistant_batch
from unspoken.core.config import STRICT
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.losses import labelled_cross_entropy_sum
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import TRAINABLE_PART, Curriculum, Phase, Stage, StageSettings, single
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.chat import (
    PLACEHOLDER,
    Message,
    SlotMarkers,
    around,
    check_variables,
    encode,
    placeholder_id,
    refuse_special,
    render,
    slot_markers_for,
    without_thinking,
)
from unspoken.core.text.example import Example
from unspoken.core.text.prompts import TEXTS, SoftTexts, texts_of
from unspoken.errors import ConfigError, DataError
from unspoken.methods.base import Counts, LossReport, Method, Part

THOUGHT = "<thought>"
"""The released name of the added token."""

PROJECTION = "projection"
"""The `Stage.trainable_part` while the generator itself waits."""


@dataclass(frozen=True, kw_only=True)
class SemCotGeneratorConfig:
    """Settings of `SemCotGenerator`; defaults are the released ones (main.py), the texts excepted."""

    __pydantic_config__ = STRICT

    name: Literal["semcot_generator"] = "semcot_generator"
    assistant: BackboneConfig  # the small model, of any family; with `lora` it trains by adapters
    latents: int = 5  # n; in training and, unless asked otherwise, at inference (train_max_contemp_tokens)
    latents_per_step: int = 1  # size of a thought group, where `sim_cot` supervises them
    warmup: StageSettings = field(
        default_factory=lambda: StageSettings(epochs=7.0)
    )  # of the projection alone, before both (cg_linear_*)
    texts: Annotated[SoftTexts, BeforeValidator(texts_of)] = field(default_factory=lambda: TEXTS["bare"])  # or a name
    plain: bool = False  # prompts without bos and chat template, as released: `texts` say all
    slots: SlotMarkers | None = None  # what stands around the latents in the base model's prompt; None = nothing
    today: str = "2024-07-26"  # what chat templates are told
    template: dict[str, Any] = field(
        default_factory=without_thinking
    )  # what the base's chat template is told; Qwen3: thinking
    assistant_template: dict[str, Any] = field(default_factory=without_thinking)  # the same for the assistant's

    def __post_init__(self) -> None:
        check_variables(self.template, "template")
        check_variables(self.assistant_template, "assistant_template")
        if self.latents < 1:
            raise ConfigError(f"latents must be at least 1, got {self.latents}; for none use 'cot' with steps=false")
        if self.latents_per_step < 1:
            raise ConfigError(f"latents_per_step must be at least 1, got {self.latents_per_step}")
        try:
            date.fromisoformat(self.today)
        except ValueError:
            raise ConfigError(f"today must be a date as YYYY-MM-DD, got {self.today!r}") from None


class SemCotGenerator(Method):
    """Latents of a small trained model. See the module's card."""

    Config = SemCotGeneratorConfig
    config: SemCotGeneratorConfig

    def __init__(self, config: SemCotGeneratorConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.latents_per_group = config.latents_per_step
        backbone.freeze()
        self.assistant = Assistant(config.assistant, trains=True, tokens=(THOUGHT,))
        self.projection = nn.Linear(self.assistant.width, backbone.width)  # fp32, whatever the models' types are
        self.slots = slot_markers_for(backbone, config.slots or SlotMarkers())
        self._base_hold = placeholder_id(backbone, self.slots)
        self._today = date.fromisoformat(config.today)

    @classmethod
    def most_latents(cls, config: SemCotGeneratorConfig) -> int:
        """As many in every row."""
        return config.latents

    def train(self, mode: bool = True) -> SemCotGenerator:
        """A frozen base model never drops out."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    @property
    def frozen(self) -> bool:
        """Nothing of the base model trains."""
        return not any(p.requires_grad for p in self.backbone.parameters())

    @property
    def uses_steps(self) -> bool:
        """It learns answers alone."""
        return False

    def parts(self) -> dict[str, Part]:
        """The generator, and the projection of its states."""
        return {
            "assistant": Part(module=self.assistant, lm=self.assistant),
            "projection": Part(module=self.projection),
        }

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
        head = self.prompt(example.question, latents, name=example.id)
        written = self.config.texts.written(example, steps=False)
        text = (*encode(self.backbone, written, first=False), self.backbone.tokenizer.eos_token_id)
        return Row(
            ids=(*head.ids, *text),
            labels=(*head.labels, *text),
            start=head.start,
            latents=head.latents,
            steps_covered=len(example.steps),
            name=example.id,
            extra={**head.extra, TRAINABLE_PART: HostValue(stage.trainable_part)},
        )

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """The chat up to the answer, with slots in it; and what the generator reads.

        Raises:
            ConfigError: a negative number of latents.
            DataError: the question spells a special token, or is too long for the generator.
        """
        c = self.config
        latents = c.latents if latents is None else latents
        if latents < 0:
            raise ConfigError(f"the number of latents must be 0 or more, got {latents}")
        refuse_special(self.backbone, question, (self._base_hold,), name)
        asked = c.texts.prompt(question, latents, self.slots.begin + PLACEHOLDER + self.slots.end)
        chat = [("user", asked)]
        if latents == 0:
            if c.plain:
                ids = self.backbone.encode(asked)
            else:
                text = render(self.backbone, chat, prompt=True, today=self._today, variables=c.template)
                ids = encode(self.backbone, text, first=True)
            return Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(ids), latents=0, name=name)
        before, behind = self._around(self.backbone, chat, prompt=True)
        ids = (*before, *((self._base_hold,) * latents), *behind)
        return Row(
            ids=ids,
            labels=(IGNORE,) * len(ids),
            start=len(before),
            latents=latents,
            name=name,
            extra={ASSISTANT_PROMPT: self._assistant_prompt(question, latents, name)},
        )

    def _around(self, backbone: Backbone, chat: list[Message], *, prompt: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids before and behind the place of the thoughts."""
        if not self.config.plain:
            told = self.config.template if backbone is self.backbone else self.config.assistant_template
            return around(backbone, chat, prompt=prompt, today=self._today, variables=told)
        before, behind = "".join(text for _, text in chat).split(PLACEHOLDER)
        return backbone.encode(before), backbone.encode(behind)

    def _assistant_prompt(self, question: str, latents: int, name: str) -> AssistantPrompt:
        """The question and <thought>; what is read begins at the question's last token."""
        other = self.assistant.backbone
        refuse_special(other, question, self.assistant.token_ids, name)
        asked, opening = self.config.texts.asked(question, latents)
        before, _ = self._around(other, [("user", asked), ("assistant", opening + PLACEHOLDER)], prompt=False)
        ids = (*before, *(self.assistant.token_ids * (latents - 1)))
        if other.context is not None and len(ids) > other.context:
            raise DataError(
                f"{name or 'a question'} is too long for the generator: {len(ids)} positions, its context is "
                f"{other.context}; shorten it, or take a generator with a longer context"
            )
        row = Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(before) - 1, latents=latents, name=name)
        return AssistantPrompt(row)

    def project(self, states: Tensor) -> Tensor:
        """States [..., A] of the generator -> latents [..., D], in fp32 also under autocast."""
        with torch.autocast(states.device.type, enabled=False):
            return self.projection(states.to(self.projection.weight.dtype))

    def source(self) -> PrecomputedThoughts:
        """The generator, projected."""
        return _Generated(self.assistant, self.project)

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """Token cross-entropy of the answer, mean over the labelled tokens that `counts` speaks of."""
        # Only a run that trains comes back to a prompt.
        prefixes = self.backbone.prefixes if self.training and self.frozen else None
        trace = unroll(self.backbone, batch, self.source(), frozen=self.frozen, prefixes=prefixes)
        loss = labelled_cross_entropy_sum(trace, batch, self.backbone.logits)
        return LossReport(terms={"answer": loss / float(counts["answer"])}, trace=trace)


class _Generated(Assisted):
    """The generator's latents; gradient stops before the generator in rows of which the projection alone learns."""

    def vectors(self, batch: Batch, chains: int = 1) -> Tensor:
        """See `Prompted.vectors`."""
        alone_B = np.array([part == PROJECTION for part in batch.values(TRAINABLE_PART)], dtype=bool)
        if (asked := assistant_batch(batch)) is None or not alone_B.any():
            return super().vectors(batch, chains)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone_B.all()):
            states = self.assistant.states(asked)
        alone = torch.from_numpy(alone_B).to(states.device)[:, None, None]
        return self.project(torch.where(alone, states.detach(), states))
