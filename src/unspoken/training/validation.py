"""Score the validation split during training, at the current stage; processes share the problems."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from random import Random
from typing import Any

import torch

from unspoken.core.precision import computing
from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.metrics import Metrics, add_metrics
from unspoken.core.text.example import Example
from unspoken.evaluation.evaluator import record_of
from unspoken.methods.base import Counts, Method, add_counts
from unspoken.runs.config import RunConfig
from unspoken.runs.model import Model
from unspoken.tasks import Task
from unspoken.training.ranks import Ranks

_BATCH = 128
"""Answers at a time."""
_SHOWN = 3
"""The first so many problems are shown to trackers, with the thoughts in words."""


_Answered = tuple[bool, bool, int, str | None]


class Validation:
    """Scores a method on some problems.

    Args:
        config: sampling settings and micro-batch size.
        method: the method in training.
        task: how an answer is scored.
        examples: the problems; if empty, nothing is scored.
        ranks: the processes that share them.
    """

    def __init__(self, config: RunConfig, method: Method, task: Task, examples: Sequence[Example], ranks: Ranks) -> None:
        self.config, self.method, self.task, self.examples, self.ranks = config, method, task, list(examples), ranks

    @torch.no_grad()
    def score(self, stage: Stage, latents: int | None) -> dict[str, Any]:
        """Score the method at a stage; returns entries of a metrics row.

        Args:
            stage: the current stage, at which the loss is computed.
            latents: number of latents; None = the method's default.

        Returns:
            accuracy: share of right answers; loss: the total loss, normalised as in training; latents: their number, if the
                method has any; problems: their number; cut_off: number of answers that reached `max_new_tokens`; parts: of
                a mixture, the accuracy of each part; metrics: the method's own; shown: for trackers, the first problems
                with their decoded thoughts. Without problems only accuracy and loss, which are None.
        """
        if not self.examples:
            return {"accuracy": None, "loss": None}
        mine: list[Batch] = []
        counts = add_counts([part for some in self.ranks.gather(lambda: self._lay_out(stage, mine)) for part in some])
        everyone = self.ranks.gather(lambda: (self._answers(latents), self._losses(mine, counts), self._shown(latents)))
        answers = [answer for given, *_ in everyone for answer in given]
        metrics = add_metrics([part for _, (_, part), _ in everyone])
        shown = [one for *_, some in everyone for one in some]
        return {
            "accuracy": sum(right for right, *_ in answers) / len(answers),
            "loss": sum(loss for _, (loss, _), _ in everyone),
            **({"latents": max(thought for _, _, thought, _ in answers)} if self.method.latents_per_group else {}),
            "problems": len(answers),
            "cut_off": sum(not ended for _, ended, _, _ in answers),
            **_by_part(answers),
            **({"metrics": {name: metric.compute() for name, metric in metrics.items()}} if metrics else {}),
            **({"shown": shown} if shown else {}),
        }

    def _shown(self, latents: int | None) -> list[dict[str, Any]]:
        """This process's part of the problems that are shown; none where no tracker or no decoder is."""
        if not (self.config.train.tracker and self.method.explains):
            return []
        mine = self.ranks.share(self.examples[:_SHOWN])
        model = Model(self.method, self.config.speaking, latents)
        said = model.answer([e.question for e in mine], explain=True) if mine else []
        return [
            {"question": e.question, "answer": e.answer, "said": one.text, "thoughts": list(one.thoughts or ())}
            for e, one in zip(mine, said, strict=True)
        ]

    def _answers(self, latents: int | None) -> list[_Answered]:
        """Per problem of this process: whether its answer is right, whether it ended by itself, its number of latents, and
        of a mixture its part."""
        places = self.ranks.share(list(range(len(self.examples))))
        mine = [self.examples[place] for place in places]
        if not mine:
            return []
        names = [example.id or f"validation-{place}" for place, example in zip(places, mine, strict=True)]
        model = Model(self.method, self.config.speaking, latents)
        said = model.sample([e.question for e in mine], names=names, numbers=places, batch_size=_BATCH)
        found = [record_of(name, e, self.task, model, one) for name, e, one in zip(names, mine, said, strict=True)]
        part_of = getattr(self.task, "part_of", lambda example: None)
        return [(r.strict, r.finished, r.latents, part_of(e)) for r, e in zip(found, mine, strict=True)]

    def _lay_out(self, stage: Stage, mine: list[Batch]) -> list[Counts]:
        """Add this process's micro-batches to `mine`, with a fixed seed and without random removal of tokens; returns their
        counts."""
        stage, train = self.method.curriculum().without_chance(stage), self.config.train
        size = train.micro_batch_size or train.batch_size
        if self.ranks.count > 1:
            size = min(size, math.ceil(len(self.examples) / self.ranks.count))
        for first in self.ranks.share(list(range(0, len(self.examples), size))):
            some = self.examples[first : first + size]
            mine.append(collate([self.method.layout(e, stage, Random(f"{train.seed}/validation/{e.id}")) for e in some]))
        return [self.method.counts(part) for part in mine]

    def _losses(self, parts: Sequence[Batch], counts: Counts) -> tuple[float, Metrics]:
        """Loss and metrics of this process's micro-batches.

        Args:
            parts: the micro-batches.
            counts: of all processes'.
        """
        device = next(self.method.parameters()).device
        total, metrics = 0.0, []
        self.method.eval()
        try:
            for part in parts:
                with computing(device.type, self.config.low):
                    report = self.method(part.to(device), counts)
                total += float(report.total)
                metrics.append(report.metrics)
        finally:
            self.method.train()
        return total, {name: metric.on_host() for name, metric in add_metrics(metrics).items()}


def _by_part(answers: Sequence[_Answered]) -> dict[str, Any]:
    """The accuracy of each part of a mixture, as an entry of a metrics row; empty for other tasks."""
    rights: dict[str, list[bool]] = {}
    for right, _, _, part in answers:
        if part is not None:
            rights.setdefault(part, []).append(right)
    return {"parts": {part: sum(each) / len(each) for part, each in sorted(rights.items())}} if rights else {}


def score_of(found: dict[str, Any], select: str, step: int) -> float | None:
    """The score by which models are chosen, larger is better; None = a later model is always better.

    A non-finite figure becomes None in the row, with a warning: it cannot be a score, and JSON cannot represent it.
    """
    odd = [name for name in ("accuracy", "loss") if found[name] is not None and not math.isfinite(found[name])]
    sign = {"accuracy": 1, "loss": -1}.get(select)
    score = None if sign is None or found[select] is None else sign * found[select]
    for name in odd:
        warnings.warn(
            f"step {step}: the validation {name} is {found[name]}: a problem or the model overflows; see examples and lr",
            stacklevel=2,
        )
        found[name] = None
    if odd:
        found["not_finite"] = odd
    return score


def is_better(score: float | None, best: float | None) -> bool:
    """Whether a model replaces the saved one of its stage; the first one always does.

    A model with a non-finite score is kept until there is another, because there must be one.
    """
    if score is None or best is None or not math.isfinite(best):
        return True
    return math.isfinite(score) and score >= best
