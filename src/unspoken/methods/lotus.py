"""LOTUS: blocks of slots, looped over at the same positions; each block is read as its step by the model's own head.

Paper: "Bridging the Gap Between Latent and Explicit Reasoning with Looped Transformers", arXiv 2606.31779.
Idea: step k of the chain has a block of c slots. All blocks are fed at once, first as a learned token, then K times more as
    that token plus the state at the same slot in the pass before: one loop per block. After the last loop the head, without
    any other model, must read the tokens of step k off block k. Loss = CE of the text + weight x CE of the steps' tokens.
    A curriculum turns one more step into a block at each stage; loops grow with the blocks.
Row:    question | bot | slot x (c K) | eot | step K+1 | ... | step N | ### answer eos
        labels from eot on, as in Coconut. Step k has labels of its own: the position before block k's first slot predicts
        its first token, slot i of the block token i + 1; a block's surplus slots, and surplus blocks, predict nothing
Trains: the base model, the three marker rows included. Freezes: nothing.
Reference code: yingfan-bot/lotus eb77e2f (scripts/lotus.py, dataset.py, run.py), MIT.
Relations: `coconut` has the same rows and curriculum, but makes latents one after the other, which nothing but the answer
    supervises; `sim_cot` supervises latents by a second model; `distill` around it is the paper's LOTUS + CODI, `sim_cot`
    around it comes near its LOTUS-aux. `injection="replace"`, `supervise="each"` are variants of the released code.
Departures:
    - A step longer than its block is cut. The released code lets it run on into the next block's slots, which then have two
      targets each; beyond the last slot its tail is lost, but counted in the mean.
    - bot is forwarded once (released: in every loop, with the same result).
    - `supervise="last"` for all models. The released 1B recipe, whose file leaves the option out, supervises block k after
      loop k ("each"); the paper and the recipes of GPT-2 and 3B, after the last loop.
    - Inference never reads the gold number of steps (released, `pad_latent_to_max=False`: as many blocks as steps).
    - The first spoken token is checked for eos, and batches, samples and caches work (released: one question at a time).
    - `uniform_prob`, `cumulative_stages` and `freeze_supervised_blocks` are not offered: no recipe uses them. With the
      first, text in the columns of other rows' slots gets no loss; the second forwards every row once more.

Shapes: B rows, K slots of the row with most, N targets, D width, c slots per block.
"""

from __future__ import annotations

from dataclasses import field
from random import Random
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.markers import add_markers, refuse_markers
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sources import Looped, PrecomputedThoughts, Recurrence, Source
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import cross_entropy_sum, labelled_loss
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Curriculum, Stage, stagewise
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, Written, pieces, question_ids, whole
from unspoken.errors import ConfigError
from unspoken.methods.base import Counts, LossReport, Method, answer_counts, thoughts_asked

BLOCK_TARGETS = "block_targets"
"""The name in `Row.extra` of, per block, the token ids that the head must read off it."""


@config_class
class LotusConfig:
    """Settings of `Lotus`; defaults are the published ones for GPT-2 (args/gsm8k_lotus_gpt2.yaml)."""

    name: Literal["lotus"] = "lotus"
    latents_per_step: int = 13  # c, slots of a block: at least the tokens of a step; 25 for Llama
    max_stage: int = 6  # K: at most K steps become blocks; later ones stay text
    epochs_per_stage: float = 1.0
    first_stage: int = 0  # all steps are still written
    step_weight: float = 0.05  # of the steps' cross-entropy
    supervise: Literal["last", "each"] = "last"  # each: block k right after loop k
    injection: Literal["add", "replace"] = "add"  # replace: a slot is fed the state alone
    restart_optimizer: bool = False  # when a stage begins
    marker_init: str = "<<"  # marker rows start as this text's row
    template: Template = field(default_factory=Template)

    def __post_init__(self) -> None:
        if self.latents_per_step < 1:
            raise ConfigError(f"latents_per_step must be at least 1, got {self.latents_per_step}; for none use 'cot'")
        if self.max_stage < 1:
            raise ConfigError(f"max_stage must be at least 1, got {self.max_stage}")
        if not 0 <= self.first_stage <= self.max_stage:
            raise ConfigError(f"first_stage must be in 0..max_stage = {self.max_stage}, got {self.first_stage}")
        if not self.epochs_per_stage > 0:
            raise ConfigError(f"epochs_per_stage must be positive, got {self.epochs_per_stage}")
        if not self.step_weight >= 0:
            raise ConfigError(f"step_weight must be 0 or more, got {self.step_weight}")


