"""What an evaluation says beyond its row in the table: cost, difficulty, several answers, steps, other rules; in lines."""

from __future__ import annotations

from collections.abc import Sequence

from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.rescore import agreements
from unspoken.evaluation.several import within
from unspoken.evaluation.tables import percent, with_interval
from unspoken.tasks.scoring.extractors import EXTRACTORS


def details(report: EvalReport, rules: Sequence[str] = ()) -> list[str]:
    """The lines.

    Args:
        report: an evaluation.
        rules: extractors to score it by as well; those that cannot read these answers are named as left out if all were
            asked for, and are an error otherwise.
    """
    lines = [
        f"cost per question: {report.mean_latents:.1f} latents, {report.mean_visible_tokens:.1f} visible tokens, "
        f"{report.mean_passes:.1f} forward passes, {report.mean_positions:.1f} positions, {report.ms_per_question:.2f} ms; "
        f"{report.tokens_per_second:.0f} visible tokens/s at batch size {report.batch_size}"
    ]
    by_steps = report.by_steps
    if set(by_steps) - {0}:
        each = "; ".join(f"{count}: {with_interval(rate)} of {rate.n}" for count, rate in by_steps.items())
        lines.append(f"by number of true steps: {each}")
    if (several := within(report)) is not None:
        lines.extend(several.lines())
    if (steps := report.step_accuracy) is not None:
        right = f"{percent(steps.correct_only.value)}%" if steps.correct_only.n else "there is none"
        told = f"{percent(steps.overall.value)}%; where the answer is right, {right}"
        lines.append(f"decoded steps equal to the true step: {told}")
    if rules:
        every = set(rules) == set(EXTRACTORS)
        found, left_out = agreements(report, None if every else tuple(rules))
        lines.extend(f"by {one.name}: {with_interval(one.accuracy)}" for one in found)
        lines.extend(f"left out: {name}: {reason}" for name, reason in left_out.items())
    return lines
