"""`evaluate`: answer a split's questions with a model and score the answers.

The model gets only `example.question`; references are used here, after it has answered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from unspoken.core.config import check_whole, dump
from unspoken.core.provenance import provenance
from unspoken.core.text.example import Example
from unspoken.core.text.thinking import said
from unspoken.errors import ConfigError, DataError
from unspoken.evaluation.records import EvalReport, EvalSettings, Record
from unspoken.evaluation.resume import Kept, PartialReport, evaluate_missing
from unspoken.evaluation.several import Completion, elect
from unspoken.tasks.base import SPLITS, Split, Task

if TYPE_CHECKING:  # reading a report must not load torch
    from unspoken.core.loop.edits import Edit
    from unspoken.core.loop.generate import OnTrace
    from unspoken.core.loop.trace import Answer
    from unspoken.runs.model import AnswerOptions, Model


def evaluate(
    model: Model,
    task: Task,
    split: Split = "test",
    *,
    limit: int | None = None,
    latents: int | None = None,
    batch_size: int = 32,
    explain: bool = False,
    chains: int = 1,
    samples: int = 1,
    progress: Callable[[int, int], None] | None = None,
    keep: PartialReport | None = None,
    edit: Edit | None = None,
    on_trace: OnTrace | None = None,
    on_answers: Callable[[Sequence[tuple[Answer, ...]]], None] | None = None,
    **speaking: Unpack[AnswerOptions],
) -> EvalReport:
    """Answer the first `limit` questions of a split with a model and score the answers.

    Args:
        model: the model. It gets the questions, and their ids for error messages.
        task: where examples come from and how an answer is scored.
        split: which split.
        limit: number of examples from the first on; None = all.
        latents: number of latents; None = the model's default.
        batch_size: answers per batch.
        explain: decode thoughts and compare them with the true steps.
        chains: sets of thoughts per question, for a method that has several (SoftCoT++).
        samples: answers per set. Several answers to a question vote (`evaluation/several.py`).
        progress: called with (questions answered, questions in all), once per batch and at the end.
        keep: where finished batches are saved, so that an interrupted evaluation can be resumed and processes can share it;
            the report then also has a hash of the weights. None = save nothing.
        edit, on_trace: change or observe latents; see `Model.sample`. Keys hold the examples' ids.
        on_answers: called once with all answers, as `Model.sample` returns them.
        speaking: fields of `AnswerOptions`: temperature, top_p, top_k, seed, max_new_tokens.

    Raises:
        ConfigError: a limit below 1, an unknown sampling option, explanations from a model without a decoder, more sets of
            thoughts than it has, or several samples that would all be the same.
        DataError: the split is empty, two examples share an id, or a question does not fit the model.
    """
    check_whole(limit=limit, latents=latents, batch_size=batch_size, chains=chains, samples=samples)
    if not isinstance(task, Task):
        raise ConfigError(f"task must be a task, e.g. unspoken.tasks.make_task('tiny'), got {task!r:.60}")
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r:.60}; known: {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, or None for the whole split, got {limit}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if chains < 1 or samples < 1:
        raise ConfigError(f"chains and samples must be at least 1, got chains={chains} and samples={samples}")
    if keep is not None and any(one is not None for one in (edit, on_trace, on_answers)):
        raise ConfigError("edited or observed latents need an evaluation in one go; leave out keep, or edit and on_trace")
    examples = task.examples(split)[:limit]
    ids = _ids(examples, split)
    about = EvalSettings(
        task={"name": task.name, **dump(task.config)},
        split=split,
        fingerprint=task.fingerprint(split),
        limit=limit,
        latents=latents,
        batch_size=batch_size,
        speaking={**(dump(getattr(model, "speaking", None)) or {}), **_written(speaking)},
        chains=chains,
        samples=samples,
        model=describe(model, weights=keep is not None),
        environment=provenance(),
    )
    if keep is not None:
        kept = _in_turns(model, task, examples, ids, about, keep, explain, progress)
        return EvalReport(**about.settings(), seconds=kept.seconds, loop_seconds=kept.loop_seconds, records=kept.records)
    # One call for all questions: their place in it seeds sampling, and the engine sorts them by length.
    at_once = max(batch_size // (chains * samples), 1)
    more: dict[str, Any] = {} if progress is None else {"on_token": _counter(progress, len(ids), at_once)}
    more |= {name: value for name, value in (("edit", edit), ("on_trace", on_trace)) if value is not None}
    more |= {"latents": latents, "names": ids, "batch_size": batch_size, "explain": explain, **speaking}
    questions = [example.question for example in examples]
    began = time.perf_counter()
    if chains * samples == 1:
        answers = [(answer,) for answer in model.answer(questions, **more)]
    else:
        answers = model.sample(questions, chains=chains, samples=samples, **more)
    seconds = time.perf_counter() - began
    if progress is not None:
        progress(len(ids), len(ids))
    if on_answers is not None:
        on_answers(answers)
    records = [
        record_of(name, example, task, model, given) for name, example, given in zip(ids, examples, answers, strict=True)
    ]
    loop_seconds = math.fsum(answer.seconds for given in answers for answer in given)
    return EvalReport(**about.settings(), seconds=seconds, loop_seconds=loop_seconds, records=tuple(records))


def _in_turns(
    model: Model,
    task: Task,
    examples: Sequence[Example],
    ids: Sequence[str],
    about: EvalSettings,
    keep: PartialReport,
    explain: bool,
    progress: Callable[[int, int], None] | None,
) -> Kept:
    """Answer a few batches at a time, and save each as soon as it is finished.

    Several at a time, because answers that end early make room for others only within one call. The number depends only on
    the problems and the batch size, so that any number of processes shares the same turns.
    """
    questions = [example.question for example in examples]
    chains, samples, latents = about.chains, about.samples, about.latents
    size = max(about.batch_size // (chains * samples), 1)

    def answer(places: Sequence[int]) -> list[tuple[Answer, ...]]:
        return model.sample(
            [questions[place] for place in places], chains=chains, samples=samples, latents=latents, explain=explain,
            names=[ids[place] for place in places], numbers=places, batch_size=about.batch_size, **about.speaking,
        )  # fmt: skip

    def make(place: int, said: Sequence[Answer]) -> Record:
        return record_of(ids[place], examples[place], task, model, said)

    batches = min(max(len(questions) // (8 * size), 1), 8)
    plan = model.batches(questions, size * batches, latents=latents, names=ids)
    code = {name: about.environment[name] for name in ("versions", "commit")}
    settings = {name: value for name, value in about.settings().items() if name != "environment"} | {
        "explain": explain,
        **code,
    }
    device = str(about.model["device"]).partition(":")[0]  # each process has its own GPU
    settings["model"] = {k: v for k, v in about.model.items() if k != "path"} | {"device": device}
    return evaluate_missing(answer, make, plan, settings, keep, progress)


def record_of(name: str, example: Example, task: Task, model: Model, answers: Sequence[Answer]) -> Record:
    """The record of a problem and its answer: the only one, or the one chosen by vote."""
    scores = [task.score(example, said(answer.text)) for answer in answers]
    chosen = elect([score.extracted for score in scores])
    answer, score = answers[chosen], scores[chosen]
    several = len(answers) > 1
    return Record(
        id=name,
        question=example.question,
        answer=example.answer,
        steps=example.steps,
        text=answer.text,
        strict=bool(score.strict),
        flexible=bool(score.flexible),
        extracted=score.extracted,
        latents=sum(int(a.latents) for a in answers if not several or a.sample == 0),
        visible_tokens=sum(int(a.visible) for a in answers),
        passes=max(int(a.passes) for a in answers),
        positions=sum(int(a.positions) for a in answers),
        finished=bool(answer.finished),
        thoughts=None if answer.thoughts is None else tuple(answer.thoughts),
        expected=None if answer.thoughts is None else model.expected(example, len(answer.thoughts)),
        said=tuple(map(Completion.of, answers, scores)) if several else None,
    )


def _written(speaking: Mapping[str, Any]) -> dict[str, Any]:
    """How to speak as plain values: soft thinking as its text."""
    return {name: getattr(value, "spelt", value) for name, value in speaking.items()}


def _ids(examples: Sequence[Example], split: str) -> list[str]:
    """One id per example; its place in the split if it has none."""
    if not examples:
        raise DataError(f"the {split} split has no examples, so there is nothing to evaluate; choose another split or task")
    ids = [example.id or f"{split}-{i}" for i, example in enumerate(examples)]
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DataError(
                f"two examples of the {split} split have the id {name!r}; ids must be unique to pair runs by them"
            )
        seen.add(name)
    return ids


def _counter(progress: Callable[[int, int], None], total: int, batch_size: int) -> Callable[[int, int], None]:
    """An `on_token` that reports progress in steps of a batch.

    Every answer has at least one token, and at most a batch is in progress. So the first token of the (k * batch_size +
    1)-th question to start means that about k batches are done.
    """
    begun: set[int] = set()
    progress(0, total)

    def on_token(question: int, token: int) -> None:
        if question not in begun:
            if begun and len(begun) % batch_size == 0:
                progress(len(begun), total)
            begun.add(question)

    return on_token


def describe(model: object, weights: bool) -> dict[str, Any]:
    """Describe a model. Anything with an `answer` method can be evaluated, so every attribute may be missing."""
    method = getattr(model, "method", None)
    backbone = getattr(method, "backbone", None)
    weight = None if backbone is None else next(backbone.parameters(), None)
    path = getattr(model, "path", None)
    known: dict[str, Any] = {"weights": weights_of(model)} if weights else {}
    for name in ("parallel", "latents", "saved"):  # latents: of a model of an earlier stage alone
        if (value := getattr(model, name, None)) is not None:
            known[name] = value
    return {
        **known,
        "path": None if path is None else str(path),
        "method": dump(getattr(method, "config", None)),
        "dtype": getattr(model, "dtype", None) or (None if weight is None else str(weight.dtype).removeprefix("torch.")),
        "device": None if weight is None else str(weight.device),
    }


def weights_of(model: object) -> str | None:
    """A hash of the weights that answer: equal for a run and its export, since wrappers are not included."""
    answers = getattr(getattr(model, "method", None), "at_inference", None)
    if answers is None:
        return None
    from unspoken.core.fast.state_cache import weights_hash

    return weights_hash(answers)
