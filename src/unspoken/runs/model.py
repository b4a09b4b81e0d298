"""`Model`: a trained method for its users: it answers, thinks and explains, whichever method it is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self, Unpack
from weakref import WeakKeyDictionary

import torch

from unspoken.core.checks import latents_asked, samples_differ
from unspoken.core.config import build, check_whole, dump
from unspoken.core.engine.answering import sample
from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.engine.stopping import StopDecider
from unspoken.core.extensions import extension
from unspoken.core.fast.cpu_linear import use_dtype
from unspoken.core.fast.switch import FastConfig, using
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.generate import OnTrace, think
from unspoken.core.loop.layers import LayerEdit, LayerTrace, LayerWatch
from unspoken.core.loop.sampling import SamplingOptions, SamplingParams
from unspoken.core.loop.soft import SoftThinking
from unspoken.core.loop.sources import PrecomputedThoughts, Source, parallel
from unspoken.core.loop.sources import SlotTokens as SlotTokens
from unspoken.core.loop.trace import Answer, Trace
from unspoken.core.rows.batch import longest_first
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.core.text.table import Table
from unspoken.errors import ConfigError, DataError
from unspoken.methods.base import Method, layers
from unspoken.runs.config import RunConfig
from unspoken.runs.soft import soft_plan
from unspoken.tasks import make_task
from unspoken.tasks.base import Task

_LOCKS: WeakKeyDictionary[Backbone, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(backbone: Backbone) -> threading.RLock:
    """The lock of a base model, which several models may share. Not an attribute, since a module with a lock cannot be
    copied."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(backbone, threading.RLock())


def _check_each(values: object, what: str, count: int) -> None:
    """Raise DataError unless a value is None or a list with one entry per question."""
    if values is None:
        return
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise DataError(f"{what} must be a list, one per question, got {type(values).__name__}")
    if len(values) != count:
        raise DataError(f"{what} must be one per question, got {len(values)} for {count} questions")


class AnswerOptions(SamplingOptions, total=False):
    """What may change from one call of `Model.answer` to the next, on the way from a question to its answer."""

    stop: StopDecider | str | None
    expect: str
    soft: SoftThinking | str | None


class CallOptions(AnswerOptions, total=False):
    """The arguments of `Model.answer` that may be left out."""

    latents: int | None
    names: Sequence[str] | None
    batch_size: int
    explain: bool
    edit: Edit | None
    on_token: Callable[[int, int], None] | None
    on_trace: OnTrace | None


MOST_ANSWERS = 10_000
"""The most answers to one question, all of which are in one batch."""


class Origin(Protocol):
    """The run that a model was loaded from."""

    @property
    def config(self) -> RunConfig:
        """The run's config."""
        ...

    def save(self, method: Method, out: str | Path) -> None:
        """Write a run directory with only what answering needs."""
        ...


