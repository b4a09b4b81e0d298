"""Thoughts of another model in the base model's prompt: the common part of SoftCoT and SemCoT's generator.

The other model reads its own prompt. Its states at the end of it, projected to the base model's width by a linear layer,
fill the slots in the base model's prompt. Each paper's file says what the other model reads and how it trains.

Shapes: A width of the assistant, D of the base model.
"""

from __future__ import annotations

from dataclasses import field
from datetime import date
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from unspoken.core.auxiliary.assistant import ASSISTANT_PROMPT, Assistant, AssistantPrompt, Assisted
from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import labelled_cross_entropy_sum
from unspoken.core.rows.attachment import Attachment
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.row import Row, unlabelled
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
    without_thinking,
)
from unspoken.core.text.example import Example
from unspoken.core.text.prompts import TEXTS, SoftTexts, texts_of
from unspoken.errors import ConfigError, DataError
from unspoken.methods.base import Counts, LossReport, Method, Part, thoughts_asked


@config_class
class SoftPromptConfig:
    """Settings that every `SoftPrompt` has."""

    name: str
    assistant: BackboneConfig  # any causal LM, of any family; with `lora` it trains by adapters
    latents: int  # in training and, unless asked otherwise, at inference
    latents_per_step: int = 1  # size of a thought group, where `sim_cot` supervises them
    texts: Annotated[SoftTexts, BeforeValidator(texts_of)] = field(default_factory=lambda: TEXTS["math"])  # or a name
    slots: SlotMarkers | None = None  # of the base model's prompt; see the method
    today: str = "2024-07-26"  # date for chat templates; the one that Llama 3.1's template writes by default
    template: dict[str, Any] = field(default_factory=without_thinking)  # further variables of the base's template
    assistant_template: dict[str, Any] = field(default_factory=without_thinking)  # the same for the assistant's template

    def __post_init__(self) -> None:
        check_variables(self.template, "template")
        check_variables(self.assistant_template, "assistant_template")
        if self.latents < 1:
            raise ConfigError(f"latents must be at least 1, got {self.latents}; for none use 'cot'")
        if self.latents_per_step < 1:
            raise ConfigError(f"latents_per_step must be at least 1, got {self.latents_per_step}")
        try:
            date.fromisoformat(self.today)
        except ValueError:
            raise ConfigError(f"today must be a date as YYYY-MM-DD, got {self.today!r}") from None


