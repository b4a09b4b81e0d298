"""The monitor: stability figures of a run while it trains, and a warning when latents collapse.

It thinks about a few validation problems in evaluation mode, uses no randomness, and does not affect the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from unspoken.core.loop.sources import are_learned
from unspoken.core.rows.curriculum import Stage
from unspoken.core.text.example import Example
from unspoken.inspector.figures import stability_row, thought_of
from unspoken.inspector.gather import ObservedProblem
from unspoken.inspector.stability import collapse
from unspoken.methods.base import Method, latents_at
from unspoken.runs.model import Model


class Monitor:
    """Measures the latents of some problems during training.

    Args:
        method: the method in training.
        examples: the problems, at least one.
    """

    def __init__(self, method: Method, examples: Sequence[Example]) -> None:
        self.method = method
        self.examples = list(examples)
        self.last = method.curriculum().last

    def problems(self, stage: Stage, examples: Sequence[Example] | None = None) -> list[ObservedProblem]:
        """Think about the problems, or a process's share of them; [] at a stage without latents.

        Args:
            stage: the current stage, which sets the number of latents.
            examples: the share; None = all.
        """
        question = self.examples[0].question
        latents = latents_at(self.method, stage, self.last, question)
        if latents is None:
            latents = self.method.prompt(question).latents
        if not latents:
            return []
        return thought_of(Model(self.method), self.examples if examples is None else examples, latents)

    def look(
        self, step: int, stage: Stage, rows: Sequence[Mapping[str, Any]], seen: Sequence[ObservedProblem] | None = None
    ) -> dict[str, Any] | None:
        """Make a row of metrics.jsonl of kind "stability"; None at a stage without latents.

        Warns when a collapse begins: at the first row that has one.

        Args:
            step: optimizer steps done.
            stage: the current stage.
            rows: the run's metrics so far; a collapse is measured against earlier rows of this kind.
            seen: what `problems` gave, for all problems; None = think about them now.
        """
        seen = self.problems(stage) if seen is None else seen
        if not seen or (figures := stability_row(Model(self.method), seen)) is None:
            return None
        before = [row for row in rows if row.get("kind") == "stability" and row["step"] < step]
        # Learned tokens are the same for every question by construction; and before training nothing has collapsed, though
        # the states of random weights, or of an untouched model behind new markers, may well be alike.
        exempt = are_learned(self.method.at_inference.source()) or step == 0
        said = None if exempt else collapse(figures, before)
        if said is not None and not (before and before[-1]["collapse"]):
            warnings.warn(f"step {step}: the latents are collapsing: {said}; see docs/guides/inspector.md", stacklevel=2)
        return {"kind": "stability", "step": step, "stage": stage.index, **figures, "collapse": said}
