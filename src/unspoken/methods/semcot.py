"""SemCoT: the latents of a small generator are trained to mean, for a sentence encoder, what the written reasoning means.

Paper: He et al., "SemCoT: Accelerating Chain-of-Thought Reasoning through Semantically-Aligned Implicit Tokens",
    arXiv 2510.24940.
Idea: an answer alone says little about what a latent should hold; the reasoning says all. An encoder made of the base
    model's middle layers first learns to give a chain R and its condensed form S nearly the same vector (InfoNCE: S of the
    other problems are far). Then it is frozen, and the generator learns
    Loss = a x (1 - cos(encoder(latents), encoder(R))) + (1 - a) x the answer's cross-entropy.
Row:    the generator's (`semcot_generator`); and to the encoder:   R,   S,   the latents
        while the encoder learns, rows have R and S and nothing else is forwarded
Trains: first the encoder's last layer, then all of it, then the projection, then generator and projection: four stages, each
    with an optimizer of its own. Freezes: the base model, and the encoder once it has learned.
Reference code: YinhanHe123/SemCoT 27ca2ef (models/semcot.py, training/train_semcot.py), MIT.
Relations: wraps `semcot_generator`, which is its ablation without alignment and all that inference needs.
Departures:
    - Those of `semcot_generator`.
    - The encoder's attention is causal, as its layers were trained, and masked, so that batches work. The released code
      hands a mask of ones to layers that add it: attention is bidirectional, and a batch of two is an error
      (`encoder.attention=bidirectional`).
    - Latents reach the encoder through the layers below it, as a text does, since they are input embeddings. Released: as
      if they were states of layer 16 (`encoder.latents=states`).
    - InfoNCE has a temperature. Without one (released, 1.0) cosines cannot separate: the loss ends at 0.34 for 4 pairs.
    - All condensed texts of an optimizer step are negatives, whatever the micro-batches and processes.
    - Problems with the same condensed text are not held against each other.
    - The alignment is on by default (released: alpha 0). Where the encoder's layers lie depends on the base model's depth
      (released: 16 to 20 also of 28).
    - A row without reasoning is trained by its answer alone.

Shapes: N pairs, M different condensed texts, B rows, K latents, D width, E width of an embedding.
"""

from __future__ import annotations

from dataclasses import field, replace
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from unspoken.core.auxiliary.sentence_encoder import EncoderConfig, SentenceEncoder
from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import cosine_distance_sum, pair_contrast_sum
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import TRAINABLE_PART, Curriculum, Phase, Stage, StageSettings
from unspoken.core.rows.row import IGNORE, Row
from unspoken.core.text.condense import condense
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method, method_config
from unspoken.methods.base import Counts, LossReport, Part, Wrapper

HEAD, ENCODER = "encoder head", "encoder"
"""`Stage.trainable_part` of the first two stages: only the linear layer, then the whole encoder."""

ENCODER_TEXTS = "encoder_texts"
"""The name in `Row.extra` of the encoder's token ids of R, and of S while the encoder is trained."""


@config_class
class SemCotConfig:
    """Settings of `SemCot`; defaults are the released ones (main.py) where no departure says otherwise."""

    name: Literal["semcot"] = "semcot"
    inner: Annotated[Any, BeforeValidator(method_config)]  # {"name": "semcot_generator", "assistant": ...}
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    align_weight: float = 0.25  # a; the published one for GSM8K (utils.py, BEST_PARAMS)
    temperature: float = 0.05  # ours: that of sentence-transformers
    encoder_warmup: StageSettings = field(
        default_factory=lambda: StageSettings(epochs=7.0)
    )  # its linear layer alone (st_linear_*)
    encoder_training: StageSettings = field(default_factory=lambda: StageSettings(epochs=3.0))  # the whole of it (st_llm_*)
    # S: `condensed_reasoning` of the data, or made by rule (core/text/condense.py); `unspoken condense` writes such data.
    condensed: Literal["data", "rule"] = "data"
    condensed_words: int = 10  # for "rule"; the released data were asked for as many

    def __post_init__(self) -> None:
        if self.inner.name != "semcot_generator":
            raise ConfigError(f"semcot needs 'semcot_generator' as 'inner', got {self.inner.name!r}; or try 'sim_cot'")
        if not 0 < self.align_weight < 1:
            raise ConfigError(
                f"align_weight must be between 0 and 1, got {self.align_weight}; without alignment use 'semcot_generator'"
            )
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")
        if self.condensed_words < 1:
            raise ConfigError(f"condensed_words must be at least 1, got {self.condensed_words}")
        if self.encoder_warmup.epochs and self.encoder.width is None:
            raise ConfigError("encoder_warmup trains a linear layer, and encoder.width=null has none; set its epochs to 0")


