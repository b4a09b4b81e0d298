"""Echo: every latent must name the tokens of the step that it stands for, to a small model that sees nothing else.

Paper: none. It is an example of a method in a package of its own, after SIM-CoT (arXiv 2509.20317, section 3).
Idea: latents that only the answer supervises may all come to mean the same. SIM-CoT lets a decoder write each step from its
    latents, word for word; here a small reader only has to say *which* tokens the step is made of, in no order: one pass
    and one softmax per step. Loss = cross-entropy of the answer + weight x that of the steps' tokens.
Row:    question | <|echo|> | latent x (c K) | ### answer eos
        labels behind the last latent; the state at it predicts the answer's first token
Trains: the base model or its LoRA, the row of <|echo|>, the reader. Freezes: nothing else.
Reference code: none.
Relations: without a reader it is Coconut's last stage from the start, with one marker for three.
Departures: none.

Shapes: B rows, K latents of a row, C latents per group, M groups with a step, D width, A width of the reader, V its words.
"""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.lm.markers import add_tokens, refuse_tokens
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sources import Recurrence
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import labelled_loss
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, answer_ids, question_ids
from unspoken.errors import ConfigError
from unspoken.methods.base import Counts, LossReport, Method, Part, answer_counts

ECHO = "<|echo|>"
"""The added token: it opens the thoughts, and stands in their slots."""

STEP_TOKENS = "step_tokens"
"""The attachment: per thought group, the reader's ids of the step's different tokens; () where it has no step."""


@config_class
class EchoConfig:
    """Settings of `Echo`; all numbers are ours."""

    name: str = "unspoken_echo.method:Echo"  # where unspoken finds the class; a run keeps it
    reader: BackboneConfig | None = None  # any causal LM, of any family; None = none, as in what answers alone
    steps: int = 3  # K / c: thought groups
    latents_per_step: int = 1  # c
    weight: float = 1.0  # of the steps' tokens
    marker_init: str = "<<"  # the row of <|echo|> starts as this text's row
    template: Template = field(default_factory=Template)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.latents_per_step < 1:
            raise ConfigError(f"steps and latents_per_step must be at least 1, got {self.steps}, {self.latents_per_step}")
        if self.weight < 0:
            raise ConfigError(f"weight must be 0 or more, got {self.weight}")


class Reader(nn.Module):
    """A small causal LM that reads the latents of one group, and says at the last of them what tokens the step has.

    Its members but `forward` are what unspoken asks of a language model that a run keeps (`methods.base.SavedLM`).
    """

    named = None  # it trains, so it is saved wherever it came from

    def __init__(self, config: BackboneConfig, width: int) -> None:
        super().__init__()
        self.backbone = load_backbone(config)
        self.enter = nn.Linear(width, self.backbone.width)
        table = self.lm.get_input_embeddings().weight
        if self.lm.get_output_embeddings().weight is not table:
            table.requires_grad_(False)  # no token is ever fed

    def forward(self, groups_MCD: Tensor) -> Tensor:
        """Latents of some groups -> log-probabilities [M, V] of tokens."""
        embeds_MCA = self.enter(groups_MCD.to(self.enter.weight.dtype))
        positions_MC = torch.arange(groups_MCD.shape[1], device=groups_MCD.device).expand(len(groups_MCD), -1)
        states_MCA = self.backbone.step(embeds_MCA, positions_BT=positions_MC)
        return self.backbone.logits(states_MCA[:, -1]).float().log_softmax(-1)

    @property
    def lm(self) -> Any:
        """The causal LM itself."""
        return self.backbone.lm

    @property
    def context(self) -> int | None:
        """The most positions it takes."""
        return self.backbone.context

    def save(self, folder: Path) -> None:
        """Write the LM as a Hugging Face folder."""
        self.backbone.save(folder)

    def restore(self, folder: Path) -> None:
        """It has no adapters."""


