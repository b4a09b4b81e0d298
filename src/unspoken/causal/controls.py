"""Causal controls: does the content of latents matter? Each control answers the same problems with modified latents.

Accuracy alone does not show whether latents carry the reasoning: many models answer as well without them, or with another
question's. docs/guides/controls.md explains each control, the verdict, and its limits.

Shapes: K latents per row, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from unspoken.causal.control_report import MEAN, NOISE, SHUFFLED, STOP, TOKENS, WHAT, ZERO, Control, ControlsReport, Outcome
from unspoken.core.checks import MOST_SEED, whole
from unspoken.core.loop.sources import are_learned
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport
from unspoken.tasks.base import Split, Task

if TYPE_CHECKING:
    from torch import Tensor

    from unspoken.causal.known import KnownLatents
    from unspoken.core.rows.row import LatentKey
    from unspoken.runs.model import AnswerOptions, Model

LIMIT = 200
"""Default number of problems per control: enough to detect a fall of about 7 points at 50%, or 4 points at 90% (ours)."""

SCALES = (0.5, 1.0, 2.0)
"""Of the noise, in standard deviations of the latents' entries (ours)."""

STOPS = 8
"""Maximum number of early stops: 0 latents, and others at equal intervals (ours)."""


def run_controls(
    model: Model,
    task: Task,
    split: Split = "test",
    *,
    limit: int | None = LIMIT,
    latents: int | None = None,
    batch_size: int = 32,
    chains: int | None = None,
    only: Sequence[str] | None = None,
    noise: Sequence[float] = SCALES,
    control_seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **speaking: Unpack[AnswerOptions],
) -> ControlsReport:
    """Answer the first `limit` problems of a split unmodified and once per control, and compare the answers in pairs.

    Args:
        model: any that thinks in latents or pause tokens.
        task, split, limit, latents, batch_size: as in `evaluate`.
        chains: sets of thoughts per question, which vote; None = all.
        only: names of controls; None = all that are meaningful for the model.
        noise: scales of the noise.
        control_seed: seed of shuffling and noise.
        progress: called with (current control, evaluations done, total).
        speaking: fields of `AnswerOptions`, for all evaluations alike.

    Raises:
        ConfigError: the model makes no latents, an unknown control, a negative scale, or see `evaluate`.
        DataError: see `evaluate`.
    """
    from unspoken.causal.interventions import Mean, Noise, Patch, Replace, Zero, edit_of, latents_into, slot_vector
    from unspoken.causal.known import KnownLatents

    if odd := [name for name in only or () if name not in WHAT]:
        raise ConfigError(f"unknown control {odd[0]!r}; known: {', '.join(WHAT)}")
    if not all(0 < scale < math.inf for scale in noise):
        raise ConfigError(f"scales of noise must be positive, got {', '.join(f'{scale:g}' for scale in noise)}")
    whole(control_seed, "control_seed", most=MOST_SEED)
    if not model.method.latents_per_group or latents == 0:
        raise ConfigError("this model thinks without latents, so there is nothing to control; evaluate one that has some")
    chains = model.chains if chains is None else chains
    how: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "chains": chains, **speaking}
    tell = progress or (lambda name, done, total: None)
    tell("unmodified", 0, 1)
    kept: dict[LatentKey, Tensor] = {}
    plain = evaluate(model, task, split, latents=latents, on_trace=latents_into(kept), **how)
    known = KnownLatents.of(kept, [record.id for record in plain.records])
    K = max(record.latents for record in plain.records) // chains
    left_out = _senseless(model, known, plain)
    wanted = [name for name in WHAT if (only is None or name in only) and name not in left_out]
    left_out = {name: why for name, why in left_out.items() if only is None or name in only}

    donors = derangement(plain.n, control_seed) if SHUFFLED in wanted else ()
    jobs: list[tuple[str, float | None, Any, int | None]] = []
    for name in wanted:
        if name == STOP:
            jobs.extend((name, float(k), None, k) for k in stops(K))
        elif name == NOISE:
            jobs.extend((name, scale, Noise(scale=scale, seed=control_seed), latents) for scale in noise)
        elif name == TOKENS:
            jobs.append((name, None, Replace(vectors=slot_vector(model, plain.records[0].question)), latents))
        else:
            made = {SHUFFLED: lambda: Patch(donors=donors), MEAN: Mean, ZERO: Zero}[name]()
            jobs.append((name, None, made, latents))
    controls = []
    for name, setting, intervention, count in jobs:
        tell(name, 1 + len(controls), 1 + len(jobs))
        edit = None if intervention is None else edit_of([intervention], known)
        report = evaluate(model, task, split, latents=count, edit=edit, **how)
        outcomes = tuple(Outcome.of(record) for record in report.records)
        controls.append(Control(name=name, setting=setting, outcomes=outcomes))
    tell("done", 1 + len(jobs), 1 + len(jobs))
    return ControlsReport(
        plain=plain, latents=K, seed=control_seed, donors=tuple(donors), controls=tuple(controls), left_out=left_out
    )


def derangement(n: int, seed: int) -> tuple[int, ...]:
    """A random permutation of n >= 2 problems without fixed points: a random order, shifted by one."""
    order = np.random.default_rng(seed).permutation(n)
    donors = np.empty(n, dtype=np.int64)
    donors[order] = np.roll(order, 1)
    return tuple(int(i) for i in donors)


def stops(latents: int) -> list[int]:
    """The early stops: 0 and up to `STOPS` numbers below the number of latents."""
    return sorted({round(k) for k in np.linspace(0, latents - 1, min(latents, STOPS))})


def _senseless(model: Model, known: KnownLatents, plain: EvalReport) -> dict[str, str]:
    """Controls that would change nothing."""
    if are_learned(model.method.source()):
        why = "the model thinks in pause tokens, which are the same for every problem"
        return {SHUFFLED: why, MEAN: why, TOKENS: "they are what the model thinks in"}
    if plain.n < 2:
        return {SHUFFLED: "there is one problem", MEAN: "there is one problem"}
    if known.alike:
        why = "the model's latents are the same for every problem"
        return {SHUFFLED: why, MEAN: why}
    return {}
