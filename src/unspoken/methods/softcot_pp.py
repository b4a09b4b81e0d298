"""SoftCoT++: several different sets of soft thoughts for one question, and a vote over the answers that they lead to.

Paper: Xu et al., "SoftCoT++: Test-Time Scaling with Soft Chain-of-Thought Reasoning", arXiv 2505.11484, section 3.
Idea: soft thoughts are one point; sampling words explores, a point does not. C trained vectors [INI]^c take the place of
    the assistant's slot token, each leads to a set of thoughts of its own, and a contrastive loss keeps the sets apart.
    Loss = mean over sets of SoftCoT's + w x InfoNCE: each set must be nearer to itself with dropout than to the others.
Row:    SoftCoT's, once per set; the assistant's slots hold [INI]^c
        what the sets of a question share (both prompts up to their slots) is forwarded once
Trains: the projection and [INI]. Freezes: base model and assistant, as SoftCoT does.
Reference code: xuyige/SoftCoT fa7f537 (llm_model.py, train_softcotpp.py, evaluate_softcotpp.py). Its licence allows no
    reuse: this was written from the paper, from facts about the code, and from recorded tensors.
Relations: made of `softcot`; with one set and no contrast it is that, with another slot token.
Departures:
    - SoftCoT's own; and:
    - [INI] really trains: gradient flows through the assistant from its slots on (released: the assistant runs without
      gradient, so that [INI] stays what it was); `initial_trains=False` is the released way.
    - The contrastive loss works at any batch size (released: an error from the second row on).
    - The loss of the sets is averaged, not summed, and so is the contrastive one, so that neither grows with their
      number; with `contrast_weight` at None the two stand in the released proportion.
    - [INI] starts as the slot token's embedding with noise of the table's spread (released: the rows of reserved tokens, or
      of rare letters, by number).
    - All chains and samples of a question are spoken in one batch, each with random numbers of its own (released: chain
      after chain, the random numbers starting over for each).

Shapes: B rows, C sets of thoughts (chains), K latents, D width.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor, nn
from torch.nn import functional as F

from unspoken.core.auxiliary.assistant import Assistant, Assisted
from unspoken.core.config import config_class
from unspoken.core.embeddings import input_table
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import info_nce_sum, labelled_cross_entropy_sum
from unspoken.core.rows.batch import Batch
from unspoken.errors import ConfigError
from unspoken.methods import make_method, method_config
from unspoken.methods.base import Counts, Layer, LossReport, Method, Part


@config_class
class SoftCotPpConfig:
    """Settings of `SoftCotPp`; defaults are the released ones (README; llm_model.py)."""

    name: Literal["softcot_pp"] = "softcot_pp"
    softcot: Annotated[Any, BeforeValidator(method_config)]  # what makes one set of thoughts: {"name": "softcot", ...}
    chains: int = 10  # C
    contrast_weight: float | None = None  # w; None: 1 / C^2, the released proportion of the two losses
    temperature: float = 0.05  # the similarities' (released: a factor of 20)
    dropout: float = 0.5  # of the set that each set is held against
    initial_trains: bool = True  # [INI]

    def __post_init__(self) -> None:
        if not hasattr(self.softcot, "assistant"):
            raise ConfigError(f"softcot_pp needs a method with an assistant in 'softcot'; {self.softcot.name!r} has none")
        if self.chains < 2:
            raise ConfigError(f"chains must be at least 2, got {self.chains}; for one set of thoughts use 'softcot'")
        if self.contrast_weight is not None and self.contrast_weight < 0:
            raise ConfigError(f"contrast_weight must be 0 or more, got {self.contrast_weight}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")


class SoftCotPp(Layer):
    """Several sets of soft thoughts. See the module's card."""

    Config = SoftCotPpConfig
    config: SoftCotPpConfig

    def __init__(self, config: SoftCotPpConfig, backbone: Backbone) -> None:
        super().__init__(config, None)
        self.soft: Any = make_method(config.softcot, backbone)
        self.latents_per_group = self.soft.latents_per_group
        table = input_table(self.assistant.backbone.lm).weight.detach().float()
        self.initial = nn.Embedding(config.chains, self.assistant.width)
        with torch.no_grad():
            self.initial.weight.normal_(std=float(table.std()))
            self.initial.weight += table[self.soft.hold].to(self.initial.weight.device)
        self.initial.requires_grad_(config.initial_trains)

    @property
    def assistant(self) -> Assistant:
        """The assistant."""
        return self.soft.assistant

    @property
    def wrapped(self) -> Method:
        """SoftCoT."""
        return self.soft

    @property
    def uses_steps(self) -> bool:
        """SoftCoT's."""
        return self.soft.uses_steps

    def parts(self) -> dict[str, Part]:
        """The [INI] vectors in the assistant's slots."""
        return {"initial": Part(module=self.initial)}

    def source(self) -> PrecomputedThoughts:
        """The assistant with [INI] in its slots, projected."""
        return Assisted(self.assistant, self.soft.project, self.initial.weight)

    def counts(self, batch: Batch) -> Counts:
        """SoftCoT's counts, and the number of questions whose sets are contrasted."""
        return {**self.soft.counts(batch), "questions": np.array(float(len(batch)))}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """SoftCoT's loss, averaged over sets, and the contrastive loss between a question's sets."""
        c = self.config
        trace = self.soft.read(batch, self.source(), c.chains)
        loss = labelled_cross_entropy_sum(trace, batch.tile(c.chains), self.backbone.logits)
        weight = 1 / c.chains**2 if c.contrast_weight is None else c.contrast_weight
        return LossReport(
            terms={
                "answer": loss / (c.chains * float(counts["answer"])),
                "contrast": weight * self._contrast(trace) / (c.chains * float(counts["questions"])),
            },
            trace=trace,
        )

    def _contrast(self, trace: Trace) -> Tensor:
        """InfoNCE between the sets of each question (a set = all its latents), summed over sets and questions."""
        C = self.config.chains
        sets_BCF = trace.latents_BKD.flatten(1).unflatten(0, (C, -1)).transpose(0, 1)
        views_BCF = F.dropout(sets_BCF, self.config.dropout, self.training)
        return info_nce_sum(sets_BCF, views_BCF, self.config.temperature)
