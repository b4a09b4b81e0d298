"""Several answers to each question: the vote on them (self-consistency), pass@k, how many of them differ.

They are the samples and sets of thoughts of one evaluation (`Record.said`), or evaluations of one model with several seeds.

A vote looks at what a task's rule extracts from each text, which never depends on the reference answer. A text from which
nothing is extracted does not vote; of answers with as many votes the one that was said first wins.
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
        chain, sample: from which set of thoughts, and which of the answers from it.
        text: what was spoken.
        strict, flexible, extracted: see `Score`.
        visible_tokens: tokens spoken, without eos.
        finished: eos was reached before the limit.
        passes, positions: see `Answer`: what several answers share counts for the first of them.
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
    """The number of the first answer that says what most of them say; 0 where none says anything."""
    votes: dict[str, int] = {}
    for answer in extracted:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return 0
    return extracted.index(max(votes, key=lambda answer: votes[answer]))  # the first of the largest, in order of saying


@dataclass(frozen=True, kw_only=True)
class Share:
    """A mean over questions of something between 0 and 1, with a 95% interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Several:
    """Figures of questions that were answered several times.

    Attributes:
        answers: answers per question.
        pass_at: k -> the chance that at least one of k answers, drawn from those of the question, is right (Chen et al.
            2021), mean over questions. For k = `answers` it is a count. Else its interval is Wilson's at that share: what
            lies between 0 and 1 varies at most as much as what is either.
        vote: the answer that most agree on is right; see `elect`.
        distinct: different answers per question, those from which nothing is extracted being one.
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
        """In words, a line each."""

        def shown(value: float, interval: tuple[float, float]) -> str:
            return f"{100 * value:.1f} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"

        tries = ", ".join(f"pass@{k} {shown(share.value, share.interval)}" for k, share in self.pass_at.items())
        return [
            f"{self.answers} answers per question: {tries}",
            f"their vote: {shown(self.vote.value, self.vote.interval)}; {self.distinct:.2f} of them are different",
        ]


Said = Sequence[tuple[str | None, bool]]
"""What was extracted from each answer to a question, and whether it is right."""


def pass_at(n: int, right: int, k: int) -> float:
    """The chance that k answers drawn from n, of which some are right, hold a right one."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def several(questions: Sequence[Said]) -> Several:
    """The figures of questions that all have the same number of answers.

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