class Model:
    """A method ready to answer questions.

    Thread-safe: threads take turns, one call at a time. Questions in one call run in parallel.

    Args:
        method: any method; a wrapper such as SIM-CoT answers like its inner method, and can explain.
        speaking: defaults of sampling.
        latents: default number of latents; None = as many as at the end of training.
        path: where it was loaded from, for reports.
        fast: settings of speed (`core/fast/switch.py`); None = those in force at the call.

    Attributes:
        parallel: make latents in this many parallel passes (`core/loop/sources.py:Jacobi`); None = as trained.
        stops: texts that end an answer, besides eos.
        begun: how answers begin in the prompt already; stands before their texts.
    """

    parallel: int | None = None
    stops: tuple[str, ...] = ()
    begun: str = ""

    def __init__(
        self,
        method: Method,
        speaking: SamplingParams | None = None,
        latents: int | None = None,
        path: str | None = None,
        fast: FastConfig | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.fast = fast
        self.speaking = speaking or SamplingParams()
        self.latents = latents
        self.dtype: str | None = None  # asked for at loading; None = the weights' own
        self.saved: str | None = None  # a hash of the files it was loaded from (`core/seal.py`)
        self.origin: Origin | None = None  # the run it was loaded from

    def __repr__(self) -> str:
        facts = ", ".join(f"{value}" if name == "model" else f"{name} {value}" for name, value in self._facts().items())
        return f"<Model {self.path or 'in memory'}: {facts}>"

    def _repr_html_(self) -> str:
        return Table(headings=("model", str(self.path or "in memory")), rows=[*self._facts().items()], text_columns=2).html()

    def _facts(self) -> dict[str, str]:
        """What it is, in a few words each."""
        backbone = self.method.backbone
        count, weight = sum(p.numel() for p in backbone.parameters()), next(backbone.parameters())
        each = self.method.latents_per_group
        return {
            "method": " around ".join(layer.config.name for layer in layers(self.method)),
            "base": f"{backbone.lm.config.model_type}, {count:,} parameters",
            "latents": "none" if not each else "as trained" if self.latents is None else str(self.latents),
            "thoughts": "can be decoded" if self.explains else "cannot be decoded",
            "device": f"{weight.device}, {self.dtype or str(weight.dtype).removeprefix('torch.')}",
        }

    @property
    def config(self) -> RunConfig:
        """The config of the run that it was loaded from.

        Raises:
            ConfigError: it was not loaded from a run.
        """
        return self._origin("config").config

    @property
    def task(self) -> Task:
        """The task that it was trained on, with its settings.

        Raises:
            ConfigError: it was not loaded from a run.
        """
        return make_task(self._origin("task").config.task)

    def to(self, device: str | torch.device) -> Self:
        """Move it to a device.

        Raises:
            ConfigError: rounded to int8, which is for the CPU.
        """
        if self.dtype == "int8" and torch.device(device).type != "cpu":
            raise ConfigError(f"int8 weights answer on the CPU only, not on {device}; load it with another dtype")
        with self.lock:
            self.method.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write a run directory with only what answering needs, as `unspoken.export` does, with the weights as they are now.

        Raises:
            ConfigError: it was not loaded from a run, or its weights are rounded (`dtype`).
            RunError: the folder exists and is not empty.
        """
        if self.dtype is not None:
            raise ConfigError(f"its weights are rounded to {self.dtype}, and would be saved so; load it without dtype first")
        with self.lock:
            self._origin("config to save with it").save(self.method.at_inference, folder)

    def _origin(self, what: str) -> Origin:
        if self.origin is None:
            raise ConfigError(f"this model was made in memory, so it has no {what}; load it from a run")
        return self.origin

    def use_dtype(self, dtype: str | None) -> None:
        """Answer in a precision: float32, bfloat16 or int8 (CPU only), as fast as the device allows; None = as trained.

        Raises:
            ConfigError: no such precision, or not on this machine.
        """
        if dtype == "int8":  # checked with exact layers: int8 layers round depending on the rest of the batch
            supports_kv_slots(self.method.backbone, 0)
        with using(self.fast):
            use_dtype(self.method, dtype)
        self.dtype = dtype

    @property
    def lock(self) -> threading.RLock:
        """Held while the base model runs, since its attention supports one pass at a time."""
        return _lock_of(self.method.backbone)

    @property
    def explains(self) -> bool:
        """Whether latents can be decoded into words."""
        return self.method.explains

    def answer(
        self,
        questions: Sequence[str],
        *,
        latents: int | None = None,
        names: Sequence[str] | None = None,
        batch_size: int = 32,
        explain: bool = False,
        edit: Edit | None = None,
        on_token: Callable[[int, int], None] | None = None,
        on_trace: OnTrace | None = None,
        stop: StopDecider | str | None = None,
        expect: str = "",
        watch: LayerWatch | None = None,
        soft: SoftThinking | str | None = None,
        **speaking: Unpack[SamplingOptions],
    ) -> list[Answer]:
        """Answer each question once; the arguments are those of `sample`.

        Returns:
            One `Answer` per question, in order.
        """
        said = self.sample(
            questions, latents=latents, names=names, batch_size=batch_size, explain=explain, edit=edit, on_token=on_token,
            on_trace=on_trace, stop=stop, expect=expect, watch=watch, soft=soft, **speaking,
        )  # fmt: skip
        return [only for (only,) in said]

    @property
    def chains(self) -> int:
        """How many sets of thoughts it has for one question."""
        source = self.method.source()
        return source.chains if isinstance(source, PrecomputedThoughts) else 1

    def sample(
        self,
        questions: Sequence[str],
        *,
        chains: int = 1,
        samples: int = 1,
        latents: int | None = None,
        names: Sequence[str] | None = None,
        batch_size: int = 32,
        explain: bool = False,
        edit: Edit | None = None,
        on_token: Callable[[int, int], None] | None = None,
        on_trace: OnTrace | None = None,
        numbers: Sequence[int] | None = None,
        stop: StopDecider | str | None = None,
        expect: str = "",
        watch: LayerWatch | None = None,
        soft: SoftThinking | str | None = None,
        **speaking: Unpack[SamplingOptions],
    ) -> list[tuple[Answer, ...]]:
        """Answer each question `chains` x `samples` times.

        Args:
            chains: sets of thoughts per question: the model's first ones. With `edit`, which can change each differently,
                any number: the model's sets are repeated.
            samples: answers from each set.
            questions: plain texts.
            latents: how many latents; None = the model's default.
            names: the questions' names in errors and keys; None = "question 0", ...
            batch_size: answers at a time; answers to one question are never split over batches, even if there are more.
            explain: decode the latents into steps (`Answer.thoughts`).
            edit: changes latents before they are fed: (latents_ND, keys_N, index_N) -> latents_ND. The key of set c of a
                question is (its name, c); `index_N` counts the latents of a row from 0.
            on_token: called with (question number, token id) as tokens are chosen.
            on_trace: called once per batch with its trace (the latents as they were fed) and a key per row.
            numbers: seeds the sampling of each question; None = its place in `questions`. With its places in a split, part
                of the split is answered exactly as in the whole.
            stop: a rule to stop thinking early, e.g. "confidence:0.9", or your own decider; None = think all latents.
            expect: the expected beginning of answers, e.g. "### ". Does not change answers; if right, they come sooner.
            watch: sees, and may change, the states of layers (`trace` is the short way); for one answer per question, and
                without a stop rule.
            soft: think softly, e.g. "soft" or "switch,limit=512" (`SoftThinking`), for models that write their thinking.
            speaking: fields of `SamplingParams` to change for this call: temperature, top_p, top_k, seed, max_new_tokens.

        Returns:
            The answers to each question, in order: all from the first set of thoughts, then all from the next.

        Raises:
            ConfigError: more sets of thoughts than the model has, several samples at temperature 0, explanations from a
                model without a decoder, or an unknown sampling field.
            DataError: a question is not a string, does not fit into the context, or contains a marker; or two have the same
                name while latents are edited or observed.
        """
        if explain and not self.explains:
            raise ConfigError("this model has no auxiliary decoder, so its thoughts cannot be shown; train it with sim_cot")
        check_whole(batch_size=batch_size, chains=chains, samples=samples, latents=latents)
        if batch_size is None or chains is None or samples is None:
            raise ConfigError("batch_size, chains and samples must be whole numbers, got None; leave out what is as usual")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if not isinstance(expect, str):
            raise ConfigError(f"expect must be a text, how answers are expected to begin; got {expect!r:.60}")
        unknown = set(speaking) - set(SamplingParams.__dataclass_fields__)
        if unknown:
            raise ConfigError(
                f"unknown speaking option {sorted(unknown)[0]!r}; known: {', '.join(SamplingParams.__dataclass_fields__)}"
            )
        said = build(SamplingParams, {**dump(self.speaking), **speaking})
        if samples < 1 or chains < 1 or (chains > self.chains and edit is None):
            raise ConfigError(
                f"samples must be at least 1 and chains in 1..{self.chains}, the sets of thoughts this model has; "
                f"got samples={samples}, chains={chains}"
            )
        if samples * chains > MOST_ANSWERS:
            raise ConfigError(
                f"{samples * chains} answers to each question are more than fit in one batch; {MOST_ANSWERS} at most: ask "
                "several times with other seeds"
            )
        if watch is not None and (samples * chains > 1 or stop is not None):
            raise ConfigError("layers are watched for one answer per question, without a stop rule; leave the others away")
        samples_differ(samples, said.temperature)
        source = self.source
        if edit is not None:
            if not self.method.latents_per_group:
                raise ConfigError("this method makes no latents while it thinks, so there is nothing to edit")
            source = source or SlotTokens(self.method.backbone.embed)
        decider = None if stop is None else self.stop_decider(stop)
        plan = None if soft is None else soft_plan(self.method, self.mark, soft)
        with self.alone():
            rows = self.rows(questions, latents, names)
            if (edit is not None or on_trace is not None) and len({row.name for row in rows}) < len(rows):
                raise DataError("two questions have one name, so their latents cannot be told apart; change one in names")
            _check_each(numbers, "numbers", len(rows))
            for number in numbers or ():
                check_whole(numbers=number)
            found = sample(
                self.method.backbone,
                rows,
                source,
                said,
                batch_size=batch_size,
                chains=chains,
                samples=samples,
                explain=self.method.explain if explain else None,
                edit=edit,
                on_token=on_token,
                on_trace=on_trace,
                watch=watch,
                numbers=numbers,
                decider=decider,
                expected=self.method.backbone.encode(expect) if expect else (),
                stops=self.stops,
                soft=plan,
            )
        if not self.begun:
            return found
        return [tuple(replace(one, text=self.begun + one.text) for one in answers) for answers in found]

    def batches(
        self, questions: Sequence[str], size: int, *, latents: int | None = None, names: Sequence[str] | None = None
    ) -> list[list[int]]:
        """The batches that `sample` makes, as places in `questions`: similar lengths together, longest first."""
        with self.lock:
            order = longest_first(self.rows(questions, latents, names))
        return [order[first : first + size] for first in range(0, len(order), size)]

    def think(self, questions: Sequence[str], *, latents: int | None = None) -> Trace:
        """Think about questions in one batch, without answering.

        Returns:
            A `Trace`: latents [B, K, D], the states they were made from, counts, cost.
        """
        with self.alone():
            return think(self.method.backbone, self.rows(questions, latents, None), self.source)

    def trace(
        self,
        questions: Sequence[str],
        *,
        layers: bool | Sequence[int] = True,
        edit_layers: LayerEdit | None = None,
        **how: Unpack[CallOptions],
    ) -> LayerTrace:
        """Answer questions, and keep the states of layers at every position: question, latents, answer.

        Args:
            layers: which to keep, by number: 0 is what enters the first layer, l what layer l puts out, negative ones count
                from the last. True = all.
            edit_layers: changes states on their way: (layer, states_BWD, columns) -> states_BWD.
            how: the other arguments of `answer`: latents, names, batch_size, edit, max_new_tokens, ...

        Returns:
            `states_LBTD` [layers, questions, positions of the longest row, width], where each row's parts stand, and its
            answers.

        Raises:
            ConfigError: a layer that is not there, no layer, or several answers per question.
            BackboneError: the layers of this family are not one list.
            DataError: no question, or one that does not fit.
        """
        if not len(questions):
            raise DataError("there is no question to trace; give at least one")
        watch = LayerWatch(layers=layers, edit=edit_layers)
        answers = self.answer(questions, watch=watch, **how)
        return watch.states(answers)

    def explain(self, trace: Trace) -> list[tuple[str, ...]]:
        """Decoded steps per row of a trace, one per thought group.

        Raises:
            ConfigError: the model has no auxiliary decoder.
        """
        if not self.explains:
            raise ConfigError("this model has no auxiliary decoder, so its thoughts cannot be shown; train it with sim_cot")
        with self.lock:
            return self.method.explain(trace)

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...] | None:
        """The step that each of a problem's thought groups stands for; None if the method does not define it."""
        return self.method.expected(example, groups)

    def stop_decider(self, stop: StopDecider | str) -> StopDecider:
        """The decider for a stop rule, or the caller's own.

        Raises:
            ConfigError: no such rule, or the model does not make latents one by one.
        """
        if not isinstance(stop, (str, StopDecider)):
            raise ConfigError(f"stop must be a rule, e.g. 'confidence:0.9', got {stop!r:.60} ({type(stop).__name__})")
        if self.method.source() is None or isinstance(self.method.source(), PrecomputedThoughts):
            raise ConfigError(
                "a stop rule needs a method that makes its latents one by one; this one has them in its prompt"
            )
        return stop if isinstance(stop, StopDecider) else extension("stop")(self, stop)

    @property
    def mark(self) -> str:
        """The text that ends the thinking it writes: what comes before its answers; "" = not known."""
        template = self.method.template
        return "" if template is None else template.answer.partition("{answer}")[0].strip()

    def rows(self, questions: Sequence[str], latents: int | None, names: Sequence[str] | None) -> list[Row]:
        """The questions' prompts as rows; see `sample` for arguments and errors."""
        if isinstance(questions, str):
            raise DataError("questions must be a list of texts, got one text; write [question]")
        if not isinstance(questions, Sequence):
            raise DataError(f"questions must be a list of texts, got {type(questions).__name__}; write list(questions)")
        _check_each(names, "names", len(questions))
        latents = latents_asked(self.latents if latents is None else latents, self.method.backbone.context)
        rows = []
        for i, question in enumerate(questions):
            name = names[i] if names is not None else f"question {i}"
            if not isinstance(question, str) or not question.strip():
                raise DataError(f"{name} must be a text that is not empty, got {question!r:.60}")
            if any("\ud800" <= letter <= "\udfff" for letter in question):
                raise DataError(f"{name} holds half of a surrogate pair, which is not text: {question!r:.60}")
            rows.append(self.method.prompt(question.strip(), latents, name))
        return rows

    @property
    def source(self) -> Source | PrecomputedThoughts | None:
        """Where latents come from, and in how many passes."""
        trained = self.method.backbone.parallel
        return parallel(self.method.source(), trained if self.parallel is None else self.parallel)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Context manager: no other thread runs the base model, and dropout is off."""
        with self.lock:
            was_training = self.method.training
            self.method.eval()
            try:
                with using(self.fast):
                    yield
            finally:
                self.method.train(was_training)