class SoftPrompt(Method):
    """A method whose latents are made by another model before the base model runs.

    Attributes:
        reader: the other model's name in messages.
        reads_ahead: how many of the used states come before the slots of its prompt.
        hold: the token that fills these slots.
    """

    config: Any
    reader: ClassVar[str] = "assistant"
    reads_ahead: ClassVar[int] = 0
    hold: int

    def __init__(self, config: SoftPromptConfig, backbone: Backbone, assistant: Assistant, slots: SlotMarkers) -> None:
        super().__init__(config, backbone)
        self.latents_per_group = config.latents_per_step
        self.assistant = assistant
        self.projection = nn.Linear(assistant.width, backbone.width)  # fp32, whatever the models' types are
        self.slots = slots
        self._base_hold = placeholder_id(backbone, slots)
        self._today = date.fromisoformat(config.today)

    @classmethod
    def most_latents(cls, config: SoftPromptConfig) -> int:
        """The same number in every row."""
        return config.latents

    def train(self, mode: bool = True) -> Self:
        """Dropout stays off in a frozen base model."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    @property
    def frozen(self) -> bool:
        """Whether the base model is frozen."""
        return not any(p.requires_grad for p in self.backbone.parameters())

    def parts(self) -> dict[str, Part]:
        """The other model, and the projection of its states."""
        return {"assistant": Part(module=self.assistant, lm=self.assistant), "projection": Part(module=self.projection)}

    @property
    def ends_in_header(self) -> bool:
        """Whether the prompt ends with the header of the assistant's turn."""
        return True

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """The chat up to the answer, with slots in it, and the other model's prompt.

        Raises:
            ConfigError: a negative number of latents.
            DataError: the question contains a special token, or is too long for the other model.
        """
        latents = thoughts_asked(latents, self.config.latents)
        refuse_special(self.backbone, question, (self._base_hold,), name)
        asked = self.config.texts.prompt(question, latents, self.slots.begin + PLACEHOLDER + self.slots.end)
        chat = [("user", asked)]
        if latents == 0:
            return unlabelled(self.encoded(chat), name=name)
        before, behind = self.around(self.backbone, chat, prompt=self.ends_in_header)
        ids = (*before, *((self._base_hold,) * latents), *behind)
        extra = {ASSISTANT_PROMPT: self._assistant_prompt(question, latents, name)}
        return unlabelled(ids, start=len(before), latents=latents, name=name, extra=extra)

    def encoded(self, chat: list[Message]) -> tuple[int, ...]:
        """Token ids of a prompt without slots."""
        return encode(self.backbone, self.rendered(chat, prompt=self.ends_in_header), first=True)

    def rendered(self, chat: list[Message], *, prompt: bool) -> str:
        """A chat as the base model's template writes it."""
        return render(self.backbone, chat, prompt=prompt, today=self._today, variables=self.config.template)

    def around(self, backbone: Backbone, chat: list[Message], *, prompt: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids before and after the thoughts."""
        told = self.config.template if backbone is self.backbone else self.config.assistant_template
        return around(backbone, chat, prompt=prompt, today=self._today, variables=told)

    def _assistant_prompt(self, question: str, latents: int, name: str) -> AssistantPrompt:
        """The other model's instruction, the opening of its answer, and slots. It ends there, because later tokens cannot
        change their states."""
        other = self.assistant.backbone
        refuse_special(other, question, (self.hold,), name)
        asked, opening = self.config.texts.asked(question, latents)
        before, _ = self.around(other, [("user", asked), ("assistant", opening + PLACEHOLDER)], prompt=False)
        ids = (*before, *((self.hold,) * (latents - self.reads_ahead)))
        if other.context is not None and len(ids) > other.context:
            raise DataError(
                f"{name or 'a question'} is too long for the {self.reader}: {len(ids)} positions, its context is "
                f"{other.context}; shorten it, or take one with a longer context"
            )
        return AssistantPrompt(unlabelled(ids, start=len(before) - self.reads_ahead, latents=latents, name=name))

    def answered(self, example: Example, text: str, latents: int | None = None, **extra: Attachment) -> Row:
        """prompt | text | eos, with further attachments."""
        head = self.prompt(example.question, latents, name=example.id)
        ids = (*encode(self.backbone, text, first=False), self.backbone.tokenizer.eos_token_id)
        return head.followed_by(ids, steps_covered=len(example.steps), extra={**head.extra, **extra})

    def project(self, states: Tensor) -> Tensor:
        """States [..., A] of the other model -> latents [..., D], in fp32 also under autocast."""
        with torch.autocast(states.device.type, enabled=False):
            return self.projection(states.to(self.projection.weight.dtype))

    def source(self) -> PrecomputedThoughts:
        """The other model, projected."""
        return Assisted(self.assistant, self.project)

    def read(self, batch: Batch, source: PrecomputedThoughts, chains: int = 1) -> Trace:
        """Forward training rows with a number of sets of thoughts each."""
        # Only training reads the same prompt again.
        prefixes = self.backbone.prefixes if self.training and self.frozen else None
        return unroll(self.backbone, batch, source, chains=chains, frozen=self.frozen, prefixes=prefixes)

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """Token cross-entropy after the prompt, averaged over the labelled tokens in `counts`."""
        trace = self.read(batch, self.source())
        loss = labelled_cross_entropy_sum(trace, batch, self.backbone.logits)
        return LossReport(terms={"answer": loss / float(counts["answer"])}, trace=trace)
