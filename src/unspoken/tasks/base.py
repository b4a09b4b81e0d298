"""The interface of tasks: where examples come from and how an answer is scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from unspoken.core.text.example import Example

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Whether an answer text is right.

    Attributes:
        strict: the answer is where the task's format says (after a mark, `answers.MARKS`) and equals the reference.
        flexible: the last answer-like text equals the reference, whatever the format.
        extracted: what the flexible rule found, or None.
    """

    strict: bool
    flexible: bool
    extracted: str | None


ScoringRule = Callable[[Example, str], Score]
"""How an answer text is scored: one of `tasks/scoring`, or a task's `score`."""


class TaskConfig(Protocol):
    """What a task is built from: a frozen dataclass whose `name` says which task."""

    @property
    def name(self) -> str: ...


@runtime_checkable
class Task(Protocol):
    """Examples in up to three disjoint splits, with a scoring rule.

    A task is built from its config, a frozen dataclass, which is cheap: data are read in `examples`.
    """

    name: ClassVar[str]
    config: Any

    def examples(self, split: Split) -> Sequence[Example]:
        """All examples of a split, in a fixed order: a list, or rows on the disk (`tasks/streaming`), read as asked for.

        Raises:
            DataError: a file is missing, empty or malformed (names file and line), or the split does not exist.
        """
        ...

    def score(self, example: Example, text: str) -> Score:
        """Score what a model wrote after its thoughts (`text`, without the prompt)."""
        ...

    def fingerprint(self, split: Split) -> str:
        """A short sha256 of the split's examples in order, for provenance."""
        ...


def fingerprint_examples(examples: Iterable[Example]) -> str:
    """The first 16 hex digits of a sha256 over question, steps and answer of each example, in order."""
    digest = hashlib.sha256()
    for example in examples:
        row = json.dumps([example.question, list(example.steps), example.answer])
        digest.update(row.encode("ascii") + b"\n")  # ASCII: json escapes the rest, lone surrogates included
    return digest.hexdigest()[:16]
