"""The stability figures of the SIM-CoT paper: distances between latents, and what can be recovered from them.

Paper: Wei et al., arXiv 2509.20317, section 2 (Dist, DistVC, recovery of numbers, operators and results). The paper does
    not define when something counts as recovered; our rules are in `recovery` and docs/guides/inspector.md.

Shapes: B rows, K latents of the row with most, n latents of a row, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unspoken.core.embeddings import input_table
from unspoken.core.lm.backbone import Backbone
from unspoken.core.text.markup import number
from unspoken.inspector.arithmetic import equations, numbers

SHRUNK = 0.3
"""A relative distance below this share of its highest value so far counts as collapsed.

The geometric mean of two ratios in the paper: a collapsed model to a sound one with as many latents (4.21 / 28.34 = 0.15),
and the smallest to the largest distance of sound models (20.30 / 32.81 = 0.62).
"""

FLOOR = 0.1
"""A distance below this share of the latents' length always counts as collapsed: a cosine of 0.995."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Geometry of the latents of some problems. Distances are Euclidean; None if there are no two latents to compare.

    Attributes:
        problems, latents: number of problems; mean number of latents per problem.
        norm: mean length of a latent.
        distance: the paper's Dist: mean distance between two latents of a problem, then mean over problems.
        centre: the paper's DistVC: mean distance from a latent to the mean row of the input embedding.
        within: `distance` / `norm`, which does not change with the scale of the states.
        across: mean distance between latents with the same number in two problems, / `norm`.
    """

    problems: int
    latents: float
    norm: float
    distance: float | None
    centre: float
    within: float | None
    across: float | None


def _apart(vectors_ND: Tensor) -> float | None:
    """Mean pairwise distance of the vectors."""
    return float(torch.pdist(vectors_ND).mean()) if len(vectors_ND) > 1 else None


def _mean(values: Collection[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def vocabulary_centre(backbone: Backbone) -> Tensor:
    """The mean row of the input embedding, in fp32."""
    return input_table(backbone.lm).weight.detach().float().mean(dim=0)


@torch.inference_mode()
def geometry(rows: Sequence[Tensor], centre_D: Tensor) -> Geometry | None:
    """The geometry of some problems; None if none has a latent.

    Args:
        rows: each problem's latents [n, D], as they were fed.
        centre_D: see `vocabulary_centre`.
    """
    rows = [row.to(centre_D.device).float() for row in rows]
    every_ND = torch.cat([row for row in rows if len(row)]) if any(len(row) for row in rows) else None
    if every_ND is None:
        return None
    norm = float(every_ND.norm(dim=-1).mean())
    distance = _mean([_apart(row) for row in rows])
    most = max(map(len, rows))
    columns = [torch.stack([row[k] for row in rows if len(row) > k]) for k in range(most)]
    across = _mean([_apart(column) for column in columns])
    return Geometry(
        problems=len(rows),
        latents=len(every_ND) / len(rows),
        norm=norm,
        distance=distance,
        centre=float((every_ND - centre_D.to(every_ND.device)).norm(dim=-1).mean()),
        within=None if distance is None or norm == 0 else distance / norm,
        across=None if across is None or norm == 0 else across / norm,
    )


def collapse(now: Mapping[str, float | None], before: Sequence[Mapping[str, object]]) -> str | None:
    """Describes what has collapsed; None if nothing has.

    Args:
        now: figures of `Geometry` by name.
        before: earlier figures of the same run.
    """
    said = []
    for name, what in (("within", "latents of one question"), ("across", "latents of different questions")):
        if (value := now.get(name)) is None:
            continue
        peak = max((v for row in before if (v := number(row.get(name))) is not None), default=None)
        if value < FLOOR or (peak is not None and value < SHRUNK * peak):
            fell = peak is not None and value < peak
            was = f", {peak:.2f} at its highest" if fell else ""
            said.append(
                f"{what} {'have become' if fell else 'are'} alike: their distance is {value:.2f} of their length{was}"
            )
    return "; ".join(said) or None


KINDS = ("numbers", "operators", "results")


@dataclass(frozen=True)
class EquationParts:
    """What can be recovered of some steps: a set of normalised texts per kind."""

    numbers: frozenset[str]
    operators: frozenset[str]
    results: frozenset[str]


def equation_parts(steps: Sequence[str]) -> EquationParts:
    """Operands, operators and results of the steps' equations; for a step without one, the numbers in its text."""
    found = [equation for step in steps for equation in equations(step)]
    bare = [number for step in steps if not equations(step) for number in numbers(step)]
    return EquationParts(
        numbers=frozenset([number for equation in found for number in equation.operands] + bare),
        operators=frozenset(sign for equation in found for sign in equation.operators),
        results=frozenset(equation.result for equation in found),
    )


Readings = Sequence[Collection[str]]
"""What was read: a set of texts per place. A number is recovered if all its pieces are in one place's set."""


def recovery(
    true: Sequence[EquationParts], seen: Sequence[Readings], pieces: Callable[[str], Collection[str]]
) -> dict[str, Any]:
    """How much of the true steps is found in what was read.

    Args:
        true: what should be recovered, one entry per unit (a problem or a thought group).
        seen: what was read, one entry per unit: nearest words, a set per latent; or decoded steps, a set per group.
        pieces: splits a number as it is read: into the texts of its tokens, or not at all.

    Returns:
        {"numbers" | "operators" | "results": {"found": how many, "n": of how many, "value": their ratio or None}}.
    """
    told: dict[str, Any] = {}
    for kind in KINDS:
        found = n = 0
        for parts_, places in zip(true, seen, strict=True):
            for item in getattr(parts_, kind):
                wanted = {item} if kind == "operators" else set(pieces(item))
                found += any(wanted <= set(place) for place in places)
                n += 1
        told[kind] = {"found": found, "n": n, "value": found / n if n else None}
    return told


def recovered(
    steps: Sequence[Sequence[str]],
    expected: Sequence[Sequence[str | None]],
    seen: Sequence[Readings],
    groups: Sequence[Sequence[Collection[str]]],
    pieces: Callable[[str], Collection[str]],
) -> dict[str, Any]:
    """`recovery` by three rules.

    Args:
        steps: each problem's true steps.
        expected: per problem, the step each thought group stands for, or None.
        seen: per problem, what was read at each place.
        groups: per problem, what was read in each thought group as a whole.
        pieces: see `recovery`.

    Returns:
        "anywhere": in any place of the problem (the paper's figure, as far as we can tell);
        "in_place": what a step says in the group that stands for it;
        "chance": "anywhere", but read in the next problem's places: what the words would say of any question.
    """
    true = [equation_parts(of) for of in steps]
    units = [
        (equation_parts([stands]), [read])
        for stand, reads in zip(expected, groups, strict=True)
        for stands, read in zip(stand, reads, strict=False)
        if stands is not None
    ]
    other = [*seen[1:], *seen[:1]]
    return {
        "anywhere": recovery(true, seen, pieces),
        "in_place": recovery([unit for unit, _ in units], [read for _, read in units], pieces),
        "chance": recovery(true, other, pieces) if len(seen) > 1 else None,
    }


def said_in(step: str) -> frozenset[str]:
    """What a decoded step says: its numbers, operators and results as texts."""
    told = equation_parts([step])
    return told.numbers | told.operators | told.results
