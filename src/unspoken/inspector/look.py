"""`inspect`: what a model's latents say, their geometry, attention on them, and figures over problems.

`Inspection` holds the results as plain values; `pages.inspection.write_inspection` writes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from unspoken.core.config import dump
from unspoken.core.files import lines_json
from unspoken.core.loop.sources import are_learned
from unspoken.core.provenance import provenance
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.evaluation.records import same_step
from unspoken.inspector.figures import chaining, figures
from unspoken.inspector.gather import BATCH, ObservedProblem, check_latents, gather
from unspoken.inspector.words import TOP, Word
from unspoken.runs.model import Model
from unspoken.tasks.base import Split, Task

FORMAT = 1
"""Version of inspect.json."""

_SWEEP, _SWEPT = 6, 50
"""Default number of latent counts to compare, and of problems to compare them on."""


@dataclass(frozen=True, kw_only=True)
class Latent:
    """One latent of a problem.

    Attributes:
        number: from 1.
        fed: whether the base model read it; CODI's last one only a step decoder reads.
        norm: its length.
        similarity: cosine to each latent of the problem, itself included.
        nearest_state, nearest: words nearest to the state it was made from (None if there is none), and to itself.
        attention: share of the answer's attention on it; None if it was not fed, or the family returns no weights.
        attention_by_layer: the same per layer, first layer first.
    """

    number: int
    fed: bool
    norm: float
    similarity: tuple[float, ...]
    nearest_state: tuple[Word, ...] | None
    nearest: tuple[Word, ...]
    attention: float | None
    attention_by_layer: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class Thought:
    """A thought group: the latents that stand for one step.

    Attributes:
        decoded: its step as decoded by the auxiliary decoder; None without a decoder.
        expected: the step that it stands for, or None.
        matches: whether they are equal, ignoring white space; None if one is missing.
    """

    decoded: str | None
    expected: str | None
    matches: bool | None
    latents: tuple[Latent, ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem with its thoughts and answer.

    Attributes:
        before, rest: the answer's attention on everything before the first latent, and after the last.
        chain: result of carrying out the decoded steps; None without a decoder.
    """

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str
    said: str
    extracted: str | None
    correct: bool
    thoughts: tuple[Thought, ...]
    before: float | None
    rest: float | None
    chain: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The results of inspecting a model on some problems.

    Attributes:
        head: run, method, task, split, data, environment.
        figures: over all problems; see docs/guides/inspector.md.
        counts: the figures by number of latents.
        history: the run's own rows of kind "stability", if its monitor was on.
        metrics: the run's rows of kind "train" and "validation", for the curves.
        problems: in the order of the split.
        vectors: of each problem its latents, float32 [K, D]; they are written beside the JSON.
    """

    head: dict[str, Any]
    figures: dict[str, Any]
    counts: tuple[dict[str, Any], ...]
    history: tuple[dict[str, Any], ...]
    metrics: tuple[dict[str, Any], ...]
    problems: tuple[Problem, ...]
    vectors: tuple[np.ndarray, ...] = field(default=(), compare=False, repr=False)

    def __repr__(self) -> str:
        return f"<Inspection of {self.head.get('run')} on {len(self.problems)} problems of {self.head.get('split')}>"

    def to_json(self) -> str:
        """As JSON text with one problem per line; without the curves, which are in the run's metrics.jsonl."""
        head = {"format": FORMAT, **self.head, "figures": self.figures, "counts": self.counts, "history": self.history}
        problems = [dataclasses.asdict(problem) for problem in self.problems]
        return lines_json(_rounded({**head, "problems": problems}), ("problems",), indent=1, ensure_ascii=False)


