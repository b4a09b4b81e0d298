"""`Method`: the interface between a paper's file and the rest of the package.

A method defines its rows, its source of latents, its loss and its schedule. Saving, answering, evaluating and inspecting
work for all methods alike and are not its concern.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
from torch import Tensor, nn

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sources import PrecomputedThoughts, Source
from unspoken.core.loop.trace import Trace
from unspoken.core.losses import labelled_loss
from unspoken.core.rows.batch import Batch
from unspoken.core.rows.curriculum import Curriculum, Stage
from unspoken.core.rows.label_marks import label_weights
from unspoken.core.rows.metrics import Metrics
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.core.text.template import Template, Written
from unspoken.errors import ConfigError

Counts = dict[str, np.ndarray]
"""Denominators of a batch's loss terms, known before any forward pass: term -> a scalar or a vector. Arrays of objects hold
what all rows of the step are compared with (SemCoT: the condensed texts of the other rows).

The training loop adds the counts of all micro-batches and processes of an optimizer step, so that the step does not depend
on how its rows were split.
"""


@dataclass(kw_only=True)
class LossReport:
    """A loss in named terms that sum to the total.

    Attributes:
        terms: weighted, normalised scalars with gradient.
        trace: the latents of the batch, for methods that wrap this one.
        metrics: further quantities to log, as sums and counts.
    """

    terms: dict[str, Tensor]
    trace: Trace
    metrics: Metrics = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the terms, which is differentiated."""
        first, *rest = self.terms.values()
        return sum(rest, start=first)


Purpose = Literal["train", "explain", "answer"]
"""What a part is needed for: only the loss, decoding latents into words, or answering."""


