"""What trajectories said, and what a head has learnt from, made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.fakes.evaluation import report

from unspoken.causal.ranking import Lesson
from unspoken.causal.scaling import ScalingReport
from unspoken.evaluation.several import Completion


def said(*answers: str | None, truth: str = "1") -> tuple[Completion, ...]:
    """What trajectories said, the first with its prompt of 10 positions, then 4 each; trajectory c takes 5 + c passes."""
    return tuple(
        Completion(
            chain=c,
            sample=0,
            text=str(answer),
            strict=answer == truth,
            flexible=answer == truth,
            extracted=answer,
            visible_tokens=1,
            finished=True,
            passes=5 + c,
            positions=4 if c else 14,
        )
        for c, answer in enumerate(answers)
    )


def made(
    *rows: tuple[Completion, ...], plain: list[bool], counts: tuple[int, ...] = (1, 2, 4), by: str = "noise"
) -> ScalingReport:
    base = report([True] * len(rows))
    records = tuple(replace(r, said=row) for r, row in zip(base.records, rows, strict=True))
    many = replace(base, records=records, chains=4)
    return ScalingReport(by=by, strength=0.3, counts=counts, plain=report(plain), report=many)


LESSON = Lesson(
    task={"name": "tiny"},
    split="train",
    fingerprint="abc",
    problems=100,
    mixed=30,
    left_out=0,
    by="noise",
    strength=0.3,
    trajectories=4,
    latents=None,
    seed=0,
    loss=1.0,
    chance=1.1,
    gain=0.1,
    error=0.02,
    mismatched=1.1,
    weights="w",
    width=8,
    hidden=16,
)


def lesson(**changes: Any) -> Lesson:
    """One with other values."""
    return replace(LESSON, **changes)
