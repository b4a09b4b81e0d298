"""MUX: the state that a latent is made from must predict its step's tokens, all at once, in a superposition that keeps their
order.

Paper: Suleymanzade et al., "MUX: Continuous Reasoning via Multiplexed Tokens", arXiv 2607.18264.
Idea: the target of a latent is a distribution over the vocabulary: each token of its step, weighted by a geometric series,
    so that a token's place can be read off its weight. Its divergence from what the model's own head says at the latent is
    the loss, beside the inner method's. Loss = inner loss + weight x mean KL of the latents with a step.
Row:    the inner method's; and per latent a span of tokens, e.g. for step "5+3=8":   5 .52, + .26, 3 .13, = .06, 8 .03
Trains: what the inner method trains. Freezes: what it freezes. Nothing is added to the model.
Reference code: none is published; the authors' weights are (Apache-2.0). Written from the paper's public description.
Relations: on `codi` it is the published MUX. `sim_cot` supervises latents through a second model, `lotus` a slot per token.
Departures:
    - What is published does not say how fast weights fall, nor how much the loss weighs: half as much per token, which is
      the fastest series in which any span of any length can be told from every other, and 1.
    - The head is the model's own.
    - Tokens whose weight float32 does not tell from nothing (behind the first 23) are left out.
    - A thought group of several latents shares its step's tokens out evenly, in order; steps beyond the last group go to
      that.

Shapes: N latents with a span, P pairs of a latent and a token of its span, D width, V words.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from unspoken.core.config import config_class
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import divergence_sum
from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.methods import make_method, method_config
from unspoken.methods.base import Counts, LossReport, Wrapper

SPANS = "spans"
"""The name in `Row.extra` of, per latent, the tokens that it stands for; () for a latent without any."""


@config_class
class MuxConfig:
    """Settings of `Mux`."""

    name: Literal["mux"] = "mux"
    inner: Annotated[Any, BeforeValidator(method_config)]  # the method whose latents are supervised, e.g. {"name": "codi"}
    weight: float = 1.0  # of the divergence; see Departures
    decay: float = 0.5  # of a token's weight to that of the token before it
    max_step_tokens: int = 12  # when latents are read as words

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError(f"weight must be 0 or more, got {self.weight}")
        if not 0 < self.decay <= 0.5:
            raise ConfigError(
                f"decay must be in (0, 0.5], got {self.decay}: with more, two spans can have the same superposition"
            )
        if self.max_step_tokens < 1:
            raise ConfigError(f"max_step_tokens must be at least 1, got {self.max_step_tokens}")


class Mux(Wrapper):
    """Superpositions of steps as the targets of latents. See the module's card."""

    Config = MuxConfig
    config: MuxConfig
    explains = True

    def __init__(self, config: MuxConfig, backbone: Backbone) -> None:
        super().__init__(config, make_method(config.inner, backbone))
        source = self.method.source()
        if not self.latents_per_group or source is None or isinstance(source, PrecomputedThoughts):
            raise ConfigError(f"mux supervises latents made from the model's own states; {config.inner.name!r} has none")

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """The inner method's row, with a span for every latent that stands for a step."""
        row = self.method.layout(example, stage, rng)
        c, groups = self.latents_per_group, row.latents // self.latents_per_group
        steps = [self.backbone.encode(step.strip()) for step in example.steps[: row.steps_covered]]
        if groups and len(steps) > groups:
            steps[groups - 1 :] = [sum(steps[groups - 1 :], ())]
        spans = [span for step in steps[:groups] for span in shares(step, c)]
        return replace(row, extra={**row.extra, SPANS: HostValue(tuple(spans))})

    def counts(self, batch: Batch) -> Counts:
        """The inner method's counts, and the number of latents with a span."""
        spans = sum(len(span) > 0 for spans in batch.values(SPANS, ()) for span in spans)
        return {**self.method.counts(batch), "spans": np.array(float(spans))}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The inner method's loss, and the divergence."""
        report = self.method(batch, counts)
        divergence = self._divergence(batch, report.trace) / max(float(counts["spans"]), 1.0)
        return replace(report, terms={**report.terms, "mux": self.config.weight * divergence})

    def _divergence(self, batch: Batch, trace: Trace) -> Tensor:
        """Divergence of what the head says at each latent from its span's superposition, summed."""
        assert trace.states_BKD is not None
        found = [(b, k, span) for b, spans in enumerate(batch.values(SPANS, ())) for k, span in enumerate(spans) if span]
        if not found:
            return trace.states_BKD.sum() * 0.0
        index_N2 = torch.tensor([(b, k) for b, k, _ in found], device=trace.states_BKD.device)
        targets = [superposition(span, self.config.decay) for _, _, span in found]
        return divergence_sum(trace.states_BKD[index_N2[:, 0], index_N2[:, 1]], targets, self.backbone.logits)

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """What each thought group's states say, demultiplexed."""
        assert trace.states_BKD is not None
        c, most = self.latents_per_group, self.config.max_step_tokens
        with torch.inference_mode():
            chances_BKV = self.backbone.logits(trace.states_BKD).float().softmax(dim=-1)
            top = chances_BKV.topk(min(most, chances_BKV.shape[-1]), dim=-1)
        spans_B = []
        for b, count in enumerate((trace.counts_B // c * c).tolist()):
            likely_K = zip(top.indices[b, :count].tolist(), top.values[b, :count].tolist(), strict=True)
            spans_B.append([demultiplexed(dict(zip(*likely, strict=True)), self.config.decay, most) for likely in likely_K])
        return [tuple(self._words(row[g : g + c]) for g in range(0, len(row), c)) for row in spans_B]

    def _words(self, spans: list[tuple[int, ...]]) -> str:
        """The text of a group's spans."""
        return self.backbone.decode([token for span in spans for token in span]).strip()

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...] | None:
        """The step of each thought group."""
        stage = self.method.curriculum().last
        steps = [step.strip() for step in example.steps[: self.method.layout(example, stage, Random(0)).steps_covered]]
        if groups and len(steps) > groups:
            steps[groups - 1 :] = ["".join(steps[groups - 1 :])]
        return (*steps[:groups], *(None,) * (groups - len(steps)))


def shares(step: tuple[int, ...], latents: int) -> list[tuple[int, ...]]:
    """A step's tokens shared out over its latents, in order, as evenly as possible."""
    cuts = [k * len(step) // latents for k in range(latents + 1)]
    return [step[a:b] for a, b in itertools.pairwise(cuts)]


def series(length: int, decay: float) -> np.ndarray:
    """The weights of a span's tokens: geometric, adding up to 1, and no smaller than float32 can tell from nothing."""
    weights = decay ** np.arange(length, dtype=np.float64)
    weights = weights[weights > np.finfo(np.float32).eps]
    return weights / weights.sum()


def superposition(span: tuple[int, ...], decay: float) -> dict[int, float]:
    """The distribution that stands for a span: token -> weight; those of a repeated token add up."""
    found: dict[int, float] = {}
    for token, weight in zip(span, series(len(span), decay).tolist(), strict=False):
        found[token] = found.get(token, 0.0) + weight
    return found


def demultiplexed(likely: Mapping[int, float], decay: float, most: int) -> tuple[int, ...]:
    """The span whose superposition is nearest to a distribution; of several, the shortest: a span that is one over and over
    has the same superposition as that one.

    For each length, the token with most mass comes first; without its weight, the next; and so on.

    Args:
        likely: token id -> probability, of the likeliest tokens.
        most: the longest span.
    """
    best: tuple[int, ...] = ()
    least = float("inf")
    for length in range(1, most + 1):
        left, span = dict(likely), []
        for weight in series(length, decay).tolist():
            token = max(left, key=left.__getitem__)
            span.append(token)
            left[token] -= weight
        if (rest := sum(map(abs, left.values()))) < least - 1e-6:
            best, least = tuple(span), rest
    return best
