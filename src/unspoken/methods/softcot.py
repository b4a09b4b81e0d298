"""SoftCoT: a small frozen assistant reads the question, and its states, projected, stand as soft thoughts in the prompt.

Paper: Xu et al., "SoftCoT: Soft Chain-of-Thought for Efficient Reasoning with LLMs", arXiv 2502.12134, section 3.
Idea: a large model keeps what it knows if it is not trained. An assistant is asked for hints; at N placeholder tokens of
    its answer its last states (after the final norm) are taken, one linear layer maps them to the large model's width, and
    there they replace the embeddings of N placeholders in its prompt. Then it reasons in words, as it always does.
Row:    instruction, question, hint: | begin | latent x N | end | (rest of the prompt) | step 1 ... | answer eos
        labels behind the prompt, the chat template's generation header included in the prompt
        the assistant's row:   instruction, question | opening | slot x N
Trains: the projection. Freezes: base model and assistant; `backbone.lora`, `base_trains`, `assistant.lora` train those.
Reference code: xuyige/SoftCoT fa7f537 (llm_model.py, utils.py, train_softcot.py, evaluate_softcot.py). Its licence allows
    no reuse: this was written from the paper, from facts about the code, and from recorded tensors.
Relations: `softcot_pp` draws several sets of thoughts from it; `sim_cot` wraps it.
Departures:
    - The projection and its optimizer are fp32. The released code holds both in bf16, where an update of 2e-5 is lost on
      every weight above 2^-7: two thirds of them never move.
    - Prompts end with the generation header (released, Llama and Qwen2.5: the model has to write its own header, and is
      trained on it); `generation_header=False` is the released way, but for the line end that closes the user's turn of
      Qwen: it stands in the prompt, and is no target (released: it is).
    - The end of the answer is trained. The released code cuts off every row's last token; with Llama that is the end.
    - Slots are where the placeholder stands, whatever the tokenizer (released: counted from the end by fixed offsets).
    - As many slots in evaluation as in training, unless asked otherwise (released: 32 and 4).
    - Dates that chat templates write are pinned (released: today's, so that states change overnight).
    - The assistant runs once per prompt and not in every epoch, reads nothing behind its slots, and has no head run; what
      stands before the slots in a frozen base model is forwarded without gradient.
    - The steps are the data's, the answer line is no step of its own, and the wording of prompts is ours: `texts` takes any.

Shapes: A width of the assistant, D of the base model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from random import Random
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from unspoken.core.auxiliary.assistant import ASSISTANT_PROMPT, Assistant, AssistantPrompt, Assisted
from unspoken.core.config import STRICT
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import labelled_cross_entropy_sum
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.chat import (
    PLACEHOLDER,
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


@dataclass(frozen=True, kw_only=True)
class SoftCotConfig:
    """Settings of `SoftCot`; defaults are the published ones (README of xuyige/SoftCoT), the texts excepted."""

    __pydantic_config__ = STRICT

    name: Literal["softcot"] = "softcot"
    assistant: BackboneConfig  # any causal LM, of any family; with `lora` it trains
    latents: int = 32  # N; in training and, unless asked otherwise, at inference
    latents_per_step: int = 1  # size of a thought group, where `sim_cot` supervises them
    base_trains: bool = False  # all of its weights; `backbone.lora` trains adapters instead
    steps: bool = True  # write the steps; False: the answer at once
    texts: Annotated[SoftTexts, BeforeValidator(texts_of)] = field(default_factory=lambda: TEXTS["math"])  # or a name
    slots: SlotMarkers | None = None  # of the base model; None = its family's (core/text/chat.py)
    assistant_slots: SlotMarkers | None = None  # of the assistant; None = its family's; only `hold` is used
    generation_header: bool = True  # the prompt ends with it
    today: str = "2024-07-26"  # what chat templates are told; the date that Llama 3.1's writes by itself
    template: dict[str, Any] = field(
        default_factory=without_thinking
    )  # what the base's chat template is told; Qwen3: thinking
    assistant_template: dict[str, Any] = field(default_factory=without_thinking)  # the same for the assistant's

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


class SoftCot(Method):
    """Soft thoughts of an assistant. See the module's card."""

    Config = SoftCotConfig
    config: SoftCotConfig

    def __init__(self, config: SoftCotConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.latents_per_group = config.latents_per_step
        if not config.base_trains:
            backbone.freeze()
        self.assistant = Assistant(config.assistant)
        self.projection = nn.Linear(self.assistant.width, backbone.width)  # fp32, whatever the models' types are
        self.slots = slot_markers_for(backbone, config.slots)
        self._base_hold = placeholder_id(backbone, self.slots)
        self.hold = placeholder_id(
            self.assistant.backbone, slot_markers_for(self.assistant.backbone, config.assistant_slots)
        )
        self._today = date.fromisoformat(config.today)

    @classmethod
    def most_latents(cls, config: SoftCotConfig) -> int:
        """As many in every row."""
        return config.latents

    def train(self, mode: bool = True) -> SoftCot:
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
        """Whether steps are written."""
        return self.config.steps

    def parts(self) -> dict[str, Part]:
        """The assistant, and the projection of its states."""
        return {
            "assistant": Part(module=self.assistant, lm=self.assistant),
            "projection": Part(module=self.projection),
        }

    def curriculum(self) -> Curriculum:
        """One stage."""
        removed = 0 if self.config.steps else None
        return single(Stage(removed=removed, groups=self.config.latents // self.latents_per_group))

    def _header(self, question: str) -> str:
        """What stands between the user's turn and the model's answer."""
        chat = [("user", question)]
        how: Any = {"today": self._today, "variables": self.config.template}
        bare, whole = (render(self.backbone, chat, prompt=prompt, **how) for prompt in (False, True))
        return whole.removeprefix(bare)

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """prompt | what is written | eos; see the card."""
        head = self.prompt(example.question, name=example.id)
        written = self.config.texts.written(example, steps=stage.removed is not None)
        header = "" if self.config.generation_header else self._header(example.question)
        text = (*encode(self.backbone, header + written, first=False), self.backbone.tokenizer.eos_token_id)
        return Row(
            ids=(*head.ids, *text),
            labels=(*head.labels, *text),
            start=head.start,
            latents=head.latents,
            steps_covered=len(example.steps),
            name=example.id,
            extra=head.extra,
        )

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """The chat up to the answer, with slots in it; and what the assistant reads.

        Raises:
            ConfigError: a negative number of latents.
            DataError: the question spells a special token, or is too long for the assistant.
        """
        c = self.config
        latents = c.latents if latents is None else latents
        if latents < 0:
            raise ConfigError(f"the number of latents must be 0 or more, got {latents}")
        refuse_special(self.backbone, question, (self._base_hold,), name)
        asked = c.texts.prompt(question, latents, self.slots.begin + PLACEHOLDER + self.slots.end)
        chat = [("user", asked)]
        how: Any = {"prompt": c.generation_header, "today": self._today, "variables": c.template}
        if latents == 0:
            text = render(self.backbone, chat, **how)
            ids = encode(self.backbone, text, first=True)
            return Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(ids), latents=0, name=name)
        before, behind = around(self.backbone, chat, **how)
        ids = (*before, *((self._base_hold,) * latents), *behind)
        return Row(
            ids=ids,
            labels=(IGNORE,) * len(ids),
            start=len(before),
            latents=latents,
            name=name,
            extra={ASSISTANT_PROMPT: self._assistant_prompt(question, latents, name)},
        )

    def _assistant_prompt(self, question: str, latents: int, name: str) -> AssistantPrompt:
        """Its instruction, the opening of its answer, and slots; nothing behind them can change their states."""
        other = self.assistant.backbone
        refuse_special(other, question, (self.hold,), name)
        asked, opening = self.config.texts.asked(question, latents)
        chat = [("user", asked), ("assistant", opening + PLACEHOLDER)]
        before, _ = around(other, chat, prompt=False, today=self._today, variables=self.config.assistant_template)
        ids = (*before, *((self.hold,) * latents))
        if other.context is not None and len(ids) > other.context:
            raise DataError(
                f"{name or 'a question'} is too long for the assistant: {len(ids)} positions, its context is "
                f"{other.context}; shorten it, or take an assistant with a longer context"
            )
        return AssistantPrompt(Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(before), latents=latents, name=name))

    def project(self, states: Tensor) -> Tensor:
        """States [..., A] of the assistant -> latents [..., D], in fp32 also under autocast."""
        with torch.autocast(states.device.type, enabled=False):
            return self.projection(states.to(self.projection.weight.dtype))

    def source(self) -> PrecomputedThoughts:
        """The assistant, projected."""
        return Assisted(self.assistant, self.project)

    def read(self, batch: Batch, source: PrecomputedThoughts, chains: int = 1) -> Trace:
        """Forward training rows, each with so many sets of thoughts."""
        # Only a run that trains comes back to a prompt.
        prefixes = self.backbone.prefixes if self.training and self.frozen else None
        return unroll(self.backbone, batch, source, chains=chains, frozen=self.frozen, prefixes=prefixes)

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """Token cross-entropy behind the prompt, mean over the labelled tokens that `counts` speaks of."""
        trace = self.read(batch, self.source())
        loss = labelled_cross_entropy_sum(trace, batch, self.backbone.logits)
        return LossReport(terms={"answer": loss / float(counts["answer"])}, trace=trace)
