"""A task and a model without weights, and reports made up from outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

from unspoken.core.text.example import Example
from unspoken.evaluation.records import EvalReport, Record
from unspoken.runs.model import Model
from unspoken.tasks.base import Score, fingerprint_examples
from unspoken.tasks.scoring.answers import score_number


@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    size: int = 4


class FakeTask:
    """Problem i asks for i + i; problems of 1, 2, 3, 1, ... steps."""

    name: ClassVar[str] = "fake"

    def __init__(self, size: int = 4, examples: Sequence[Example] | None = None) -> None:
        self.config = FakeConfig(size=size)
        self.rows = list(examples) if examples is not None else [problem(i) for i in range(size)]

    def examples(self, split: str) -> list[Example]:
        return list(self.rows) if split == "test" else []

    def score(self, example: Example, text: str) -> Score:
        return score_number(example, text)

    def fingerprint(self, split: str) -> str:
        return fingerprint_examples(self.rows)


def problem(i: int) -> Example:
    steps = tuple(f"<<{i}+{k}={i + k}>>" for k in range(i % 3 + 1))
    return Example(question=f"What is {i} + {i}?", steps=steps, answer=str(2 * i), id=f"test-{i}")


class FakeModel(Model):
    """Says what `say(place, question)` says: a text, and optionally fields of the answer to change."""

    def __init__(self, say: Callable[[int, str], tuple[str, dict[str, Any]]]) -> None:
        self.say = say
        self.calls: list[dict[str, Any]] = []

    def expected(self, example: Example, groups: int) -> tuple[str | None, ...] | None:
        """Group k stands for step k."""
        return None

    def answer(self, questions: Sequence[str], *, on_token: Any = None, **options: Any) -> list[Any]:
        self.calls.append({"questions": list(questions), **options})
        if on_token is not None:  # as the engine: longest first, batch after batch, all rows of a batch in turns
            order = list(reversed(range(len(questions))))
            for first in range(0, len(order), options["batch_size"]):
                for _ in range(2):
                    for place in order[first : first + options["batch_size"]]:
                        on_token(place, 7)
        return [self._one(i, q) for i, q in enumerate(questions)]

    def _one(self, i: int, question: str) -> Any:
        text, fields = self.say(i, question)
        answer = SimpleNamespace(
            text=text, tokens=(5, 6, 0), finished=True, latents=3, passes=6, positions=20, seconds=0.5, thoughts=None
        )
        answer.__dict__.update(fields)
        answer.visible = len(answer.tokens) - answer.finished
        return answer


def record(i: int, strict: bool, **fields: Any) -> Record:
    example = problem(i)
    made = Record(
        id=example.id,
        question=example.question,
        answer=example.answer,
        steps=example.steps,
        text=f"### {2 * i if strict else 2 * i + 1}",
        strict=strict,
        flexible=strict,
        extracted=str(2 * i if strict else 2 * i + 1),
        latents=6,
        visible_tokens=3,
        passes=9,
        positions=40,
        finished=True,
    )
    return replace(made, **fields)


def report(outcomes: Sequence[bool], **fields: Any) -> EvalReport:
    """A report with the given strict outcomes."""
    made = EvalReport(
        task={"name": "fake", "size": len(outcomes)},
        split="test",
        fingerprint="00112233",
        limit=None,
        latents=None,
        batch_size=8,
        speaking={"temperature": 0.0},
        seconds=2.0,
        loop_seconds=1.0,
        model={"path": None, "method": None, "dtype": "float32", "device": "cpu"},
        environment={"cpu": "Abacus", "threads": 1, "gpu": [], "versions": {"torch": "2"}, "time": "2026-01-01"},
        records=tuple(record(i, strict) for i, strict in enumerate(outcomes)),
    )
    return replace(made, **fields)
