"""SIM-CoT: an auxiliary decoder explains every thought group in the words of its step during training, and is then dropped.

Paper: Wei et al., "SIM-CoT: Supervised Implicit Chain-of-Thought", arXiv 2509.20317, section 3.
Idea: latents that only the answer supervises collapse when there are many. A decoder that sees nothing but the c latents
    of group k must write step k; its cross-entropy flows through the latents into the base model.
    Loss = inner method's loss + weight x mean over groups of the step's cross-entropy.
Row:    the inner method's; and per group, to the decoder:   latent x c | step k | eos
        labels on the step and eos; the last latent predicts the step's first token
Trains: the inner method's parameters and the decoder. Freezes: what the inner method freezes (or one side: `trains`).
Reference code: InternLM/SIM-CoT f3ae967 (Coconut/coconut.py, Coconut/dataset.py), Apache-2.0.
    CODI/src/model.py, CODI/train.py.
Relations: wraps any method with thought groups (`latents_per_group`); on `coconut` with `curriculum="progressive"` it is the
    recipe its authors recommend (all latents from the start, text steps withdrawn one per stage; issues 7 and 11); on
    `codi` a latent is a group, and `normalisation="group"` is the released loss.
Departures:
    - The auxiliary loss is computed. The released runner never feeds step targets to the model, so that it trains plain
      Coconut with an idle decoder (parity cases `*_asreleased`).
    - Groups that have no step are not supervised (`missing="nothing"`); the released code trains them to write the text
      that is still visible (`missing="visible"`).
    - Steps come as strings: any text is a step, also without `<<` and `>>`.
    - On CODI, targets are whole steps. The released code cuts every target of a batch to the length of its first row's
      step, down to "<<" where that row has none; its later targets begin with the space before the step, and merged
      ones follow each other without a newline.
    - The decoder's dropout is off in training, on CODI too, where the released code has it on (`decoder.dropout`).
    - All groups go through the decoder in one call (released: one call per group, one padded column more).
    - A row without latents (stage 0) has no auxiliary loss (released: division by zero).
    - `reads="states"` (ours): the decoder reads the states that latents are made from, before any projection; with
      `coconut`'s `thoughts="unfed"` supervision without recurrence.
    - Where the decoder alone trains (`trains="decoder"`; a probe), the frozen method's dropout is off, and its last stage is
      the only one (released, `only_expainable_llm`: both as in any training).

Shapes: B rows, G thought groups, M groups with a target, C latents per group, D width.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import field, replace
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from unspoken.core.auxiliary.step_decoder import StepDecoder, StepDecoderConfig
from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.loop.trace import Trace
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Curriculum, Stage, single
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method, method_config
from unspoken.methods.base import Counts, LossReport, Part, Wrapper

STEP_TARGETS = "step_targets"
"""The name in `Row.extra` of, per thought group, the token ids of its step, eos included; () for a group without one."""


@config_class
class SimCotConfig:
    """Settings of `SimCot`; defaults are the released code's, the alignment of steps excepted (see Departures)."""

    name: Literal["sim_cot"] = "sim_cot"
    inner: Annotated[Any, BeforeValidator(method_config)]  # the method to supervise, e.g. {"name": "coconut"}
    decoder: StepDecoderConfig = field(default_factory=StepDecoderConfig)
    reads: Literal["latents", "states"] = "latents"  # what the decoder sees: what is fed, or the states it is made from
    weight: float = 1.0  # of the auxiliary loss (coconut.py: hard-coded)
    # A step's loss: summed over its tokens, then mean over rows and groups (released on Coconut); mean over the tokens of a
    # group, then over groups (released on CODI); or mean over all tokens.
    normalisation: Literal["sequence", "group", "token"] = "sequence"
    surplus: Literal["merge", "spread"] = "merge"  # more steps than groups: the last group takes the tail, or all share
    missing: Literal["nothing", "spread", "visible"] = "nothing"  # fewer: rest unsupervised, spread out, or as released
    trains: Literal["both", "inner", "decoder"] = "both"
    max_step_tokens: int = 48  # when latents are decoded into words

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"weight must be 0 or more, got {self.weight}")


