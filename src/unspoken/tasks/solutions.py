"""Decide whether a solution that a language model wrote is kept, and find the steps of its reasoning."""

from __future__ import annotations

import re
from dataclasses import dataclass

from unspoken.core.text.example import Example
from unspoken.tasks.base import ScoringRule
from unspoken.tasks.endpoint import Completion
from unspoken.tasks.reading.segment import natural, split_steps
from unspoken.tasks.reading.traces import concluded, holds_trace, read_trace
from unspoken.tasks.scoring.answers import MARKS, SPECIAL, equal

_NUMBERED = re.compile(r"^(?:#+\s*)?(?:\*\*|__)?(?:step\s*\d+\s*[:.)\-]|\d+[.)](?=\s))\s*(?:\*\*|__)?\s*", re.IGNORECASE)
_BULLET = re.compile(r"^[-*\u2022]\s+")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Decides whether a solution is kept.

    Attributes:
        score: the task's own scoring.
        steps: the rule that splits its reasoning.
        strict: the answer must stand behind a mark, and alone.
    """

    score: ScoringRule
    steps: str
    strict: bool = False

    def steps_of(self, example: Example, said: Completion) -> tuple[tuple[str, ...], str]:
        """(the steps, "") of a solution that is kept, or ((), why not)."""
        text = f"<think>{said.reasoning}</think>{said.text}" if said.reasoning else said.text
        trace = read_trace(text) if holds_trace(text) else None
        rest = text if trace is None else trace.rest
        if not rest.strip():
            return (), "it says nothing" if trace is None else "it never ends its thinking"
        if not said.finished:
            return (), "it was cut off at the limit of tokens"
        if "\ufffd" in text:
            return (), "it holds a broken character"
        scored = self.score(example, rest)
        if not (scored.strict if self.strict else scored.flexible):
            return (), f"its answer is {'none' if scored.extracted is None else repr(scored.extracted)[:60]}"
        for reasoning in (_before_answer(rest, example, scored.strict), (None if trace is None else trace.thought) or ""):
            plain = SPECIAL.sub("", reasoning)
            steps = split_steps(natural(_unnumbered(plain) if self.steps == "lines" else plain, self.steps), self.steps)
            if steps:
                return steps, ""
        return (), f"it has no step by the rule {self.steps!r}"


def _before_answer(text: str, example: Example, strict: bool) -> str:
    """What leads to the answer; all of it where the answer is somewhere in the last step."""
    mark = max(text.rfind(mark) for mark in MARKS)
    if strict and mark >= 0:
        return text[:mark].rstrip("# \n")
    body, _, marked = concluded(text)
    return body if marked or equal(text, example.answer) else text


def _unnumbered(text: str) -> str:
    """Lines without "Step 1:", "2." or, if all have one, a bullet before them; without rules between them."""
    lines = [_NUMBERED.sub("", line.strip()) for line in text.split("\n") if line.strip()]
    if all(_BULLET.match(line) for line in lines):
        lines = [_BULLET.sub("", line) for line in lines]
    return "\n".join(line for line in lines if not re.fullmatch(r"[\s*_#=-]*", line))
