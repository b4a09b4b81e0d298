"""Whether the latents matter, in words: what the controls show, on which of them it rests, and what they exclude.

The claim rests on one control that is chosen beforehand: another problem's latents. They are vectors the model itself
makes, of the right size, in the right order; only what they are about is wrong. Zeros, noise and pause tokens may lower
the accuracy just because the model has never met such vectors, so they are told, but nothing is concluded from them alone.
"""

from __future__ import annotations

from typing import Literal

from unspoken.causal.control_report import MEAN, NOISE, SHUFFLED, STOP, TOKENS, ZERO, Control, ControlsReport
from unspoken.evaluation.paired import Difference
from unspoken.evaluation.tables import p_value, percent, points, with_interval

WIDE = 0.1
"""Where a fall of this size cannot be excluded, "no effect" is not said (ours)."""

LITTLE = 0.1
"""Where the interval allows no larger fall than this share of the unmodified accuracy, latents matter "little" (ours)."""

Finding = Literal["matter", "matter little", "harm", "none found", "undecided", "alike", "nothing to lose", "not tested"]


def finding(report: ControlsReport) -> Finding:
    """What the shuffled latents show, as one word of `Finding`."""
    control = report.get(SHUFFLED)
    if control is None:
        return "alike" if SHUFFLED in report.left_out and report.plain.n > 1 else "not tested"
    low, high = report.effect(control).interval
    if high < 0:
        return "matter little" if -low < LITTLE * report.plain.accuracy.value else "matter"
    if low > 0:
        return "harm"
    if not report.plain.accuracy.correct:
        return "nothing to lose"
    return "undecided" if -low > min(WIDE, report.plain.accuracy.value) else "none found"


def verdict(report: ControlsReport) -> str:
    """A few sentences, each with its interval."""
    plain = report.plain
    start = f"{plain.n} problems, {report.latents} latents, {with_interval(plain.accuracy)}% right unmodified."
    parts = [start, _main(report), _strange(report), _stops(report)]
    return " ".join(part for part in parts if part)


def _main(report: ControlsReport) -> str:
    """The claim, and the control it rests on."""
    found, control = finding(report), report.get(SHUFFLED)
    if found == "alike":
        return (
            "The latents are the same for every problem, so they carry nothing about it: what they can give is room to "
            "compute, which shuffling them cannot test."
        )
    if control is None:
        return "Nothing is concluded: the claim would rest on shuffled latents, which were not tried."
    effect = report.effect(control)
    same = f"{percent(report.same(control).value)}% of the answers stay the same, right or wrong"
    if found == "matter":
        follows = report.follows
        told = ""
        if follows is not None and follows.n:
            told = f" Of the {follows.n} answers that could become the donor's own, {with_interval(follows)}% did."
        return (
            f"The latents matter. With another problem's latents in place, accuracy changes by {_points(effect)}, McNemar p "
            f"{p_value(effect.p)}, and {effect.only_before} of {report.plain.accuracy.correct} right answers are lost. "
            "The claim rests on this control: the vectors are the model's own, only their content is another problem's."
            f"{told}{_mean(report, effect)}"
        )
    if found == "matter little":
        return (
            "What the latents say matters, but little: with another problem's latents accuracy changes by "
            f"{_points(effect)}, McNemar p {p_value(effect.p)}; {same}. At least {percent(1 - LITTLE)}% of the accuracy "
            f"does without their content.{_mean(report, effect)}"
        )
    if found == "harm":
        return (
            f"The latents do harm: with another problem's latents accuracy changes by {_points(effect)}, McNemar p "
            f"{p_value(effect.p)}.{_mean(report, effect)}"
        )
    if found == "nothing to lose":
        return "Nothing can be concluded: no problem is answered rightly, so no control could take anything away."
    fall = percent(max(-effect.interval[0], 0.0))
    if found == "undecided":
        return (
            f"Undecided. With another problem's latents accuracy changes by {_points(effect)}: no effect, but only a "
            f"fall of more than {fall} points is excluded; {same}. More problems are needed.{_mean(report, effect)}"
        )
    return (
        f"No effect of what the latents say was found: with another problem's latents accuracy changes by "
        f"{_points(effect)}, and a fall of more than {fall} points is excluded; {same}.{_mean(report, effect)}"
    )


def _mean(report: ControlsReport, shuffled: Difference) -> str:
    """The second control of content: does it agree?"""
    control = report.get(MEAN)
    if control is None:
        return ""
    effect = report.effect(control)
    agrees = (effect.interval[1] < 0) == (shuffled.interval[1] < 0)
    return f" The mean latent {'agrees' if agrees else 'does not agree'}: {_points(effect)}."


def _strange(report: ControlsReport) -> str:
    """Vectors that the model has not met."""
    lower, idle = [], []
    for control in report.controls:
        if control.name in (ZERO, NOISE, TOKENS):
            effect = report.effect(control)
            (lower if effect.interval[1] < 0 else idle).append(f"{control.label} ({points(effect.value)})")
    parts = []
    if lower:
        parts.append(f"Accuracy falls also with {', '.join(lower)}, which alone would only show that such vectors disturb.")
    if idle:
        parts.append(f"No fall was found with {', '.join(idle)}.")
    return " ".join(parts)


def _stops(report: ControlsReport) -> str:
    """How many latents are needed."""
    stops = sorted((c for c in report.controls if c.name == STOP), key=lambda c: c.setting or 0)
    if not stops:
        return ""
    needed: Control | None = None
    for control in stops:
        if report.effect(control).interval[1] < 0:
            needed = control
    first = stops[0]
    told = ""
    if not first.setting:
        told = f"Without any latent accuracy changes by {_points(report.effect(first))}. "
    if needed is None:
        most = max(-report.effect(control).interval[0] for control in stops)
        return told + f"No fall was found where thinking stops early (more than {percent(most)} points are excluded)."
    behind = [control for control in stops if (control.setting or 0) > (needed.setting or 0)]
    if not behind:
        return (
            told
            + f"Stopping at {needed.setting:g} of {report.latents} latents still costs {_points(report.effect(needed))}."
        )
    most = max(-report.effect(control).interval[0] for control in behind)
    return told + (
        f"From {behind[0].setting:g} of {report.latents} latents on no fall was found (more than {percent(most)} points are "
        "excluded)."
    )


def _points(effect: Difference) -> str:
    low, high = effect.interval
    return f"{points(effect.value)} points (95% interval {points(low)} to {points(high)})"
