"""Scoring the validation split while a run trains, as the stage that it is in trains it; processes share the problems."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from random import Random
from typing import Any

import torch

from unspoken.core.precision import computing
from unspoken.core.rows.batch import collate
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.metrics import Metrics, add_metrics
from unspoken.core.text.example import Example
from unspoken.evaluation.evaluator import record_of
from unspoken.methods.base import add_counts
from unspoken.runs.config import RunConfig
from unspoken.runs.model import Model
from unspoken.tasks import Task
from unspoken.training.ranks import Ranks

_BATCH = 128
"""Answers at a time."""


class Validation:
    """Scores a method on some problems.

    Args:
        config: how to speak, and how many rows go through the model at once.
        method: what trains.
        task: how an answer is scored.
        examples: the problems; none = nothing is scored.
        ranks: the processes that share them.
    """

    def __init__(self, config: RunConfig, method: Any, task: Task, examples: Sequence[Example], ranks: Ranks) -> None:
        self.config, self.method, self.task, self.examples, self.ranks = config, method, task, list(examples), ranks

    @torch.no_grad()
    def score(self, stage: Stage, latents: int | None) -> dict[str, Any]:
        """What there is to say about the method at a stage, as entries of a metrics row.

        Args:
            stage: the stage that it trains; its loss is that of this stage.
            latents: how many it thinks before it answers; None = the method's own number.

        Returns:
            accuracy: share of right answers; loss: the whole loss, per token as in training; latents: how many were thought,
            where the method has any; problems: how many there were; cut_off: how many answers reached `max_new_tokens`;
            metrics: the method's own. Without problems, accuracy and loss are None and nothing else is there.
        """
        if not self.examples:
            return {"accuracy": None, "loss": None}
        everyone = self.ranks.gather(lambda: (self._answers(latents), self._losses(stage)))
        answers = [answer for given, _ in everyone for answer in given]
        metrics = add_metrics([part for _, (_, part) in everyone])
        return {
            "accuracy": sum(right for right, _, _ in answers) / len(answers),
            "loss": sum(loss for _, (loss, _) in everyone),
            **({"latents": max(thought for _, _, thought in answers)} if self.method.latents_per_group else {}),
            "problems": len(answers),
            "cut_off": sum(not ended for _, ended, _ in answers),
            **({"metrics": {name: metric.compute() for name, metric in metrics.items()}} if metrics else {}),
        }

    def _answers(self, latents: int | None) -> list[tuple[bool, bool, int]]:
        """Of each problem of this process: whether its answer is right and ended by itself, and how many latents it took."""
        places = self.ranks.share(list(range(len(self.examples))))
        mine = [self.examples[place] for place in places]
        if not mine:
            return []
        names = [example.id or f"validation-{place}" for place, example in zip(places, mine, strict=True)]
        model = Model(self.method, self.config.speaking, latents)
        said = model.sample([e.question for e in mine], names=names, numbers=places, batch_size=_BATCH)
        found = [record_of(name, e, self.task, model, one) for name, e, one in zip(names, mine, said, strict=True)]
        return [(record.strict, record.finished, record.latents) for record in found]

    def _losses(self, stage: Stage) -> tuple[float, Metrics]:
        """This process's part of the loss, with the data's own dice, and of its metrics. No token goes by chance."""
        stage, train = self.method.curriculum().without_chance(stage), self.config.train
        rows = [self.method.layout(e, stage, Random(f"{train.seed}/validation/{e.id}")) for e in self.examples]
        size = train.micro_batch_size or train.batch_size
        if self.ranks.count > 1:
            size = min(size, math.ceil(len(rows) / self.ranks.count))
        parts = [collate(rows[i : i + size]) for i in range(0, len(rows), size)]
        counts = add_counts([self.method.counts(part) for part in parts])
        device = next(self.method.parameters()).device
        total, metrics = 0.0, []
        self.method.eval()
        try:
            for part in self.ranks.share(parts):
                with computing(device.type, self.config.low):
                    report = self.method(part.to(device), counts)
                total += float(report.total)
                metrics.append(report.metrics)
        finally:
            self.method.train()
        return total, {name: metric.on_host() for name, metric in add_metrics(metrics).items()}


def score_of(found: dict[str, Any], select: str, step: int) -> float | None:
    """What models are chosen by, the larger the better; None = each is better than those before it.

    A figure that is not finite becomes None in the row, and is said: it can be no score, and JSON has no word for it.
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
    """Whether a model is kept in place of the one before it in its stage; the first one always is.

    One whose score is not finite is kept until there is another, since some model must be there.
    """
    if score is None or best is None or not math.isfinite(best):
        return True
    return math.isfinite(score) and score >= best