def align(steps: int, groups: int, surplus: str, missing: str) -> list[tuple[int, ...]]:
    """Which steps each thought group stands for.

    Args:
        steps: number of steps.
        groups: number of thought groups.
        surplus: "merge" (one step each, the last group takes the rest) or "spread" (contiguous, as even as possible).
        missing: "spread" puts each step at the end of its even share of the groups; otherwise the first groups take one
            step each.

    Returns:
        Step numbers per group, () for a group without one.
    """
    if groups == 0:
        return []
    if steps > groups:
        if surplus == "merge":
            return [*((k,) for k in range(groups - 1)), tuple(range(groups - 1, steps))]
        cuts = [k * steps // groups for k in range(groups + 1)]
        return [tuple(range(a, b)) for a, b in itertools.pairwise(cuts)]
    if missing == "spread":
        ends = {(i + 1) * groups // steps - 1: i for i in range(steps)}
        return [(ends[k],) if k in ends else () for k in range(groups)]
    return [(k,) if k < steps else () for k in range(groups)]


_LONG = Example(id="any", question="?", steps=("1+1=2",) * 8, answer="2")
"""A problem with several steps, to see whether a method says what its latents stand for."""


class SimCot(Wrapper):
    """Step supervision for any method with thought groups. See the module's card."""

    Config = SimCotConfig
    config: SimCotConfig
    explains = True

    def __init__(self, config: SimCotConfig, backbone: Backbone) -> None:
        super().__init__(config, make_method(config.inner, backbone))
        if not self.method.latents_per_group:
            raise ConfigError(f"sim_cot needs a method with thoughts inside; {config.inner.name!r} has none")
        made = self.method.source()
        if config.reads == "states" and (made is None or isinstance(made, PrecomputedThoughts)):
            raise ConfigError(
                f"reads='states' needs latents that the model makes from its states; those of {config.inner.name!r} are "
                "there before its first pass (coconut: thoughts='unfed' keeps the states)"
            )
        self._check_steps()
        self.decoder = StepDecoder(config.decoder, backbone)
        if config.trains == "inner":
            self.decoder.requires_grad_(False)
        elif config.trains == "decoder":
            self.method.requires_grad_(False)

    def _check_steps(self) -> None:
        """Refuse a method whose rows never say which steps their latents stand for: no group would be supervised.

        Raises:
            ConfigError: names the method and the field.
        """
        with contextlib.suppress(DataError):  # a method that needs more of its data than steps
            row = self.method.layout(_LONG, self.method.curriculum().last, Random(0))
            if row.latents and not row.steps_covered:
                raise ConfigError(
                    f"sim_cot has no step to supervise: rows of {self.config.inner.name!r} have latents, but do not say how "
                    "many steps these stand for; set Row.steps_covered in its layout"
                )

    def train(self, mode: bool = True) -> SimCot:
        """A frozen inner method has no dropout: the decoder learns to read the latents that it will get at inference."""
        super().train(mode)
        if self.config.trains == "decoder":
            self.method.train(False)
        return self

    @property
    def trains_base(self) -> bool:
        """False if only the decoder trains."""
        return self.config.trains != "decoder" and self.method.trains_base

    def parts(self) -> dict[str, Part]:
        """The decoder, which answering does not need."""
        elsewhere = self.config.decoder.path is not None
        return {"decoder": Part(module=self.decoder, needed="explain", lm=self.decoder if elsewhere else None)}

    def curriculum(self) -> Curriculum:
        """The inner method's curriculum; only its last stage if the method is frozen."""
        whole = self.method.curriculum()
        return single(whole.last) if self.config.trains == "decoder" else whole

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The inner method's row, with a target for every thought group."""
        row = self.method.layout(example, stage, rng)
        c = self.config
        groups = align(row.steps_covered, (row.latents + row.unfed_latent) // self.latents_per_group, c.surplus, c.missing)
        eos = self.backbone.tokenizer.eos_token_id
        newline = self.backbone.encode("\n")
        # The text that is still written: from after the last latent's marker to eos.
        visible = tuple(i for i in row.labels if i >= 0)
        targets: list[tuple[int, ...]] = []
        for numbers in groups:
            words: tuple[int, ...] = ()
            for number in numbers:
                words += (newline if words else ()) + self.backbone.encode(example.steps[number].strip())
            if words:
                targets.append((*words, eos))
            else:
                targets.append(visible if c.missing == "visible" else ())
        return replace(row, extra={**row.extra, STEP_TARGETS: HostValue(tuple(targets))})

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...]:
        """The step that each thought group stands for; None for a group without one.

        At the end of training, or at the stage with this number of groups.
        """
        curriculum = self.method.curriculum()
        stage = curriculum.last
        if stage.groups not in (None, groups):
            stage = next((phase.stage for phase in curriculum.phases if phase.stage.groups == groups), stage)
        covered = self.method.layout(example, stage, Random(0)).steps_covered
        numbers_G = align(covered, groups, self.config.surplus, self.config.missing)
        return tuple("\n".join(example.steps[i].strip() for i in numbers) or None for numbers in numbers_G)

    def counts(self, batch: Batch) -> Counts:
        """The inner method's counts, and per group: the number of rows with a target and of target tokens."""
        targets_B = batch.values(STEP_TARGETS, ())
        most = max(map(len, targets_B), default=0)
        rows_G, tokens_G = np.zeros(most), np.zeros(most)
        for targets in targets_B:
            rows_G[: len(targets)] += [len(step) > 0 for step in targets]
            tokens_G[: len(targets)] += [len(step) for step in targets]
        return {**self.method.counts(batch), "explain_rows": rows_G, "explain_tokens": tokens_G}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The inner method's loss and the decoder's."""
        report = self.method.forward(batch, counts)
        terms = {} if self.config.trains == "decoder" else dict(report.terms)
        terms["explain"] = self.config.weight * self._explain_loss(batch, counts, report.trace)
        return LossReport(terms=terms, trace=report.trace, metrics=report.metrics)

    def _explain_loss(self, batch: Batch, counts: Counts, trace: Trace) -> Tensor:
        """Cross-entropy of all steps given their groups, normalised according to the config."""
        # If a method has several sets of thoughts per row, each is explained and the loss is averaged.
        copies = len(trace.counts_B) // len(batch)
        targets_B = batch.values(STEP_TARGETS, ()) * copies
        places = [(b, g) for b, targets in enumerate(targets_B) for g, step in enumerate(targets) if step]
        read_BKD = self._read(trace)
        if not places and self.decoder.agree is not None:  # it goes along with processes whose rows have steps
            none_MCD = read_BKD.new_zeros(1, self.latents_per_group, read_BKD.shape[2])
            return read_BKD.sum() * 0.0 + self.decoder.loss(none_MCD, [(0, 0)], none_MCD[0, 0, :1])
        if not places:
            return read_BKD.sum() * 0.0 + sum(p.sum() * 0.0 for p in self.decoder.parameters())
        targets = [targets_B[b][g] for b, g in places]
        tokens_G = counts["explain_tokens"]
        per_G = {
            "sequence": counts["explain_rows"] * (tokens_G > 0).sum(),
            "group": tokens_G * (tokens_G > 0).sum(),
            "token": np.full_like(tokens_G, tokens_G.sum()),
        }[self.config.normalisation]
        weights = [1.0 / (copies * per_G[g]) for _, g in places]
        latents_MCD = self._groups(trace, places)
        return self.decoder.loss(latents_MCD, targets, latents_MCD.new_tensor(weights))

    def _read(self, trace: Trace) -> Tensor:
        """What the decoder reads [B, K, D]."""
        if self.config.reads == "latents":
            return trace.latents_BKD
        assert trace.states_BKD is not None, "latents that the model makes have states"
        return trace.states_BKD

    def _groups(self, trace: Trace, places: list[tuple[int, int]]) -> Tensor:
        """What the decoder reads [M, C, D] of the given (row, group) pairs."""
        C, read_BKD = self.latents_per_group, self._read(trace)
        B, K, D = read_BKD.shape
        flat = torch.tensor([b * (K // C) + g for b, g in places], device=read_BKD.device)
        return read_BKD[:, : K // C * C].reshape(B * (K // C), C, D).index_select(0, flat)

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """Decode each row's thought groups into text, greedily and in one batch."""
        sizes = [int(n) // self.latents_per_group for n in trace.counts_B]
        places = [(b, g) for b, size in enumerate(sizes) for g in range(size)]
        said = iter(self.decoder.explain(self._groups(trace, places), self.config.max_step_tokens) if places else [])
        return [tuple(next(said) for _ in range(size)) for size in sizes]