class Lotus(Method):
    """Looped blocks of slots, read by the model's own head. See the module's card."""

    Config = LotusConfig
    config: LotusConfig
    explains = True

    def __init__(self, config: LotusConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.markers = add_markers(backbone, config.marker_init)
        self.latents_per_group = config.latents_per_step

    @classmethod
    def most_latents(cls, config: LotusConfig) -> int:
        """Those of the last stage."""
        return config.latents_per_step * config.max_stage

    def new_tokens(self) -> tuple[int, ...]:
        """The three markers."""
        return self.markers.ids

    def curriculum(self) -> Curriculum:
        """Stages from `first_stage` to the maximum, which lasts to the end."""
        c = self.config
        stages = [
            Stage(index=k, removed=k, groups=k, restart=c.restart_optimizer and k > c.first_stage)
            for k in range(c.first_stage, c.max_stage + 1)
        ]
        return stagewise(stages, c.epochs_per_stage)

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The row at a stage; see the card."""
        assert stage.removed is not None
        parts = pieces(self.backbone, self.config.template, example)
        refuse_markers((*parts.question, *sum(parts.steps, ()), *parts.answer), self.markers, example.id)
        blocks, text = parts.steps[: stage.removed], parts.steps[stage.removed :]
        latents = stage.removed * self.latents_per_group
        targets = HostValue(tuple(step[: self.latents_per_group] for step in blocks))
        head = self.markers.prompt(
            parts.question, latents, name=example.id, steps_covered=len(blocks), extra={BLOCK_TARGETS: targets}
        )
        return head.followed_by((*sum(text, ()), *parts.answer))

    def written(self, example: Example) -> Written:
        """Every step, then the answer."""
        return whole(self.backbone, self.config.template, example)

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """question | bot | slots | eot, with the last stage's number of slots.

        Raises:
            ConfigError: a negative number of slots.
            DataError: the question contains a marker.
        """
        latents = thoughts_asked(latents, self.config.max_stage * self.latents_per_group)
        ids = refuse_markers(question_ids(self.backbone, self.config.template, question), self.markers, name)
        return self.markers.prompt(ids, latents, name=name)

    def source(self) -> Source | PrecomputedThoughts | None:
        """A loop per block."""
        add = self.config.injection == "add"
        return Looped(Recurrence(self._onto_slot if add else None), self.latents_per_group)

    def _onto_slot(self, hidden_ND: Tensor) -> Tensor:
        """A slot's next input: its token's embedding, and the state at it."""
        return hidden_ND + self.backbone.embed(torch.tensor(self.markers.latent, device=hidden_ND.device))

    def counts(self, batch: Batch) -> Counts:
        """Numbers of labelled tokens, and of the steps' tokens."""
        tokens = sum(len(step) for blocks in batch.values(BLOCK_TARGETS, ()) for step in blocks)
        return {"answer": answer_counts(batch), "steps": np.array(float(tokens))}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """Cross-entropy of the text, and of the steps read off their blocks."""
        trace = unroll(self.backbone, batch, self.source())
        answer, metrics = labelled_loss(trace, batch, self.backbone.logits)
        steps = self._step_loss(trace, batch)
        return LossReport(
            terms={
                "answer": answer / float(counts["answer"]),
                "steps": self.config.step_weight * steps / max(float(counts["steps"]), 1.0),
            },
            trace=trace,
            metrics=metrics,
        )

    def _step_loss(self, trace: Trace, batch: Batch) -> Tensor:
        """Cross-entropy of the steps' tokens, summed."""
        c = self.latents_per_group
        found = [(b, k, k * c + i, token)
                 for b, blocks in enumerate(batch.values(BLOCK_TARGETS, ()))
                 for k, step in enumerate(blocks) for i, token in enumerate(step)]  # fmt: skip
        states_BKD = trace.states_BKD
        assert states_BKD is not None
        if not found:
            return states_BKD.sum() * 0.0
        rows_N, blocks_N, places_N, tokens_N = np.array(found).T
        hidden_ND = self._states(trace, rows_N, blocks_N, places_N)
        return cross_entropy_sum(hidden_ND, torch.from_numpy(tokens_N).to(hidden_ND.device), self.backbone.logits)

    def _states(self, trace: Trace, rows_N: np.ndarray, blocks_N: np.ndarray, places_N: np.ndarray) -> Tensor:
        """The states [N, D] before the given slots, after the loop that the config says."""
        passes = [*trace.rounds, trace.states_BKD]  # the last of a row is the last one, however few it makes
        loop_N = np.full_like(rows_N, len(passes) - 1)
        if self.config.supervise == "each":
            last_N = trace.counts_B[rows_N] // self.latents_per_group - 1
            loop_N = np.where(blocks_N < last_N, blocks_N + 1, loop_N)
        stacked_PBKD = torch.stack([part for part in passes if part is not None])
        index = tuple(torch.from_numpy(each).to(stacked_PBKD.device) for each in (loop_N, rows_N, places_N))
        return stacked_PBKD[index]

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """What the head reads off each block, up to the line's end: the likeliest token at every slot, all at once."""
        assert trace.states_BKD is not None
        c, sizes_B = self.latents_per_group, trace.counts_B // self.latents_per_group
        with torch.inference_mode():
            read_BK = self.backbone.logits(trace.states_BKD).argmax(dim=-1).tolist()
        return [
            tuple(self._step_of(read_K[g * c : g * c + c]) for g in range(size))
            for read_K, size in zip(read_BK, sizes_B.tolist(), strict=True)
        ]

    def _step_of(self, ids: list[int]) -> str:
        """A block's tokens as a step: what stands where the template has it."""
        before, after = self.config.template.step.split("{step}")
        text = self.backbone.decode(ids).removeprefix(before)
        return (text.split(after)[0] if after else text).strip()

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...]:
        """Step k for block k."""
        steps = example.steps[: min(groups, self.config.max_stage)]
        return (*(step.strip() for step in steps), *(None,) * (groups - len(steps)))
