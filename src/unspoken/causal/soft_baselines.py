"""What soft thinking is compared with: the same model that thinks in tokens, with the same limits, on the same problems.

Its gains are disputed, and most of what it does may be ordinary greedy decoding: the likeliest token dominates a mixture
(arXiv 2508.03440). So the control feeds that token's embedding under the same rules, and ordinary chains stand beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from unspoken.causal.control_report import GREEDY, LIKELIEST, SAMPLED, Control, ControlsReport, Outcome
from unspoken.core.loop.soft import SoftThinking
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport
from unspoken.runs.model import Model
from unspoken.tasks.base import Split, Task

AS_SAMPLED = {"temperature": 0.6, "top_p": 0.95, "top_k": 30}
"""How the sampled chain is drawn where soft thinking's own answers are greedy: as in the papers' baselines."""


def beside_soft(
    model: Model,
    task: Task,
    split: Split,
    done: EvalReport,
    *,
    limit: int,
    batch_size: int = 32,
    progress: Callable[[str, int, int], None] | None = None,
    **speaking: Any,
) -> ControlsReport:
    """Compare an evaluation of soft thinking with ordinary thinking.

    Args:
        model, task, split: what was evaluated on what.
        done: the evaluation.
        limit: how many of its problems, from the first on.
        batch_size: answers at a time.
        progress: called with (current comparison, evaluations done, total).
        speaking: how it was evaluated: `soft`, and fields of `SamplingParams`.
    """
    records = done.records[:limit]
    how = SoftThinking.parse(text) if isinstance(text := speaking.pop("soft"), str) else text
    drawn = speaking.get("temperature", model.speaking.temperature) > 0
    chain = SoftThinking(kind="chain", limit=how.limit, until=how.until).spelt
    jobs: dict[str, Mapping[str, Any]] = {
        LIKELIEST: {"soft": dataclasses.replace(how, feed="token").spelt, "samples": done.samples},
        GREEDY: {"soft": chain, "temperature": 0.0},
        SAMPLED: {"soft": chain, "samples": done.samples, **({} if drawn else AS_SAMPLED)},
    }
    tell = progress or (lambda name, done, total: None)
    controls = []
    for name, changed in jobs.items():
        tell(name, len(controls), len(jobs))
        settings = {**speaking, **changed}
        report = evaluate(model, task, split, limit=len(records), batch_size=batch_size, **settings)
        outcomes = tuple(Outcome.of(record) for record in report.records)
        controls.append(Control(name=name, setting=None, outcomes=outcomes))
    tell("done", len(jobs), len(jobs))
    return ControlsReport(
        plain=dataclasses.replace(done, records=records, limit=len(records)),
        latents=round(fmean(record.latents for record in records)),
        seed=0,
        donors=(),
        controls=tuple(controls),
    )
