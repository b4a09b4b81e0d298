"""Rows to measure training with: random tokens in the lengths of real problems, or in fixed ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unspoken.core.rows.attachment import HostValue
from unspoken.core.rows.row import IGNORE, Row
from unspoken.methods.sim_cot import STEP_TARGETS


@dataclass(frozen=True, kw_only=True)
class Load:
    """A batch of training rows.

    Attributes:
        rows: rows per step.
        length: positions of each row, latents and markers included; the longest one's where `spread`.
        latents: latents per row.
        labels: labelled tokens at the end of each row.
        spread: rows are between three quarters of `length` and all of it, as in a batch of like lengths.
        step_tokens: tokens of a step that a thought group stands for, eos included; GSM8K-Aug's have 8.6 in GPT-2's.
    """

    rows: int = 8
    length: int = 134
    latents: int = 6
    labels: int = 50
    spread: bool = True
    step_tokens: int = 9


def coconut_rows(load: Load, words: int, group: int, seed: int = 0) -> list[Row]:
    """question | bot | latents | eot | text, with a target for every thought group."""
    rng, rows = np.random.default_rng(seed), []
    for b in range(load.rows):
        length = int(rng.integers(load.length * 3 // 4, load.length + 1)) if load.spread and b else load.length
        ids = tuple(rng.integers(1, words, length).tolist())
        steps = [rng.integers(1, words, load.step_tokens + int(rng.integers(-2, 3))) for _ in range(load.latents // group)]
        rows.append(
            Row(
                ids=ids,
                labels=(IGNORE,) * (length - load.labels) + ids[length - load.labels :],
                start=length - load.labels - 1 - load.latents,
                latents=load.latents,
                name=f"row {b}",
                extra={STEP_TARGETS: HostValue(tuple(tuple(step.tolist()) for step in steps))},
            )
        )
    return rows


def codi_rows(count: int, latents: int, words: int, seed: int = 0) -> list[Row]:
    """question | bot | latents | eot | answer, with the teacher's question | chain | answer beside it.

    Lengths are drawn as GSM8K-Aug has them in GPT-2's tokens: questions of 56 on average, chains of 17, answers of 6.
    """
    rng, rows = np.random.default_rng(seed), []

    def text(mean: float, sigma: float, least: int) -> tuple[int, ...]:
        length = round(float(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma)))
        return tuple(rng.integers(1, words, max(length, least)).tolist())

    for b in range(count):
        question, chain, answer = text(56.4, 0.38, 12), text(16.9, 0.7, 4), text(6.1, 0.1, 5)
        head = (*question, *rng.integers(1, words, latents + 2).tolist())  # markers, and slots that latents fill
        ids, taught = (*head, *answer), (*question, *chain, *answer)
        teacher = Row(
            ids=taught,
            labels=(IGNORE,) * len(question) + chain + answer,
            start=len(taught),
            latents=0,
            capture_at=len(taught) - 3,
        )
        rows.append(
            Row(
                ids=ids,
                labels=(IGNORE,) * len(head) + answer,
                start=len(question) + 1,
                latents=latents,
                capture_at=len(ids) - 3,
                branch=teacher,
                shared=len(question),
                name=f"row {b}",
            )
        )
    return rows