class SemCot(Wrapper):
    """Latents aligned with the encoded reasoning. See the module's card."""

    Config = SemCotConfig
    config: SemCotConfig

    def __init__(self, config: SemCotConfig, backbone: Backbone) -> None:
        super().__init__(config, make_method(config.inner, backbone))
        self.encoder = SentenceEncoder(config.encoder, backbone)
        if not config.encoder_training.epochs:
            self.encoder.body.requires_grad_(False)
            self.encoder.head.requires_grad_(config.encoder_warmup.epochs > 0)

    def parts(self) -> dict[str, Part]:
        """The encoder."""
        return {"encoder": Part(module=self.encoder, needed="train")}

    def curriculum(self) -> Curriculum:
        """The two stages of the encoder, then those of the generator."""
        c = self.config
        learned = ((HEAD, c.encoder_warmup), (ENCODER, c.encoder_training))
        phases = []
        for part, how in learned:
            if how.epochs:
                stage = Stage(
                    index=len(phases), removed=None, groups=0, restart=bool(phases), trainable_part=part, lr=how.lr,
                    weight_decay=how.weight_decay,
                )  # fmt: skip
                phases.append(Phase(epochs=how.epochs, stage=stage))
        first = len(phases)
        for phase in self.method.curriculum().phases:
            restart = phase.stage.restart or len(phases) > 0
            phases.append(replace(phase, stage=replace(phase.stage, index=phase.stage.index + first, restart=restart)))
        return Curriculum(tuple(phases))

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The generator's row with R; in the encoder's stages without latents, and with S as well."""
        row = self.method.layout(example, stage, rng)
        reasoning = self._reasoning(example)
        if not reasoning:
            return row
        texts = (reasoning,) if row.latents else (reasoning, self._condensed(example))
        encoded = tuple(self.encoder.encode(text, example.id) for text in texts if text)
        return replace(row, extra={**row.extra, ENCODER_TEXTS: HostValue(encoded)})

    def _reasoning(self, example: Example) -> str:
        """R: the rationale in the data, or the steps, one per line."""
        told = example.meta.get("reasoning")
        return told.strip() if isinstance(told, str) else "\n".join(example.steps).strip()

    def _condensed(self, example: Example) -> str:
        """S.

        Raises:
            DataError: the data have no condensed text.
        """
        if self.config.condensed == "rule":
            return condense(example.steps or (self._reasoning(example),), self.config.condensed_words)
        told = example.meta.get("condensed_reasoning")
        if not isinstance(told, str) or not told.strip():
            raise DataError(
                f"{example.id or 'an example'} has no condensed reasoning: expected a text in the field "
                f"'condensed_reasoning', got {told!r:.40}; set method.condensed=rule, or let `unspoken condense` write it"
            )
        return told.strip()

    def _learns(self, batch: Batch) -> Batch:
        """The batch for the generator: rows of the encoder's stages have no labels."""
        labels_BT = batch.labels_BT.copy()
        labels_BT[[part in (HEAD, ENCODER) for part in batch.values(TRAINABLE_PART)]] = IGNORE
        return replace(batch, labels_BT=labels_BT)

    def _pairs(self, batch: Batch, trains: tuple[str, ...] = (HEAD, ENCODER)) -> list[int]:
        """Rows whose R and S train the encoder."""
        texts_B, part_B = batch.values(ENCODER_TEXTS, ()), batch.values(TRAINABLE_PART)
        return [b for b in range(len(batch)) if part_B[b] in trains and len(texts_B[b]) == 2]

    def _aligned(self, batch: Batch) -> list[int]:
        """Rows whose latents are aligned with their R."""
        return [b for b, texts in enumerate(batch.values(ENCODER_TEXTS)) if batch.latents_B[b] and texts]

    def counts(self, batch: Batch) -> Counts:
        """The generator's counts, the number of aligned rows and of pairs, and all condensed texts that pairs are
        contrasted with."""
        pairs = self._pairs(batch)
        condensed = np.empty(len(pairs), dtype=object)
        for i, b in enumerate(pairs):
            condensed[i] = batch.values(ENCODER_TEXTS)[b][1]
        return {
            **self.method.counts(self._learns(batch)),
            "aligned": np.array(float(len(self._aligned(batch)))),
            "pairs": np.array(float(len(pairs))),
            "condensed": condensed,
        }

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The answer's loss and the alignment loss; in the encoder's stages, the contrastive loss of its pairs."""
        c, terms = self.config, {}
        if counts["answer"]:
            report = self.method.forward(self._learns(batch), counts)
            trace = report.trace
            terms = {name: (1 - c.align_weight) * term for name, term in report.terms.items()}
        else:  # only the encoder trains in this step
            trace = _nothing(batch, self.backbone)
        if counts["aligned"]:
            terms["align"] = c.align_weight * self._alignment(batch, trace) / float(counts["aligned"])
        if counts["pairs"]:
            terms["contrast"] = self._contrast(batch, counts["condensed"]) / float(counts["pairs"])
        if not terms:
            raise DataError(
                f"{batch.names[0] or 'a batch'}: no example of the batch has reasoning, so that the encoder has nothing to "
                "learn from; use data with steps, larger batches, or 'semcot_generator', which needs none"
            )
        return LossReport(terms=terms, trace=trace)

    def _alignment(self, batch: Batch, trace: Trace) -> Tensor:
        """1 - cosine between the encoded latents and the encoded reasoning, summed over rows. The encoder is constant."""
        rows = self._aligned(batch)
        if not rows:
            return trace.latents_BKD.sum() * 0.0
        with self.encoder.constant():
            with torch.no_grad():
                want_BE = self.encoder.embed([batch.values(ENCODER_TEXTS)[b][0] for b in rows])
            got_BE = self.encoder.embed_latents(trace.latents_BKD[rows], trace.counts_B[rows])
        return cosine_distance_sum(got_BE, want_BE)

    def _contrast(self, batch: Batch, condensed: np.ndarray) -> Tensor:
        """InfoNCE of the batch's pairs against all condensed texts of the step, summed over pairs."""
        keys = list(dict.fromkeys(condensed))
        place = {ids: i for i, ids in enumerate(keys)}
        parts, texts_B = [], batch.values(ENCODER_TEXTS)
        for trains in (HEAD, ENCODER):
            rows = self._pairs(batch, (trains,))
            if not rows:
                continue
            # While only the head trains, the layers below need no gradient.
            with torch.set_grad_enabled(torch.is_grad_enabled() and trains == ENCODER):
                pooled = self.encoder.pooled([texts_B[b][0] for b in rows] + keys)
            embedded = self.encoder.project(pooled)
            own_N = torch.tensor([place[texts_B[b][1]] for b in rows], device=embedded.device)
            anchors, others = embedded[: len(rows)], embedded[len(rows) :]
            parts.append(pair_contrast_sum(anchors, others, own_N, self.config.temperature))
        last = (*self.encoder.head.parameters(), *self.encoder.body.parameters())  # learn in every stage of the encoder
        return torch.stack(parts).sum() if parts else next(p for p in last if p.requires_grad).sum() * 0.0


def _nothing(batch: Batch, backbone: Backbone) -> Trace:
    """The trace of rows that were not forwarded."""
    none = torch.zeros(len(batch), 0, backbone.width, device=backbone.device)
    return Trace(latents_BKD=none, states_BKD=None, counts_B=np.zeros_like(batch.latents_B), starts_B=batch.starts_B)