class Echo(Method):
    """Latents that name their steps. See the module's card."""

    Config = EchoConfig
    config: EchoConfig

    def __init__(self, config: EchoConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.template = config.template
        self.latents_per_group = config.latents_per_step
        (self.echo,) = add_tokens(backbone, (ECHO,), config.marker_init)
        self.reader = None if config.reader is None else Reader(config.reader, backbone.width)
        self.explains = self.reader is not None

    # what it has beside the base model

    @classmethod
    def most_latents(cls, config: EchoConfig) -> int:
        """As many in every row."""
        return config.steps * config.latents_per_step

    def new_tokens(self) -> tuple[int, ...]:
        """<|echo|>, whose row trains under LoRA too."""
        return (self.echo,)

    def parts(self) -> dict[str, Part]:
        """The reader. A run keeps its LM in model/reader, and puts that path into the field `reader` when it is loaded."""
        return {} if self.reader is None else {"reader": Part(module=self.reader, needed="explain", lm=self.reader)}

    def answering_config(self) -> EchoConfig:
        """Answering needs no reader; exports are written so."""
        return replace(self.config, reader=None)

    # rows

    def curriculum(self) -> Curriculum:
        """One stage: all latents, no written step."""
        return single(Stage(removed=None, groups=self.config.steps))

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """question | <|echo|> | latents | answer, and the tokens of each step beside it."""
        head = self.prompt(example.question, name=example.id)
        text = answer_ids(self.backbone, self.config.template, example.answer)
        refuse_tokens(text, {self.echo: ECHO}, example.id)
        return Row(
            ids=(*head.ids, *text),
            labels=(*head.labels, *text),
            start=head.start,
            latents=head.latents,
            steps_covered=min(len(example.steps), self.config.steps),
            name=example.id,
            extra={} if self.reader is None else {STEP_TOKENS: HostValue(self._step_tokens(example, self.reader))},
        )

    def _step_tokens(self, example: Example, reader: Reader) -> tuple[tuple[int, ...], ...]:
        steps = (example.steps + ("",) * self.config.steps)[: self.config.steps]
        return tuple(tuple(sorted({*reader.backbone.encode(step.strip())})) for step in steps)

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """question | <|echo|> | latents.

        Raises:
            ConfigError: a negative number of latents.
            DataError: the question spells <|echo|>.
        """
        latents = self.config.steps * self.latents_per_group if latents is None else latents
        if latents < 0:
            raise ConfigError(f"the number of latents must be 0 or more, got {latents}")
        asked = refuse_tokens(question_ids(self.backbone, self.config.template, question), {self.echo: ECHO}, name)
        ids = (*asked, *(self.echo,) * (1 + latents))
        return Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(asked) + 1, latents=latents, name=name)

    def source(self) -> Recurrence:
        """The last hidden state, fed back as it is."""
        return Recurrence()

    # the loss

    def counts(self, batch: Batch) -> Counts:
        """Labelled tokens, and groups that have a step."""
        steps = sum(len(tokens) > 0 for groups in batch.values(STEP_TOKENS, ()) for tokens in groups)
        return {"answer": answer_counts(batch), "echo": np.array(float(steps))}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The answer's cross-entropy, and that of the steps' tokens."""
        trace = unroll(self.backbone, batch, self.source())
        loss, metrics = labelled_loss(trace, batch, self.backbone.logits)
        terms = {"answer": loss / float(counts["answer"])}
        if self.reader is not None:
            echo = self._echo(trace, batch.values(STEP_TOKENS, ()), self.reader)
            terms["echo"] = self.config.weight * echo / max(float(counts["echo"]), 1.0)
        return LossReport(terms=terms, trace=trace, metrics=metrics)

    def _echo(self, trace: Trace, tokens_B: list[tuple[tuple[int, ...], ...]], reader: Reader) -> Tensor:
        """Cross-entropy between the tokens of each step, all alike, and what the reader says, summed over steps."""
        places = [(b, g) for b, groups in enumerate(tokens_B) for g, tokens in enumerate(groups) if tokens]
        if not places:
            return trace.latents_BKD.sum() * 0.0
        told_MV = reader(self._groups(trace, places))
        return torch.stack([-told_MV[m, list(tokens_B[b][g])].mean() for m, (b, g) in enumerate(places)]).sum()

    def _groups(self, trace: Trace, places: list[tuple[int, int]]) -> Tensor:
        """The latents [M, C, D] of (row, group) pairs."""
        C = self.latents_per_group
        return torch.stack([trace.latents_BKD[b, g * C : (g + 1) * C] for b, g in places])

    # in words

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """Per group, the tokens that are at least half as likely as the likeliest one, likeliest first."""
        sizes = [int(n) // self.latents_per_group for n in trace.counts_B]
        places = [(b, g) for b, size in enumerate(sizes) for g in range(size)]
        if self.reader is None or not places:
            return [() for _ in sizes]
        said = []
        with torch.no_grad():
            for told_V in self.reader(self._groups(trace, places)):
                likely = [int(i) for i in told_V.argsort(descending=True)[:8] if told_V[i] >= told_V.max() - np.log(2)]
                said.append(" ".join(self.reader.backbone.decode([i]).strip() for i in likely))
        words = iter(said)
        return [tuple(next(words) for _ in range(size)) for size in sizes]

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...]:
        """The step of each group; None for a group behind the last step."""
        return tuple(example.steps[g].strip() if g < len(example.steps) else None for g in range(groups))
