"""Select among trajectories: by a head on their latents, by the likelihood of their answers, and each weighted with votes.

Every rule sees the same samples. Two controls say what a head's gain is worth: a head that was taught with another problem's
latents (it knows which trajectories were disturbed, and how much, but nothing about the problem), and the likelihood of the
answers, which takes no training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unspoken.core.text.table import Table
from unspoken.errors import RunError
from unspoken.evaluation.several import Completion, elect
from unspoken.evaluation.statistics import Difference, Rate, difference, rate
from unspoken.evaluation.tables import p_value, percent, points, with_interval


def above_error(gain: float, error: float) -> bool:
    """Whether a head is kept: its gain on problems that it was not taught with is above one standard error."""
    return gain > error


Scores = tuple[tuple[float, ...], ...]
"""Per problem, a score of each of its trajectories."""

FORMAT = 1
"""Version of a head's files."""

COUNTS = (1, 2, 4, 8)
"""Numbers of trajectories on the curve."""


def best(extracted: Sequence[str | None], scores: Sequence[float]) -> int:
    """The number of the answer with the highest score, the first of equals; one from which nothing was extracted is taken
    only if all are such."""
    real = [i for i, answer in enumerate(extracted) if answer is not None] or [0]
    return max(real, key=lambda i: (scores[i], -i))


