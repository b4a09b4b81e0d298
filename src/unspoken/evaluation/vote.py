"""Self-consistency: many answers to one question, and the one that most of them agree on.

A vote looks at what a task's rule extracts from each text, which never depends on the reference answer. A text from which
nothing is extracted does not vote; of answers with as many votes the one that was said first wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
