"""Teach a latent reranker with a run's own samples, and score trajectories with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Unpack

import torch

from unspoken.causal.latent_ranker import Learned, scores, teach
from unspoken.causal.ranking import COUNTS, Lesson, Ranking, Scores
from unspoken.causal.trajectories import Sampled, Way, likelihoods, sampled
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import weights_of
from unspoken.runs.model import AnswerOptions, Model
from unspoken.tasks.base import Split, Task

TRAINED_ON = ("train", "validation")

NOT_SAMPLING = "trajectories by sampling all have the same latents, which a head cannot tell apart; take noise or dropout"


def check_ranker(by: str, lesson: Lesson, split: str, fingerprint: str) -> None:
    """Refuse trajectories that a head cannot select among.

    Raises:
        ConfigError: they share their latents, or their problems are those that it learnt from.
    """
    if by == "sampling":
        raise ConfigError(NOT_SAMPLING)
    if lesson.fingerprint == fingerprint:
        raise ConfigError(f"a latent ranker cannot be tried on the {split} split that it learnt from; take another split")


def learn(
    model: Model,
    task: Task,
    split: Split = "train",
    *,
    by: str,
    counts: Sequence[int] = COUNTS,
    strength: float | None = None,
    limit: int = 1000,
    leave_out: Collection[str] = (),
    latents: int | None = None,
    batch_size: int = 32,
    trajectory_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **speaking: Unpack[AnswerOptions],
) -> Learned:
    """Teach a head, and its control, with the run's own samples.

    Args:
        model, task: as they will be asked.
        split: what to learn from.
        by, counts, strength, latents, batch_size, trajectory_seed, progress, speaking: as in `scale`.
        limit: learn from the first N problems.
        leave_out: questions that will be asked, which it must not learn from.

    Raises:
        ConfigError: a test split to learn from, trajectories by sampling, or see `sampled`.
        DataError: too few problems with right and wrong trajectories.
    """
    if split not in TRAINED_ON:
        raise ConfigError(f"a latent ranker learns from train or validation, never from a test split; got {split!r}")
    if by == "sampling":
        raise ConfigError(NOT_SAMPLING)
    way = Way.of(by, counts, strength, latents=latents, seed=trajectory_seed)
    found = sampled(model, task, split, way, limit=limit, batch_size=batch_size, keep=True, progress=progress, **speaking)
    records, later = found.report.records, set(leave_out)
    stays = [i for i, record in enumerate(records) if record.question not in later]
    some = found.trajectories.some(torch.tensor(stays, dtype=torch.long))
    taught, control = teach(some), teach(some.mismatched())
    lesson = Lesson(
        task=found.report.task,
        split=split,
        fingerprint=found.report.fingerprint,
        problems=len(stays),
        mixed=len(some.mixed),
        left_out=len(records) - len(stays),
        by=way.by,
        strength=way.strength,
        trajectories=way.number,
        latents=way.latents,
        seed=way.seed,
        loss=taught.loss,
        chance=taught.chance,
        gain=taught.gain,
        error=taught.error,
        mismatched=control.loss,
        weights=weights_of(model),
        width=some.input_QNKF.shape[3],
        hidden=taught.head.read.hidden_size,
    )
    return Learned(head=taught.head, control=control.head, lesson=lesson)


def rank(model: Model, learned: Learned, found: Sampled, *, batch_size: int = 32) -> Ranking:
    """Score trajectories whose traces were kept.

    Raises:
        ConfigError: the head was taught with another model.
    """
    some, lesson = found.trajectories, learned.lesson
    if lesson.width != some.input_QNKF.shape[3] or lesson.weights != weights_of(model):
        raise ConfigError("this latent ranker was taught with the latents of another model; teach one for this run: --rank")

    def plain(values: list[list[float]]) -> Scores:
        return tuple(tuple(round(value, 6) for value in row) for row in values)

    return Ranking(
        lesson=lesson,
        head=plain(scores(learned.head, some).tolist()),
        control=plain(scores(learned.control, some.mismatched()).tolist()),
        likelihood=plain(likelihoods(model, found, batch_size=batch_size)),
    )