def weighted(extracted: Sequence[str | None], scores: Sequence[float]) -> int:
    """`elect`, where each answer's vote weighs as much as its share in the softmax of the scores."""
    top, votes = max(scores), {}
    for answer, score in zip(extracted, scores, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + math.exp(score - top)
    return extracted.index(max(votes, key=lambda answer: votes[answer])) if votes else 0


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a head has learnt from, and how well.

    Attributes:
        task, split, fingerprint: where the problems are from.
        problems: how many were tried.
        mixed: how many of them had right and wrong trajectories, and were learnt from.
        left_out: problems that are also asked later, and were therefore not tried.
        by, strength, trajectories, latents, seed: how the trajectories were made (`causal/scaling.py`).
        loss, chance: the loss on a fifth that only judges, and the loss there of equal scores.
        gain, error: the mean difference of the two, problem by problem, and its standard error.
        mismatched: the loss there of the control, which was taught with another problem's latents.
        weights: a hash of the model's weights.
        width, hidden: sizes of the head.
    """

    task: dict[str, Any]
    split: str
    fingerprint: str
    problems: int
    mixed: int
    left_out: int
    by: str
    strength: float
    trajectories: int
    latents: int | None
    seed: int
    loss: float
    chance: float
    gain: float
    error: float
    mismatched: float
    weights: str | None
    width: int
    hidden: int
    format: int = FORMAT

    @property
    def kept(self) -> bool:
        """Whether the head is used; otherwise its scores are equal, and the choice is the undisturbed, greedy answer."""
        return above_error(self.gain, self.error)

    @property
    def judged(self) -> str:
        """What the head gains where it was judged, as text."""
        return f"{self.gain:.4f} nats (standard error {self.error:.4f}) of the {self.chance:.3f} that equal scores have"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A rule's choices from the first n trajectories.

    Attributes:
        rule: its name.
        n: trajectories.
        chosen: problems that its choice answers correctly.
        gain: against the one undisturbed greedy answer.
        over_vote: against the vote of the same n.
    """

    rule: str
    n: int
    chosen: Rate
    gain: Difference
    over_vote: Difference


@dataclass(frozen=True, kw_only=True)
class Beam:
    """What a beam search over latents came to (`causal/beam.py`).

    Attributes:
        width: trajectories that stay after each thought, W.
        candidates: of which they are chosen.
        positions: forwarded per question; every thought is made anew from the question.
        answers: per problem, what each of the W says as its rule extracts it, and whether that is right.
        scores: of each of the W.
    """

    width: int
    candidates: int
    positions: float
    answers: tuple[tuple[tuple[str | None, bool], ...], ...]
    scores: Scores

    def right(self, choose: Callable[[Sequence[str | None], Sequence[float]], int]) -> list[bool]:
        """Whether the choice is right, problem by problem."""
        return [
            some[choose([extracted for extracted, _ in some], each)][1]
            for some, each in zip(self.answers, self.scores, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores of trajectories, and how the head came by them.

    Attributes:
        lesson: what the head has learnt from.
        head: by the head on latents.
        control: by the head that was taught with another problem's latents, and is given such.
        likelihood: the mean log-probability of the answer.
        beam, beam_control: searches steered by the head, and by the control; None = there was none.
    """

    lesson: Lesson
    head: Scores
    control: Scores
    likelihood: Scores
    beam: Beam | None = None
    beam_control: Beam | None = None

    def check(self, path: str | Path, counts: Sequence[int]) -> None:
        """Refuse a file whose scores are not one per trajectory.

        Raises:
            RunError: so it is.
        """
        for name in ("head", "control", "likelihood"):
            if [len(each) for each in getattr(self, name)] != list(counts):
                raise RunError(
                    f"{path}: the scores by {name} are not one per trajectory; make it again with `unspoken scale`"
                )
        for beam in (self.beam, self.beam_control):
            widths = [(beam.width, beam.width)] * len(counts) if beam is not None else []
            sizes = [(len(a), len(b)) for a, b in zip(beam.answers, beam.scores, strict=False)] if beam is not None else []
            if sizes != widths:
                raise RunError(
                    f"{path}: the answers of a beam are not one per trajectory; make it again with `unspoken scale`"
                )

    def outcomes(self, said: Sequence[Sequence[Completion]], n: int) -> dict[str, list[bool]]:
        """Rule -> whether its choice from the first n trajectories is right, problem by problem."""
        rules = {"vote": [some[elect([one.extracted for one in some[:n]])].strict for some in said]}
        for name, scores in (("rank", self.head), ("likelihood", self.likelihood), ("control", self.control)):
            for rule, choose in ((name, best), (f"{name} + vote", weighted)):
                rules[rule] = [
                    some[choose([one.extracted for one in some[:n]], each[:n])].strict
                    for some, each in zip(said, scores, strict=True)
                ]
        return rules

    def _beams(self, n: int) -> dict[str, list[bool]]:
        """As `outcomes`, of the searches with n candidates."""
        rules = {}
        for name, beam in (("beam", self.beam), ("beam by the control", self.beam_control)):
            if beam is not None and beam.candidates == n:
                rules |= {name: beam.right(best), f"{name} + vote": beam.right(weighted)}
        return rules

    def selections(self, said: Sequence[Sequence[Completion]], plain: Sequence[bool], n: int) -> list[Selection]:
        """Every rule on the first n trajectories; where the beam had n candidates, what it came to as well."""
        rules = self.outcomes(said, n) | self._beams(n)
        return [
            Selection(
                rule=rule, n=n, chosen=rate(right), gain=difference(plain, right), over_vote=difference(rules["vote"], right)
            )
            for rule, right in rules.items()
        ]

    def verdict(self, said: Sequence[Sequence[Completion]], plain: Sequence[bool], n: int) -> str:
        """What the head is worth, as text."""
        any_right = [any(one.strict for one in some[:n]) for some in said]
        if not self.lesson.kept:
            return (
                "The head is not used, and the choice is the greedy answer: on problems that it was not taught with it "
                f"gains {self.lesson.judged}. More problems (--rank-limit) may help, or their latents do not tell. A "
                f"perfect choice: {with_interval(rate(any_right))}%."
            )
        rules = self.outcomes(said, n)
        rank = rules["rank + vote"]
        over = difference(rules["vote"], rank)
        low, high = over.interval
        found = "gains over" if low > 0 else "loses against" if high < 0 else "is not told apart from"
        controls = "; ".join(
            f"{_told(difference(rules[f'{name} + vote'], rank))} against {what}"
            for name, what in (("likelihood", "the answers' likelihood"), ("control", "a head on another problem's latents"))
        )
        return (
            f"Of {n} trajectories a vote weighted by a head on latents gets {with_interval(rate(rank))}% right and {found} "
            f"the plain vote: {_told(over)}, McNemar p {p_value(over.p)}; {_told(difference(plain, rank))} against the one "
            f"greedy answer; {controls} (with votes too). A perfect choice: {with_interval(rate(any_right))}%."
            + self._beam_verdict(plain, rules["rank"])
        )

    def _beam_verdict(self, plain: Sequence[bool], rank: Sequence[bool]) -> str:
        if self.beam is None or self.beam_control is None:
            return ""
        found = self.beam.right(best)
        return (
            f" A beam steered by the head, {self.beam.width} of {self.beam.candidates} candidates kept after each thought: "
            f"{with_interval(rate(found))}%; {_told(difference(plain, found))} against the greedy answer, "
            f"{_told(difference(rank, found))} against the head's choice among {self.beam.candidates} whole trajectories, "
            f"{_told(difference(self.beam_control.right(best), found))} against a beam steered by the control; "
            f"{self.beam.positions:.0f} positions per question."
        )

    def table(self, said: Sequence[Sequence[Completion]], plain: Sequence[bool], counts: Sequence[int]) -> Table:
        """A row per rule: its accuracy at each number of trajectories, and paired differences at the largest."""
        counts = [n for n in counts if n > 1]
        each = [self.selections(said, plain, n) for n in counts]
        rows = []
        for last in each[-1]:
            before = [percent(one.chosen.value) for some in each[:-1] for one in some if one.rule == last.rule]
            before = before or [""] * (len(counts) - 1)
            differences = [_told(last.gain), "" if last.rule == "vote" else _told(last.over_vote)]
            rows.append([last.rule, *before, with_interval(last.chosen), *differences])
        shares = [percent(rate(any(one.strict for one in some[:n]) for some in said).value) for n in counts]
        rows.append(["any is right", *shares, "", ""])
        heads = [f"n = {n}, %" for n in counts]
        lesson = self.lesson
        note = (
            f"The head learnt from {lesson.mixed} of {lesson.problems} problems of the {lesson.split} split, by {lesson.by} "
            f"{lesson.strength:g}; on a fifth that only judges it gains {lesson.judged}, the control "
            f"{lesson.chance - lesson.mismatched:.4f}{'' if lesson.kept else '; not used: equal scores'}. Control: a head "
            "taught with, and given, another problem's latents. "
            f"Differences at n = {counts[-1]}, in points, paired, 95% interval."
        )
        return Table(
            headings=("choice", *heads, "against greedy", "against the vote"),
            rows=rows,
            notes=[note],
            narrow=("choice", *[None] * (len(heads) - 1), heads[-1], "greedy", "the vote"),
        )


def _told(one: Difference) -> str:
    low, high = one.interval
    return f"{points(one.value)} ({points(low)} to {points(high)})"
