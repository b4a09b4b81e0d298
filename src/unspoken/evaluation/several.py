"""Figures of several answers per question: vote (self-consistency), pass@k, number of different answers.

The answers are the samples and sets of thoughts of one evaluation (`Record.said`), or of evaluations with several seeds.

A vote is over what a task's rule extracts from each text, which never depends on the reference answer. A text without an
extracted answer does not vote; ties are won by the answer given first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unspoken.errors import DataError
from unspoken.evaluation.statistics import Rate, mean, rate, wilson
from unspoken.tasks.base import Score

if TYPE_CHECKING:  # reading a report must not load torch
    from unspoken.core.loop.trace import Answer


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One of several answers to a question.

    Attributes:
        chain, sample: number of the set of thoughts, and of the answer from it.
        text: the generated text.
        strict, flexible, extracted: see `Score`.
        visible_tokens: generated tokens, without eos.
        finished: eos was reached before the limit.
        passes, positions: see `Answer`; shared positions count for the first answer.
    """

    chain: int
    sample: int
    text: str
    strict: bool
    flexible: bool
    extracted: str | None
    visible_tokens: int
    finished: bool
    passes: int = 0
    positions: int = 0

    @classmethod
    def of(cls, answer: Answer, score: Score) -> Completion:
        """An answer and its score."""
        return cls(
            chain=answer.chain,
            sample=answer.sample,
            text=answer.text,
            strict=bool(score.strict),
            flexible=bool(score.flexible),
            extracted=score.extracted,
            visible_tokens=int(answer.visible),
            finished=bool(answer.finished),
            passes=int(answer.passes),
            positions=int(answer.positions),
        )


def elect(extracted: Sequence[str | None]) -> int:
    """The number of the first answer with the most common extracted text; 0 if nothing was extracted from any."""
    votes: dict[str, int] = {}
    for answer in extracted:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return 0
    return extracted.index(max(votes, key=lambda answer: votes[answer]))  # the first of the largest, in order of saying


@dataclass(frozen=True, kw_only=True)
class Share:
    """A mean over questions of values in [0, 1], with a 95% interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Several:
    """Figures of questions with several answers each.

    Attributes:
        answers: answers per question.
        pass_at: k -> the probability that at least one of k answers drawn from a question's answers is right (Chen et al.
            2021), mean over questions. For k = `answers` it is a count. Otherwise we use a Wilson interval, which is
            conservative: a value in [0, 1] varies no more than a 0/1 outcome with the same mean.
        vote: share of questions whose elected answer is right; see `elect`.
        distinct: different answers per question; all texts without an extracted answer count as one.
    """

    answers: int
    pass_at: Mapping[int, Share]
    vote: Rate
    distinct: float

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "answers": self.answers,
            "pass_at": {str(k): {"value": s.value, "interval": list(s.interval)} for k, s in self.pass_at.items()},
            "vote": {"correct": self.vote.correct, "n": self.vote.n, "value": self.vote.value},
            "distinct": self.distinct,
        }

    def lines(self) -> list[str]:
        """As lines of text."""

        def shown(value: float, interval: tuple[float, float]) -> str:
            return f"{100 * value:.1f} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"

        tries = ", ".join(f"pass@{k} {shown(share.value, share.interval)}" for k, share in self.pass_at.items())
        return [
            f"{self.answers} answers per question: {tries}",
            f"their vote: {shown(self.vote.value, self.vote.interval)}; {self.distinct:.2f} of them are different",
        ]


Said = Sequence[tuple[str | None, bool]]
"""Per answer to a question: the extracted text, and whether it is right."""


def pass_at(n: int, right: int, k: int) -> float:
    """The probability that k answers drawn from n, of which some are right, include a right one."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def several(questions: Sequence[Said]) -> Several:
    """Compute the figures of questions that all have the same number of answers.

    Raises:
        DataError: there are none, or their numbers differ.
    """
    counts = {len(said) for said in questions}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"every question needs the same number of answers, got {sorted(counts) or 'no questions'}")
    (n,) = counts
    ks = sorted({n, *(2**i for i in range(n.bit_length()) if 2**i <= n)})
    shares = {k: mean(pass_at(n, sum(right for _, right in said), k) for said in questions) for k in ks}
    total = len(questions)
    return Several(
        answers=n,
        pass_at={k: Share(value=v, interval=wilson(min(v * total, total), total)) for k, v in shares.items()},
        vote=rate(said[elect([found for found, _ in said])][1] for said in questions),
        distinct=mean(len({found for found, _ in said}) for said in questions),
    )
