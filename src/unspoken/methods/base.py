"""`Method`: what a paper's file provides, and what the rest of the package may ask of it.

A method owns its rows, its source of latents, its loss and its schedule. It does not save, decode, evaluate or inspect.
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


Purpose = Literal["train", "explain", "answer"]
"""What something is needed for: the loss alone; decoding latents into words; answering."""


class SavedLM(Protocol):
    """A language model beside the base model: an assistant, a decoder that came from elsewhere.

    Attributes:
        lm: the model; its tensors are not among those of the method that are kept in method.safetensors.
        named: "path" and "weights" (a hash) of a model that need not be saved, since it lies elsewhere and does not train;
            None = it is saved.
        context: the most positions it takes; None where it does not say.
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
        """Put back what such a folder holds beside weights and tokenizer (`core/lm/adapters.py`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module that a method has beside its base model.

    Attributes:
        module: what it is; its tensors are kept in method.safetensors.
        needed: what for. Exports leave out what answering does not need: with the `Wrapper` that has it, or where
            `answering_config` makes a method without it.
        lm: the language model that it is or holds, where that is kept as a Hugging Face folder of the part's name. The
            method's settings then have a field of the same name that says which model it is, by its `path`.
    """

    module: nn.Module
    needed: Purpose = "answer"
    lm: SavedLM | None = None


class Method(nn.Module, ABC):
    """What a paper's file provides. `forward(batch, counts)` is the loss.

    `curriculum`, `layout`, `prompt` and `forward` are the method. The rest has a default for methods that have no such
    thing: no latents, nothing that explains them, nothing beside the base model; and so has `forward`.

    Args:
        config: the frozen config it is built from.
        backbone: the base model, which becomes the method's own; None where a method that it is made of has it.

    Attributes:
        Config: the class of its config, whose first field is `name`.
        latents_per_group: latents per thought group; 0 where the method makes no thoughts.
        explains: it can decode latents into words.
        template: how a question becomes a prompt, where that is all its prompts hold beside tokens of the method; else None.
            By default the `Template` of its config, where that has one.
    """

    Config: ClassVar[Any]
    config: Any
    latents_per_group: int = 0
    explains: bool = False
    template: Template | None = None

    def __init__(self, config: Any, backbone: Backbone | None) -> None:
        super().__init__()
        self.config = config
        template = getattr(config, "template", None)
        self.template = template if isinstance(template, Template) else None
        if backbone is not None:
            self._modules["backbone"] = backbone  # `backbone` itself is a property, which a wrapper answers otherwise

    @property
    def backbone(self) -> Backbone:
        """The base model."""
        return cast("Backbone", self._modules["backbone"])

    @classmethod
    def most_latents(cls, config: Any) -> int:
        """The most latents in a row that a config asks for; 0 where the method has none, or a wrapped one has them.

        Checked against the base model's context before the method is built.
        """
        return 0

    @property
    def at_inference(self) -> Method:
        """What is left at inference: the method itself, unless it wraps one that answers without it."""
        return self

    @property
    def wrapped(self) -> Method | None:
        """The method that it wraps, or is made of."""
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
            latents: how many to think; None = as many as training ended with.
            name: how errors name the question.
        """

    def source(self) -> Source | PrecomputedThoughts | None:
        """Where latents come from; None where there are none, or they are tokens of the prompt."""
        return None

    def counts(self, batch: Batch) -> Counts:
        """Denominators of the batch's loss terms: of "answer", its labelled tokens."""
        return {"answer": answer_counts(batch)}

    def forward(self, batch: Batch, counts: Counts) -> LossReport:
        """The loss of a batch, each term divided by `counts` (which may be those of a larger whole).

        By default token cross-entropy, mean over the labelled tokens that `counts` speaks of: most methods learn by no
        more.
        """
        trace = unroll(self.backbone, batch, self.source())
        loss, metrics = labelled_loss(trace, batch, self.backbone.logits)
        return LossReport(terms={"answer": loss / float(counts["answer"])}, trace=trace, metrics=metrics)

    # what it may have besides

    def parts(self) -> dict[str, Part]:
        """Modules beside the base model, by name; those of a wrapped method are its own.

        One that is left out here is kept as any other, and counts as needed for answering.
        """
        return {}

    def new_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that it has added to the base model. Their rows train even where the rest is frozen (LoRA)."""
        return ()

    @property
    def trains_base(self) -> bool:
        """Whether the base model, or adapters of it, may train; False where the settings say that it stays as it is."""
        return True

    def answering_config(self) -> Any:
        """The config of what is left for answering, as exports hold it: without parts that are needed for something else
        (`Part.needed`), and without what makes only training faster."""
        return self.config

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """Per row, the decoded step of each thought group; () where the method cannot read its latents."""
        return [() for _ in trace.counts_B]

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...] | None:
        """What each of so many thought groups of a problem stands for; None where the method does not say."""
        return None

    @property
    def uses_steps(self) -> bool:
        """Whether it writes, removes or replaces the steps of its examples."""
        return True

    def written(self, example: Example) -> Written | None:
        """The chain of a problem and what follows it, where the method is trained on it: on all of it, or on what a
        curriculum leaves. Labels of its rows are these tokens; some of the chain may be gone. None where it is not."""
        return None

    @property
    def advice(self) -> str:
        """What to change about the method itself where its loss is not finite; "" = nothing."""
        return ""

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse, before training starts, a batch that this method cannot learn from. By default nothing is looked at.

        Raises:
            DataError: says what is wrong with the batch.
        """


class Layer(Method):
    """A method that is made of another one, `wrapped`, and does as that does where it says nothing else."""

    @property
    @abstractmethod
    def wrapped(self) -> Method:
        """The method that it is made of."""

    @property
    def backbone(self) -> Backbone:
        """The wrapped method's, as all that follows."""
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
    """A method around another one, which answers without it: it adds to the rows and to the loss of training.

    Its config has the other's as the field `inner`; the other itself is `self.method`.
    """

    method: Method

    def __init__(self, config: Any, method: Method) -> None:
        super().__init__(config, None)
        self.method = method
        self.latents_per_group = method.latents_per_group

    @property
    def wrapped(self) -> Method:
        """The wrapped method."""
        return self.method

    @property
    def at_inference(self) -> Method:
        """What inference needs: the wrapped method."""
        return self.method.at_inference


def thoughts_asked(latents: int | None, usual: int, what: str = "latents") -> int:
    """How many latents a prompt is to have: as many as were asked for, or as are usual.

    Raises:
        ConfigError: a negative number.
    """
    latents = usual if latents is None else latents
    if latents < 0:
        raise ConfigError(f"the number of {what} must be 0 or more, got {latents}")
    return latents


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


def layers(method: Method) -> Iterator[Method]:
    """A method and those that it wraps, outermost first."""
    layer: Method | None = method
    while layer is not None:
        yield layer
        layer = layer.wrapped


def replace_innermost(config: Any, **fields: Any) -> Any:
    """A method's config with other values in fields of the method that is wrapped last; its own where it wraps none."""
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