class SavedLM(Protocol):
    """A language model beside the base model, such as an assistant or a pretrained decoder.

    Attributes:
        lm: the model; its tensors are not saved in method.safetensors.
        named: "path" and "weights" (a hash) of a model that is not saved, because it does not train and is available
            elsewhere; None = it is saved.
        context: the most positions it takes; None if unknown.
    """

    @property
    def lm(self) -> nn.Module: ...
    @property
    def named(self) -> dict[str, str] | None: ...
    @property
    def context(self) -> int | None: ...
    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder."""
        ...

    def restore(self, folder: Path) -> None:
        """Restore what such a folder holds besides weights and tokenizer (`core/lm/adapters.py`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module of a method, beside its base model.

    Attributes:
        module: the module; its tensors are saved in method.safetensors.
        needed: what it is needed for. Exports leave out parts that answering does not need, if they belong to a `Wrapper`
            or `answering_config` makes a method without them.
        lm: the language model that it is or holds, if that is saved as a Hugging Face folder with the part's name. The
            method's settings then have a field of that name whose `path` says which model it is.
    """

    module: nn.Module
    needed: Purpose = "answer"
    lm: SavedLM | None = None


class MethodConfig(Protocol):
    """What a method is built from: a frozen dataclass whose `name` says which method."""

    @property
    def name(self) -> str: ...


class Method(nn.Module, ABC):
    """Base class of methods. `forward(batch, counts)` is the loss.

    Every method implements `curriculum`, `layout` and `prompt`. The rest has defaults: token cross-entropy as the loss, no
    latents, nothing that explains them, no modules beside the base model.

    Args:
        config: the frozen config it is built from.
        backbone: the base model, which the method owns from then on; None if a wrapped method owns it.

    Attributes:
        Config: the class of its config, whose first field is `name`.
        latents_per_group: latents per thought group; 0 for a method without latents.
        explains: whether it can decode latents into words.
        template: how a question becomes a prompt, if prompts hold nothing else but the method's own tokens; else None. By
            default the config's `Template`, if it has one.
    """

    Config: ClassVar[type]
    config: Any  # of the class `Config`, which is each method's own
    latents_per_group: int = 0
    explains: bool = False
    template: Template | None = None

    def __init__(self, config: MethodConfig, backbone: Backbone | None) -> None:
        super().__init__()
        self.config = config
        template = getattr(config, "template", None)
        self.template = template if isinstance(template, Template) else None
        if backbone is not None:
            self._modules["backbone"] = backbone  # `backbone` itself is a property, which wrappers override

    @property
    def backbone(self) -> Backbone:
        """The base model."""
        return cast("Backbone", self._modules["backbone"])

    @classmethod
    def most_latents(cls, config: Any) -> int:
        """The most latents in a row with this config; 0 for a method without latents, or if a wrapped one has them.

        Checked against the base model's context before the method is built.
        """
        return 0

    @property
    def at_inference(self) -> Method:
        """The method that remains at inference: itself, unless it wraps a method that answers without it."""
        return self

    @property
    def wrapped(self) -> Method | None:
        """The method that it wraps or is made of, if any."""
        return None

    # the method

    @abstractmethod
    def curriculum(self) -> Curriculum:
        """The schedule of stages; the training loop follows it."""

    @abstractmethod
    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """A training row of a problem at a stage. `rng` is seeded by run, epoch and example."""

    @abstractmethod
    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """The row that inference starts from. Sees the question only.

        Args:
            latents: how many; None = as many as at the end of training.
            name: the question's name in errors.
        """

    def source(self) -> Source | PrecomputedThoughts | None:
        """Where latents come from; None if there are none, or they are tokens of the prompt."""
        return None

    def counts(self, batch: Batch) -> Counts:
        """Denominators of the batch's loss terms; by default the number of labelled tokens, for "answer"."""
        return {"answer": answer_counts(batch)}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The loss of a batch, each term divided by `counts`, which may cover more than this batch.

        By default token cross-entropy, averaged over the labelled tokens in `counts`.
        """
        trace = unroll(self.backbone, batch, self.source())
        loss, metrics = labelled_loss(trace, batch, self.backbone.logits)
        return LossReport(terms={"answer": loss / float(counts["answer"])}, trace=trace, metrics=metrics)

    # what it may have as well

    def parts(self) -> dict[str, Part]:
        """Modules beside the base model, by name; without those of a wrapped method.

        A module that is not listed is saved too, and counts as needed for answering.
        """
        return {}

    def new_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that it has added to the base model. Their embedding rows train even if the rest is frozen
        (LoRA)."""
        return ()

    @property
    def trains_base(self) -> bool:
        """Whether the base model or its adapters may train; False if the settings freeze it."""
        return True

    def answering_config(self) -> Any:
        """The config for answering, which exports use: without parts that answering does not need (`Part.needed`), and
        without settings that only speed up training."""
        return self.config

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """Per row, the decoded step of each thought group; () if the method cannot decode latents."""
        return [() for _ in trace.counts_B]

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...] | None:
        """The step that each of a problem's thought groups stands for; None if the method does not define it."""
        return None

    @property
    def uses_steps(self) -> bool:
        """Whether it writes, removes or replaces the steps of its examples."""
        return True

    def written(self, example: Example) -> Written | None:
        """The written chain of a problem and what follows it, if the method is trained on this text: its rows' labels are
        these tokens, of which a curriculum may have removed some. None otherwise."""
        return None

    @property
    def advice(self) -> str:
        """What to change about the method if its loss is not finite; "" = no advice."""
        return ""

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse, before training starts, a batch that this method cannot learn from. By default nothing is checked.

        Raises:
            DataError: says what is wrong with the batch.
        """


class Layer(Method):
    """A method made of another one, `wrapped`, to which it delegates everything that it does not override."""

    @property
    @abstractmethod
    def wrapped(self) -> Method:
        """The method that it is made of."""

    @property
    def backbone(self) -> Backbone:
        """The wrapped method's."""
        return self.wrapped.backbone

    @property
    def trains_base(self) -> bool:
        """See `Method.trains_base`."""
        return self.wrapped.trains_base

    def curriculum(self) -> Curriculum:
        """See `Method.curriculum`."""
        return self.wrapped.curriculum()

    def layout(self, example: Example, stage: Stage, rng: Random) -> Row:
        """See `Method.layout`."""
        return self.wrapped.layout(example, stage, rng)

    def prompt(self, question: str, latents: int | None = None, name: str = "") -> Row:
        """See `Method.prompt`."""
        return self.wrapped.prompt(question, latents, name)

    def source(self) -> Source | PrecomputedThoughts | None:
        """See `Method.source`."""
        return self.wrapped.source()

    def counts(self, batch: Batch) -> Counts:
        """See `Method.counts`."""
        return self.wrapped.counts(batch)

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The wrapped method's loss."""
        return self.wrapped(batch, counts)


