"""What several answers to each question are worth: pass@k, the vote, how many of them differ.

They are the samples and sets of thoughts of one evaluation (`Record.said`), or evaluations of one model with several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unspoken.errors import DataError
from unspoken.evaluation.statistics import Rate, mean, rate, wilson
from unspoken.evaluation.vote import elect

if TYPE_CHECKING:
    from unspoken.evaluation.records import EvalReport


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
        vote: the answer that most agree on is right; see `evaluation/vote.py`.
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


def pooled_over_seeds(reports: Sequence[EvalReport]) -> Several:
    """The figures of evaluations of the same problems: each adds its answers to every question.

    Raises:
        DataError: the problems differ.
    """
    ids = [[record.id for record in report.records] for report in reports]
    if any(names != ids[0] for names in ids):
        raise DataError("answers of several reports can be put together for the same problems only; these differ")
    return several([[one for r in group for one in _said(r)] for group in zip(*(r.records for r in reports), strict=True)])


def _said(record: Any) -> list[tuple[str | None, bool]]:
    """All answers in a record."""
    return [(one.extracted, one.strict) for one in record.said or (record,)]


def within(report: EvalReport) -> Several | None:
    """The figures of one evaluation; None where it has one answer per question."""
    return several([_said(r) for r in report.records]) if any(r.said for r in report.records) else None
