"""Does a latent hold its step's result? One thought group is replaced by another problem's, later ones are thought anew.

If group k holds the result of step k and what comes after computes with it, the answer becomes one that can be worked out:
this problem's later steps, carried out with the other problem's result. An answer that only changes shows that the latent
matters; one that follows shows what it says. (Geiger et al., arXiv 2106.02997, call this an interchange intervention.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from unspoken.causal.interventions import Patch, edit_of, latents_into
from unspoken.causal.known import KnownLatents
from unspoken.core.loop.sources import are_learned
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import Record
from unspoken.evaluation.statistics import Rate, rate
from unspoken.inspector.arithmetic import carried_on, equations, same
from unspoken.tasks.base import Split, Task
from unspoken.tasks.scoring.answers import normalise

if TYPE_CHECKING:
    from torch import Tensor

    from unspoken.core.rows.row import LatentKey
    from unspoken.runs.model import Model


@dataclass(frozen=True, kw_only=True)
class Interchanged:
    """One place of the thoughts, over problems that were answered rightly and whose answer would have to change.

    Attributes:
        place: number of the thought group, which stands for the step of the same number, from 0.
        follows: answers that are what this problem's later steps give with the other problem's result.
        stays: answers that are the unmodified ones.
    """

    place: int
    follows: Rate
    stays: Rate


def interchange(
    model: Model,
    task: Task,
    split: Split = "test",
    *,
    limit: int | None = 200,
    batch_size: int = 32,
    donor_seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **speaking: Any,
) -> tuple[Interchanged, ...]:
    """Give each problem another's thought group, one place after the other.

    Args:
        model: thinks in latents of its own making.
        task, split, limit, batch_size: as in `evaluate`. Steps must be equations, each using the result of the one before.
        donor_seed: decides whose group a problem gets.
        progress: called with (what runs, evaluations done, evaluations in all).
        speaking: fields of `SamplingParams`.

    Returns:
        One per place; fewer where no problem has a step there.

    Raises:
        ConfigError: the model's latents are none, or the same for every problem.
    """
    method = model.method
    if not method.latents_per_group or are_learned(method.source()):
        raise ConfigError("this model has no latents that differ from problem to problem, so there are none to interchange")
    tell = progress or (lambda what, done, total: None)
    how: dict[str, Any] = {"limit": limit, "batch_size": batch_size, **speaking}
    kept: dict[LatentKey, Tensor] = {}
    tell("unmodified", 0, 1)
    plain = evaluate(model, task, split, on_trace=latents_into(kept), **how)
    known = KnownLatents.of(kept, [record.id for record in plain.records])
    groups = known.latents_RKD.shape[1] // method.latents_per_group
    found = []
    for place in range(groups):
        tell(f"thought {place + 1}", 1 + place, 1 + groups)
        donors, wanted = _donors(plain.records, place, np.random.default_rng([donor_seed, place]))
        if not any(value is not None for value in wanted):
            continue
        first = place * method.latents_per_group
        patch = Patch(donors=donors, latents=list(range(first, first + method.latents_per_group)))
        changed = evaluate(model, task, split, edit=edit_of([patch], known), **how).records
        found.append(_counted(place, plain.records, changed, wanted))
    return tuple(found)


def _donors(records: Sequence[Record], place: int, dice: np.random.Generator) -> tuple[list[int], list[Fraction | None]]:
    """Per problem, whose group it gets at a place, and what the answer would then have to be; None: it does not count.

    A problem counts where its unmodified answer is right, the answer would have to be another one, and the way there meets
    no number that is not some problem's result: a model that has never seen 40 cannot be asked to go on from it.
    """
    results = [_result(record, place) for record in records]
    able = [i for i, value in enumerate(results) if value is not None]
    seen = {Fraction(value) for record in records for k in range(len(record.steps)) if (value := _result(record, k))}
    donors: list[int] = list(range(len(records)))
    wanted: list[Fraction | None] = [None] * len(records)
    for i, record in enumerate(records):
        others = [j for j in able if results[j] != results[i]]
        if results[i] is None or not record.strict or not others:
            continue
        donors[i] = others[int(dice.integers(len(others)))]
        values = carried_on(record.steps, place, Fraction(results[donors[i]] or 0))
        if values is not None and set(values) <= seen and not same(values[-1], normalise(record.answer)):
            wanted[i] = values[-1]
    return donors, wanted


def _result(record: Record, place: int) -> str | None:
    """What the step at a place gives, as it is written."""
    found = equations(record.steps[place]) if place < len(record.steps) else ()
    return found[-1].result if found else None


def _counted(
    place: int, before: Sequence[Record], after: Sequence[Record], wanted: Sequence[Fraction | None]
) -> Interchanged:
    asked = [i for i, value in enumerate(wanted) if value is not None]
    said = {i: after[i].extracted for i in asked}
    return Interchanged(
        place=place,
        follows=rate(same(wanted[i], said[i]) for i in asked),
        stays=rate(said[i] == before[i].extracted for i in asked),
    )