def _rounded(value: object) -> Any:
    """Round floats to five significant digits, which makes the file a third as long."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def inspect(
    model: Model,
    task: Task,
    split: Split = "test",
    *,
    limit: int | None = 200,
    latents: int | None = None,
    counts: Sequence[int] | None = None,
    metrics: Sequence[Mapping[str, object]] = (),
    top: int = TOP,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Inspect the latents of the first `limit` problems of a split.

    Args:
        model: the model; with a step decoder its thoughts are decoded too.
        task: where problems come from and how an answer is scored.
        split: which split.
        limit: number of problems; None = all.
        latents: number of latents; None = the model's default.
        counts: numbers of latents to compare on the first 50 problems; None = up to 6 numbers up to the model's default.
        metrics: rows of the run's metrics.jsonl, for its curves.
        top: nearest words per latent.
        progress: called with (problems done, problems in all).

    Raises:
        ConfigError: the method makes no latents, or a number is out of range.
        DataError: the split is empty.
    """
    if (limit is not None and limit < 1) or top < 1:
        raise ConfigError(f"the numbers of problems and of words must be at least 1, got {limit} and {top}")
    examples = task.examples(split)[:limit]
    if not examples:
        raise DataError(f"the {split} split has no examples, so there is nothing to inspect; choose another split or task")
    method = model.method
    check_latents(method, examples[0].question, latents)
    problems: list[Problem] = []
    seen: list[ObservedProblem] = []
    for first in range(0, len(examples), BATCH):
        part = examples[first : first + BATCH]
        some = gather(model, task, part, latents, top)
        seen.extend(some)
        problems.extend(_problem(model, one) for one in some)
        if progress is not None:
            progress(len(problems), len(examples))
    own = max(one.fed for one in seen)
    swept = _numbers(counts, own, method.latents_per_group)
    return Inspection(
        head={
            "run": model.path,
            "method": dump(method.config),
            "decoder": model.explains,
            "chains": model.chains,
            "learned_tokens": are_learned(method.at_inference.source()),
            "task": {"name": task.name, **dump(task.config)},
            "split": split,
            "fingerprint": task.fingerprint(split),
            "n": len(examples),
            "latents": own,
            "environment": provenance(),
        },
        figures=figures(model, seen),
        counts=tuple(_counted(model, task, examples[:_SWEPT], n, top) for n in swept),
        history=_of_kind(metrics, "stability"),
        metrics=_of_kind(metrics, "train", "validation"),
        problems=tuple(problems),
        vectors=tuple(one.latents_KD.float().cpu().numpy() for one in seen),
    )


def _of_kind(metrics: Sequence[object], *kinds: str) -> tuple[dict[str, Any], ...]:
    """Rows of some kinds, without invalid rows."""
    return tuple(dict(row) for row in metrics if isinstance(row, Mapping) and row.get("kind") in kinds)


def _problem(model: Model, seen: ObservedProblem) -> Problem:
    """A problem in the form for page and file."""
    c = model.method.latents_per_group
    unit_KD = torch.nn.functional.normalize(seen.latents_KD, dim=-1)
    cosine_KK = (unit_KD @ unit_KD.T).tolist()
    norms = seen.latents_KD.norm(dim=-1).tolist()
    share = seen.attention_shares
    every = []
    for k, norm in enumerate(norms):
        is_fed = k < seen.fed
        every.append(
            Latent(
                number=k + 1,
                fed=is_fed,
                norm=norm,
                similarity=tuple(cosine_KK[k]),
                nearest_state=None if seen.words.state is None else seen.words.state[k],
                nearest=seen.words.latent[k],
                attention=share.latents[k] if share is not None and is_fed else None,
                attention_by_layer=tuple(layer[k] for layer in share.layers) if share is not None and is_fed else None,
            )
        )
    thoughts = []
    for g, expected in enumerate(seen.expected):
        decoded = None if seen.decoded is None else seen.decoded[g]
        matches = None if decoded is None or expected is None else same_step(decoded, expected)
        last = (g + 1) * c if g + 1 < len(seen.expected) else len(every)  # remaining latents belong to the last group
        thoughts.append(Thought(decoded=decoded, expected=expected, matches=matches, latents=tuple(every[g * c : last])))
    if not thoughts:  # fewer latents than make a group
        thoughts.append(Thought(decoded=None, expected=None, matches=None, latents=tuple(every)))
    return Problem(
        id=seen.example.id,
        question=seen.example.question,
        steps=seen.example.steps,
        answer=seen.example.answer,
        said=seen.answer.text,
        extracted=seen.extracted,
        correct=seen.correct,
        thoughts=tuple(thoughts),
        before=None if share is None else share.before,
        rest=None if share is None else share.rest,
        chain=chaining(seen),
    )


def _numbers(counts: Sequence[int] | None, own: int, group: int) -> list[int]:
    """Numbers of latents to compare.

    Raises:
        ConfigError: one is below 1.
    """
    if counts is not None:
        if bad := [n for n in counts if n < 1]:
            raise ConfigError(f"numbers of latents to compare must be at least 1, got {bad[0]}")
        return sorted(set(counts))
    whole = max(own // group, 1)
    some = {round(1 + (whole - 1) * i / (_SWEEP - 1)) for i in range(_SWEEP)}
    return sorted({min(groups * group, own) for groups in some})


def _counted(model: Model, task: Task, examples: Sequence[Example], latents: int, top: int) -> dict[str, Any]:
    """The figures with another number of latents."""
    seen = [
        one
        for first in range(0, len(examples), BATCH)
        for one in gather(model, task, examples[first : first + BATCH], latents, top, attention=False)
    ]
    told = figures(model, seen)
    return {"latents": latents, "n": len(seen), **{key: told[key] for key in ("accuracy", "geometry", "recovery")}}