class Wrapper(Layer):
    """A method around another one: it adds to rows and loss in training, and the other answers without it.

    The wrapped method is `self.method`; its config is the field `inner`.
    """

    method: Method

    def __init__(self, config: MethodConfig, method: Method) -> None:
        super().__init__(config, None)
        self.method = method
        self.latents_per_group = method.latents_per_group

    @property
    def wrapped(self) -> Method:
        """The wrapped method."""
        return self.method

    @property
    def at_inference(self) -> Method:
        """The wrapped method, which answers alone."""
        return self.method.at_inference


def thoughts_asked(latents: int | None, usual: int, what: str = "latents") -> int:
    """The number of latents of a prompt: as requested, or the usual number.

    Raises:
        ConfigError: a negative number.
    """
    latents = usual if latents is None else latents
    if latents < 0:
        raise ConfigError(f"the number of {what} must be 0 or more, got {latents}")
    return latents


def add_counts(parts: Sequence[Mapping[str, np.ndarray]]) -> Counts:
    """Add the counts of parts. Shorter vectors are padded with 0; arrays of objects are concatenated."""
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
    """The total weight of a batch's labels, as float; their number if no row has label marks."""
    weights_N = label_weights(batch)
    return np.array(float(len(batch.label_places()[2])) if weights_N is None else weights_N.sum())


def latents_at(method: Method, stage: Stage, last: Stage, question: str) -> int | None:
    """The number of latents for a model trained up to a stage; None = the default of `prompt`.

    With more latents, as at the end of training, it would meet positions that it has never seen.

    Args:
        last: the last stage of the curriculum, which `prompt` assumes.
        question: any question, to ask `prompt` for the default number.
    """
    if stage.groups is None or stage.groups == last.groups:
        return None
    latents = stage.groups * method.latents_per_group
    return None if latents == method.prompt(question).latents else latents


def layers(method: Method) -> Iterator[Method]:
    """A method and those that it wraps, outermost first."""
    layer: Method | None = method
    while layer is not None:
        yield layer
        layer = layer.wrapped


def replace_innermost(config: Any, **fields: object) -> Any:
    """Replace fields in the config of the innermost wrapped method; in the config itself if it wraps none."""
    inner = getattr(config, "inner", None)
    return replace(config, **fields) if inner is None else replace(config, inner=replace_innermost(inner, **fields))


def parts_of(method: Method) -> dict[str, Part]:
    """The parts of a method and of all that it wraps.

    Raises:
        ConfigError: two have the same name.
    """
    found: dict[str, Part] = {}
    for layer in layers(method):
        for name, part in layer.parts().items():
            if name in found:
                raise ConfigError(
                    f"two parts of method {method.config.name!r} are called {name!r}; rename the one that "
                    f"{layer.config.name!r}, or what wraps it, declares in `parts`"
                )
            found[name] = part
    return found


def new_tokens_of(method: Method) -> tuple[int, ...]:
    """The tokens that a method and all that it wraps have added to the base model."""
    return tuple(dict.fromkeys(token for layer in layers(method) for token in layer.new_tokens()))
