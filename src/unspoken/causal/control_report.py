"""Results of causal controls: the same problems answered with original and with modified latents.

All figures and the verdict are computed from the records. Reading a report does not load torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from unspoken.core.stored import Stored
from unspoken.core.text.markup import cell
from unspoken.core.text.table import Table
from unspoken.errors import RunError
from unspoken.evaluation.records import EvalReport, Record
from unspoken.evaluation.statistics import Difference, Rate, difference, rate
from unspoken.evaluation.tables import cut_off, p_value, percent, points, with_interval

FORMAT = 1
"""Version of the file that `ControlsReport.save` writes."""

SHUFFLED, MEAN, ZERO, NOISE, TOKENS, STOP = "shuffled", "mean", "zero", "noise", "pause tokens", "early stop"

WHAT = {
    SHUFFLED: "another problem's latents",
    MEAN: "the mean latent of all evaluated problems, place by place",
    ZERO: "zero vectors",
    NOISE: "Gaussian noise added, in standard deviations of the latents' entries",
    TOKENS: "the slot token's embedding",
    STOP: "only the first k latents are thought",
}
"""Every control of latents, described."""

LIKELIEST, GREEDY, SAMPLED = "likeliest token", "greedy chain", "sampled chain"

BESIDE_SOFT = {
    LIKELIEST: "the most likely token's embedding where a mixture was fed, under the same rules",
    GREEDY: "ordinary thinking in the most likely tokens, with the same limits of tokens and without the rules",
    SAMPLED: "the same in drawn tokens",
}
"""What soft thinking is compared with (`causal/soft_baselines.py`)."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One problem under a control. The problem itself stands in the unmodified run; fields as in `Record`."""

    id: str
    text: str
    strict: bool
    flexible: bool
    extracted: str | None
    latents: int
    visible_tokens: int
    passes: int
    positions: int
    finished: bool

    @classmethod
    def of(cls, record: Record) -> Outcome:
        """A record without the problem."""
        return cls(**{f.name: getattr(record, f.name) for f in dataclasses.fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Control:
    """An evaluation with modified latents.

    Attributes:
        name: one of `WHAT` or `BESIDE_SOFT`.
        setting: the scale of noise, or the number of latents of an early stop; else None.
        outcomes: one per problem, in the order of the unmodified run.
    """

    name: str
    setting: float | None
    outcomes: tuple[Outcome, ...]

    @property
    def label(self) -> str:
        """Name and setting."""
        if self.setting is None:
            return self.name
        return f"{self.name} k={self.setting:g}" if self.name == STOP else f"{self.name} {self.setting:g}"

    @property
    def accuracy(self) -> Rate:
        """By the strict rule."""
        return rate(o.strict for o in self.outcomes)

    @property
    def cut_off(self) -> int:
        """Problems whose answer was still being written when the limit of tokens came."""
        return sum(not o.finished for o in self.outcomes)


@dataclass(frozen=True, kw_only=True)
class ControlsReport(Stored):
    """Controls of one model on one split, and the unmodified evaluation for comparison.

    Attributes:
        plain: the unmodified evaluation: task, split, settings, model, environment, records.
        latents: number of latents per question and set of thoughts; the mean of those that think softly.
        seed: of the derangement and of the noise.
        donors: per problem, the number of the problem whose latents it gets when shuffled; () if not shuffled.
        left_out: control -> why it was not run.
        controls: in the order in which they were run.
    """

    KIND: ClassVar[str] = "report of controls"
    MADE_BY: ClassVar[str] = "controls"
    ROWS: ClassVar[tuple[str, ...]] = ("controls", "outcomes", "records")
    PARTS: ClassVar[tuple[str, ...]] = ("plain",)

    plain: EvalReport
    latents: int
    seed: int
    donors: tuple[int, ...]
    controls: tuple[Control, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def get(self, name: str, setting: float | None = None) -> Control | None:
        """The control of a name (and setting), if it was run."""
        return next((c for c in self.controls if c.name == name and setting in (None, c.setting)), None)

    def effect(self, control: Control) -> Difference:
        """Its accuracy minus the unmodified run's, problem by problem."""
        return difference([r.strict for r in self.plain.records], [o.strict for o in control.outcomes])

    def same(self, control: Control) -> Rate:
        """How often the answer equals the unmodified one, right or wrong."""
        pairs = zip(self.plain.records, control.outcomes, strict=True)
        return rate(_said(r.extracted, r.text) == _said(o.extracted, o.text) for r, o in pairs)

    @property
    def follows(self) -> Rate | None:
        """For shuffled latents: how often the answer equals the donor's unmodified answer, where the two problems' answers
        differ."""
        control = self.get(SHUFFLED)
        if control is None:
            return None
        own = [_said(r.extracted, r.text) for r in self.plain.records]
        rows = zip(own, self.donors, control.outcomes, strict=True)
        return rate(_said(o.extracted, o.text) == own[donor] for mine, donor, o in rows if own[donor] != mine)

    @property
    def verdict(self) -> str:
        """Whether the latents matter, in words."""
        return verdict(self)

    def summary(self) -> dict[str, Any]:
        """Every figure, as plain JSON values."""
        rows = []
        for control in self.controls:
            effect, accuracy = self.effect(control), control.accuracy
            rows.append(
                {
                    "control": control.name,
                    "setting": control.setting,
                    "accuracy": {"value": accuracy.value, "interval": list(accuracy.interval), "n": accuracy.n},
                    "difference": effect.value,
                    "interval": list(effect.interval),
                    "only_unmodified_right": effect.only_before,
                    "only_control_right": effect.only_after,
                    "mcnemar_p": effect.p,
                    "same_answer": self.same(control).value,
                    "cut_off": control.cut_off,
                }
            )
        follows = self.follows
        accuracy = self.plain.accuracy
        return {
            "verdict": self.verdict,
            "n": self.plain.n,
            "unmodified": {
                "value": accuracy.value,
                "interval": list(accuracy.interval),
                "cut_off": sum(not r.finished for r in self.plain.records),
            },
            "controls": rows,
            "answers_that_follow_the_donor": None if follows is None else {"value": _value(follows), "n": follows.n},
            "left_out": self.left_out,
        }

    def check(self, path: str | Path) -> None:
        """Refuse impossible records, and controls of other problems."""
        self.plain.check(path)
        ids = [record.id for record in self.plain.records]
        for control in self.controls:
            if [outcome.id for outcome in control.outcomes] != ids:
                raise RunError(f"{path}: {control.label} has other problems than the unmodified run; run the controls again")


def cells(report: ControlsReport) -> list[list[str]]:
    """The rows of the table, the unmodified run first."""
    rows = [[_own(report), with_interval(report.plain.accuracy), "", "", "", "", ""]]
    for control in report.controls:
        effect = report.effect(control)
        rows.append(
            [
                control.label,
                with_interval(control.accuracy),
                f"{points(effect.value)} ({points(effect.interval[0])} to {points(effect.interval[1])})",
                str(effect.only_before),
                str(effect.only_after),
                p_value(effect.p).removeprefix("= "),
                percent(report.same(control).value),
            ]
        )
    return rows


def notes(report: ControlsReport) -> list[str]:
    """Notes that explain the table."""
    plain = report.plain
    ran = dict.fromkeys(control.name for control in report.controls)
    lines = [
        f"{plain.task.get('name')}, {plain.split} split, the first {plain.n} problems, {_count(report)}. "
        "Strict rule. Points: control minus unmodified, paired. p: McNemar, exact, not adjusted for the number of controls. "
        "Same: problems with the same answer, right or wrong.",
        "; ".join(f"{name}: {(WHAT | BESIDE_SOFT)[name]}" for name in ran) + ".",
    ]
    lines += [f"Left out: {name} ({why})." for name, why in report.left_out.items()]
    return lines + _cut_notes(report)


def _cut_notes(report: ControlsReport) -> list[str]:
    """Notes on answers cut off at the token limit: the unmodified evaluation first, then the controls in one line."""
    limit, n = report.plain.speaking.get("max_new_tokens"), report.plain.n
    own = cut_off(sum(not r.finished for r in report.plain.records), n, limit)
    lines = [f"{_own(report)}: {own}"] if own else []
    others = "; ".join(f"{c.label} {c.cut_off}" for c in report.controls if c.cut_off)
    return [*lines, f"Of {n} answers each reached the limit of tokens without ending: {others}."] if others else lines


def table(report: ControlsReport) -> Table:
    """The controls as a table."""
    return Table(
        headings=("control", "accuracy % (95%)", "difference, points (95%)", "lost", "won", "McNemar p", "same answer %"),
        rows=cells(report),
        notes=notes(report),
        narrow=("control", "accuracy %", "points (95%)", None, None, "p", "same %"),
    )


def to_markdown(report: ControlsReport) -> str:
    """Verdict, table and notes as Markdown."""
    lost = "Lost, won: problems that only the unmodified run, or only the control, gets right."
    return f"{cell(report.verdict)}\n\n{table(report).markdown().rstrip()}  \n{cell(lost)}\n"


def _said(extracted: str | None, text: str) -> str:
    """The content of an answer: the extracted text, or the whole text if nothing was extracted."""
    return text.strip() if extracted is None else extracted


def _count(report: ControlsReport) -> str:
    """How much is thought, in words."""
    return f"{report.latents} latents" + (" on average" if soft_thinking(report) else "")


def _own(report: ControlsReport) -> str:
    """What the evaluation is called that the others are compared with."""
    return "soft thinking" if soft_thinking(report) else "unmodified"


def soft_thinking(report: ControlsReport) -> bool:
    """Whether it compares soft thinking with ordinary thinking."""
    return report.get(GREEDY) is not None


def _value(one: Rate) -> float | None:
    return one.value if one.n else None


WIDE = 0.1
""""No effect" is only claimed if a fall of this size can be excluded (ours)."""

LITTLE = 0.1
"""Latents matter "little" if the interval excludes a larger fall than this share of the unmodified accuracy (ours)."""

Finding = Literal["matter", "matter little", "harm", "none found", "undecided", "alike", "nothing to lose", "not tested"]


def finding(report: ControlsReport) -> Finding:
    """The result of shuffled latents, as a `Finding`."""
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
    if soft_thinking(report):
        return _soft_verdict(report)
    start = f"{plain.n} problems, {report.latents} latents, {with_interval(plain.accuracy)}% right unmodified."
    parts = [start, _main(report), _strange(report), _stops(report)]
    return " ".join(part for part in parts if part)


def _soft_verdict(report: ControlsReport) -> str:
    """Whether soft thinking gains over each kind of ordinary thinking: said where the interval of the difference says so."""
    parts = [f"{report.plain.n} problems, {with_interval(report.plain.accuracy)}% right in soft thinking."]
    for control in report.controls:
        low, high = report.effect(control).interval
        told = "No difference was found to"
        if low > 0 or high < 0:
            told = f"Soft thinking is {'worse' if low > 0 else 'better'} than"
        parts.append(f"{told} the {control.name}, with which accuracy changes by {_points(report.effect(control))}.")
    likeliest = report.get(LIKELIEST)
    if likeliest is not None:
        parts.append(
            f"{percent(report.same(likeliest).value)}% of the answers are those of the likeliest token's embedding."
        )
    return " ".join(parts)


def _main(report: ControlsReport) -> str:
    """The main claim, and the control it is based on."""
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
    """Whether the second control of content agrees."""
    control = report.get(MEAN)
    if control is None:
        return ""
    effect = report.effect(control)
    agrees = (effect.interval[1] < 0) == (shuffled.interval[1] < 0)
    return f" The mean latent {'agrees' if agrees else 'does not agree'}: {_points(effect)}."


def _strange(report: ControlsReport) -> str:
    """The controls with vectors unlike any latent."""
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
