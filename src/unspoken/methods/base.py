"""The Method protocol: what a paper's file provides, and what the rest of the package may ask of it.

A method owns its rows, its source of latents, its loss and its schedule. It does not save, decode, evaluate or inspect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sources import PrecomputedThoughts, Source
from unspoken.core.loop.trace import Trace
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Curriculum, Stage
from unspoken.core.rows.label_marks import label_weights
from unspoken.core.rows.metrics import Metrics
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.core.text.template import Written

Counts = dict[str, np.ndarray]
"""Denominators of a batch's loss terms, known before any forward pass: term -> a scalar or a vector. Arrays of objects
are what all rows of the step are held against (SemCoT: the condensed texts of the others).

The training loop adds the counts of all micro-batches and processes that make up one optimizer step, so that a step does
not depend on how its rows were split up.
"""


@dataclass(kw_only=True)
class LossReport:
    """A loss in named terms that sum to the total.

    Attributes:
        terms: weighted and normalised scalars, with gradient.
        trace: the latents of the batch, for methods that wrap this one.
        metrics: sums and counts of what else there is to say; none by default.
    """

    terms: dict[str, Tensor]
    trace: Trace
    metrics: Metrics = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the terms: what is differentiated."""
        first, *rest = self.terms.values()
        return sum(rest, start=first)


@runtime_checkable
class Method(Protocol):
    """An `nn.Module` with these attributes. `forward(batch, counts)` is the loss.

    Attributes:
        config: the frozen config it was built from.
        backbone: the base model; a wrapping method passes on its inner one's.
        latents_per_group: latents per thought group; 0 where the method makes no thoughts.
        inner: what is left at inference: the method itself, or the one it wraps.
        explains: it can decode latents into words.
    """

    config: Any
    latents_per_group: int
    explains: bool

    @property
    def backbone(self) -> Backbone: ...

    @property
    def inner(self) -> Method: ...

    def curriculum(self) -> Curriculum:
        """The schedule of stages; the training loop follows it."""
        ...

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """A training row of a problem at a stage. `dice` is seeded by run, epoch and example."""
        ...

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """The row that inference starts from. Sees the question only.

        Args:
            latents: how many to think; None = as many as training ended with.
            name: how errors name the question.
        """
        ...

    def source(self) -> Source | PrecomputedThoughts | None:
        """Where latents come from; None where they are tokens of the prompt."""
        ...

    def counts(self, batch: Batch) -> Counts:
        """Denominators of the batch's loss terms."""
        ...

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The loss of a batch, each term divided by `counts` (which may be those of a larger whole)."""
        ...

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """Per row, the decoded step of each thought group. Only where `explains`."""
        ...


def add_counts(parts: Sequence[Mapping[str, np.ndarray]]) -> Counts:
    """Counts of a whole from those of its parts; a shorter vector counts 0 where it has no entry, objects are listed."""
    total: Counts = {}
    for term in parts[0]:
        if parts[0][term].dtype == object:
            total[term] = np.concatenate([part[term] for part in parts])
            continue
        longest = max(parts, key=lambda part: part[term].size)[term]
        total[term] = np.zeros_like(longest)
        for part in parts:
            total[term].reshape(-1)[: part[term].size] += part[term].reshape(-1)
    return total


def answer_counts(batch: Batch) -> np.ndarray:
    """What the labelled positions of a batch weigh, as float: their number, where no row is marked."""
    weights_N = label_weights(batch)
    return np.array(float(len(batch.label_places()[2])) if weights_N is None else weights_N.sum())


def latents_at(method: Method, stage: Stage, last: Stage, question: str) -> int | None:
    """How many latents a model thinks that has been trained up to a stage; None = as many as `prompt` gives by itself.

    Asked for more, as at the end of training, it would meet latents that it has never seen.

    Args:
        last: the stage that the curriculum ends in, which `prompt` assumes.
        question: any; its prompt says what the method's own number is.
    """
    if stage.groups is None or stage.groups == last.groups:
        return None
    latents = stage.groups * method.latents_per_group
    return None if latents == method.prompt(question).latents else latents


@runtime_checkable
class WritesChain(Protocol):
    """What a method has besides where it is trained on a written chain, all of it or what a curriculum leaves."""

    def written(self, example: Example) -> Written:
        """The chain of a problem and what follows it. Labels of its rows are these tokens; some of the chain may be gone."""
        ...


@runtime_checkable
class ChecksBatches(Protocol):
    """What a method may have besides: demands on its batches, and advice where training fails.

    Attributes:
        advice: what to change about the method itself where its loss is not finite; "" = nothing.
    """

    @property
    def advice(self) -> str: ...

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse, before training starts, a batch that this method cannot learn from.

        Raises:
            DataError: says what is wrong with the batch.
        """
        ...


def uses_steps(method: Any) -> bool:
    """Whether a method, or one that it wraps, writes, removes or replaces the steps of its examples: its own word, or its
    config's `steps`, where it has one."""
    return any(getattr(layer, "uses_steps", getattr(layer.config, "steps", True)) for layer in layers(method))


def layers(method: Any) -> Iterator[Any]:
    """A method and those that it wraps, outermost first."""
    while method is not None:
        yield method
        method = getattr(method, "method", None)
