"""Coconut: chain of continuous thought. The last hidden state is fed back as the next input, in place of a written step.

Paper: Hao et al., "Training Large Language Models to Reason in a Continuous Latent Space", arXiv 2412.06769, section 3.
Idea: a latent is the hidden state (after the final norm) of the position before it: e[p] = h[p-1].
    A curriculum replaces the first k written steps by c latents each, k growing by stages, until no step is left.
    Cross-entropy only on what is still written; gradients flow back through all latents.
Row:    question | bot | latent x (c k) | eot | step k+1 | ... | step N | ### answer eos
        labels from eot on: the state at eot predicts the first written token; bot, latents and eot are never predicted
Trains: the base model, the three marker rows included. Freezes: nothing.
Reference code: facebookresearch/coconut 27273cb (coconut.py, dataset.py, run.py), MIT.
Relations: `sim_cot` wraps it; `cot` is its starting point; with `thoughts="pause"` it is the paper's "pause as thought",
    with `curriculum="none"` its "w/o curriculum". `curriculum="progressive"` is the schedule that SIM-CoT's authors
    recommend (InternLM/SIM-CoT issues 7, 11). `mixing="proportional"` is arXiv 2602.22441. `thoughts="unfed"` (ours) is
    "pause as thought" whose states are kept, so that `sim_cot` with `reads="states"` can supervise or probe them.
Departures:
    - Inference never reads the gold number of steps: with `pad_to_max=False` the released evaluation thinks
      min(steps of the answer, maximum) times; ours always thinks as often as the last stage at its maximum.
    - The first spoken token is checked for eos (released: never).
    - The optimizer restarts when a stage begins, as its README says (released: at every epoch).
    - Batches, caches and samples at inference (released: one question, prompt re-run for every token, greedy).
    - `mixing="uniform"` draws a stage from {0..stages}; the released `uniform_prob` draws from {0..steps of the row}, in
      forked workers with the same seed.
"""

from __future__ import annotations

from dataclasses import field
from random import Random
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.lm.markers import add_markers, refuse_markers
from unspoken.core.loop.sources import PrecomputedThoughts, Recurrence, Source, Unfed
from unspoken.core.rows.curriculum import Curriculum, Stage, single, stagewise
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, Written, pieces, question_ids, whole
from unspoken.errors import ConfigError
from unspoken.methods.base import Method, thoughts_asked


@config_class
class CoconutConfig:
    """Settings of `Coconut`; defaults are the paper's for GSM8K (section 4.2; configs/gsm_coconut.yaml)."""

    name: Literal["coconut"] = "coconut"
    latents_per_step: int = 2  # c
    max_stage: int = 3  # K: at most K steps become latents; a last stage then removes all text
    epochs_per_stage: float = 3.0
    first_stage: int = 1  # stage 0 (all steps written) is skipped when starting from an SFT-CoT checkpoint
    pad_to_max: bool = True  # last stage: K groups for every problem; False: min(steps, K)
    curriculum: Literal["staged", "progressive", "none"] = "staged"
    thoughts: Literal["recurrent", "pause", "unfed"] = "recurrent"  # else slots hold a learned token; unfed: states are kept
    mixing: Literal["none", "uniform", "proportional"] = "none"  # also draw rows of other stages
    mixing_probability: float = 1.0  # chance that a row is drawn from the mixture
    restart_optimizer: bool = True  # when a stage begins
    marker_init: str = "<<"  # marker rows start as this text's row
    template: Template = field(default_factory=Template)

    def __post_init__(self) -> None:
        if self.latents_per_step < 1:
            raise ConfigError(f"latents_per_step must be at least 1, got {self.latents_per_step}; for none use 'cot'")
        if self.max_stage < 1:
            raise ConfigError(f"max_stage must be at least 1, got {self.max_stage}")
        if not 0 <= self.first_stage <= self.max_stage + 1:
            raise ConfigError(f"first_stage must be in 0..max_stage + 1 = {self.max_stage + 1}, got {self.first_stage}")
        if not 0 <= self.mixing_probability <= 1:
            raise ConfigError(f"mixing_probability must be in [0, 1], got {self.mixing_probability}")
        if self.epochs_per_stage <= 0:
            raise ConfigError(f"epochs_per_stage must be positive, got {self.epochs_per_stage}")


class Coconut(Method):
    """Chain of continuous thought. See the module's card."""

    Config = CoconutConfig
    config: CoconutConfig

    def __init__(self, config: CoconutConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.markers = add_markers(backbone, config.marker_init)
        self.latents_per_group = config.latents_per_step
        self._stages = self._all_stages()

    @classmethod
    def most_latents(cls, config: CoconutConfig) -> int:
        """Those of the last stage."""
        return config.latents_per_step * config.max_stage

    def new_tokens(self) -> tuple[int, ...]:
        """The three markers."""
        return self.markers.ids

    def _all_stages(self) -> tuple[Stage, ...]:
        """Stages 0..K+1, by their number."""
        c = self.config
        full = c.max_stage if c.pad_to_max else None
        restart = c.restart_optimizer
        stages = [Stage(index=0, removed=0, groups=0 if c.curriculum == "staged" else full)]
        for k in range(1, c.max_stage + 1):
            stages.append(Stage(index=k, removed=k, groups=k if c.curriculum == "staged" else full, restart=restart))
        return (*stages, Stage(index=c.max_stage + 1, removed=None, groups=full, restart=restart))

    def curriculum(self) -> Curriculum:
        """Stages from `first_stage` on; with "none" the last stage only."""
        if self.config.curriculum == "none":
            return single(self._stages[-1])
        return stagewise(self._stages[self.config.first_stage :], self.config.epochs_per_stage)

    def _mixed(self, stage: Stage, rng: Random) -> Stage:
        """The stage of one row, if rows of other stages are mixed in."""
        c = self.config
        if c.mixing == "none" or rng.random() >= c.mixing_probability:
            return stage
        if c.mixing == "uniform":
            return rng.choice(self._stages)
        earlier = self._stages[: stage.index + 1]
        return rng.choices(earlier, weights=[i + 1 for i in range(len(earlier))])[0]

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The row at a stage; see the card."""
        stage = self._mixed(stage, rng)
        parts = pieces(self.backbone, self.config.template, example)
        steps = len(parts.steps)
        removed = steps if stage.removed is None else min(stage.removed, steps)
        groups = min(steps, self.config.max_stage) if stage.groups is None else stage.groups
        latents = groups * self.latents_per_group
        refuse_markers((*parts.question, *sum(parts.steps, ()), *parts.answer), self.markers, example.id)
        covered = removed if self.config.curriculum == "staged" else steps
        head = self.markers.prompt(parts.question, latents, name=example.id, steps_covered=covered)
        return head.followed_by((*sum(parts.steps[removed:], ()), *parts.answer))

    def written(self, example: Example) -> Written:
        """Every step, then the answer."""
        return whole(self.backbone, self.config.template, example)

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """question | bot | latents | eot, with the last stage's maximum number of latents.

        Raises:
            ConfigError: a negative number of latents.
            DataError: the question contains a marker.
        """
        latents = thoughts_asked(latents, self.config.max_stage * self.latents_per_group)
        ids = refuse_markers(question_ids(self.backbone, self.config.template, question), self.markers, name)
        return self.markers.prompt(ids, latents, name=name)

    def source(self) -> Source | PrecomputedThoughts | None:
        """The recurrence without a projection; None for pause tokens, which are part of the prompt."""
        if self.config.thoughts == "unfed":
            return Unfed(self.markers.latent, self.backbone.embed)
        return Recurrence() if self.config.thoughts == "recurrent" else None
