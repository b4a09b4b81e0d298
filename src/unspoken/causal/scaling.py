"""Test-time scaling: several trajectories of thought per question, a vote, and its cost.

Trajectories differ by Gaussian noise on latents, by dropout of their entries, or by sampled tokens. With noise and dropout
the first one is undisturbed, so that the curve starts at the model's own answer. All trajectories of a question share its
prompt, which is read once; the curve at n uses the first n trajectories of one evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from unspoken.core.files import write_text
from unspoken.core.stored import Stored
from unspoken.core.text.markup import cell
from unspoken.core.text.table import Table
from unspoken.errors import ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.evaluation.records import EvalReport, Record
from unspoken.evaluation.several import Completion, elect
from unspoken.evaluation.statistics import Difference, Rate, difference, mean, rate
from unspoken.evaluation.tables import cut_off, p_value, percent, points, with_interval
from unspoken.pages.drawing import save_charts
from unspoken.pages.svg import Chart, Line, Point
from unspoken.tasks.base import Split, Task

if TYPE_CHECKING:
    from torch import Tensor

    from unspoken.core.rows.row import LatentKey
    from unspoken.runs.model import AnswerOptions, Model

FORMAT = 1
"""Version of the file that `ScalingReport.save` writes."""

STRENGTH = {"noise": 0.3, "dropout": 0.1, "sampling": 1.0}
"""Default strength: noise in standard deviations of the latents' entries, share of dropped entries, sampling temperature
(ours)."""

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One point of the curve.

    Attributes:
        n: trajectories.
        vote: problems that the vote of the first n answers correctly.
        any: problems that at least one of them answers correctly: the limit of a perfect selection.
        distinct: different answers per problem.
        passes: sequential forward passes per problem: those of the longest trajectory, since they run in parallel.
        positions: positions forwarded per problem, over all trajectories.
        gain: the vote compared with the undisturbed greedy answer, which costs one trajectory.
    """

    n: int
    vote: Rate
    any: Rate
    distinct: float
    passes: float
    positions: float
    gain: Difference


@dataclass(frozen=True, kw_only=True)
class ScalingReport(Stored):
    """Trajectories of one model on one split.

    Attributes:
        by: one of `STRENGTH`.
        strength: of the disturbance.
        counts: numbers of trajectories on the curve.
        plain: the undisturbed run: one trajectory, greedy.
        report: all trajectories with their answers.
    """

    KIND: ClassVar[str] = "report of scaling"
    MADE_BY: ClassVar[str] = "scale"
    PARTS: ClassVar[tuple[str, ...]] = ("plain", "report")

    by: str
    strength: float
    counts: tuple[int, ...]
    plain: EvalReport
    report: EvalReport
    format: int = FORMAT

    @property
    def curve(self) -> list[Figure]:
        """A point per number of trajectories."""
        return [self._figure(n) for n in self.counts]

    def _figure(self, n: int) -> Figure:
        said = [_said(record)[:n] for record in self.report.records]
        votes = [some[elect([one.extracted for one in some])].strict for some in said]
        return Figure(
            n=n,
            vote=rate(votes),
            any=rate(any(one.strict for one in some) for some in said),
            distinct=mean(len({one.extracted for one in some if one.extracted is not None}) for some in said),
            passes=mean(max(one.passes for one in some) for some in said),
            positions=mean(sum(one.positions for one in some) for some in said),
            gain=difference([record.strict for record in self.plain.records], votes),
        )

    @property
    def verdict(self) -> str:
        """The benefit of more trajectories, as text."""
        first, last = self.curve[0], self.curve[-1]
        low, high = last.gain.interval
        found = "The vote helps" if low > 0 else "The vote harms" if high < 0 else "No gain from the vote was found"
        cost = f"{last.positions:.0f} positions and {last.passes:.1f} passes per question, against {first.positions:.0f} and"
        return (
            f"{found}: of {last.n} trajectories it gets {with_interval(last.vote)}% right, {points(last.gain.value)} points "
            f"against the one greedy answer (95% interval {points(low)} to {points(high)}, McNemar p "
            f"{p_value(last.gain.p)}). At least one is right in {with_interval(last.any)}%. Cost: {cost} "
            f"{first.passes:.1f} with {first.n}."
        )

    def summary(self) -> dict[str, Any]:
        """Every figure, as plain JSON values."""
        rows = []
        for figure in self.curve:
            row = dataclasses.asdict(figure)
            for name in ("vote", "any"):
                one: Rate = getattr(figure, name)
                row[name] = {"value": one.value, "interval": list(one.interval), "n": one.n}
            row["gain"] = {"value": figure.gain.value, "interval": list(figure.gain.interval), "mcnemar_p": figure.gain.p}
            rows.append(row)
        plain = self.plain.accuracy
        return {
            "verdict": self.verdict,
            "plain": {"value": plain.value, "interval": list(plain.interval), "n": plain.n},
            "curve": rows,
        }

    def save(self, path: str | Path) -> None:
        """Write JSON, and next to it the table (.md) and the curve (.svg).

        Raises:
            RunError: a file cannot be written.
        """
        path = Path(path)
        super().save(path)
        write_text(path.with_suffix(".md"), self.to_markdown())
        save_charts([self.chart], path.with_suffix(".svg"), self.chart.name)

    def check(self, path: str | Path) -> None:
        """Refuse impossible records."""
        self.plain.check(path)
        self.report.check(path)

    @property
    def table(self) -> Table:
        """A row per number of trajectories."""
        rows = []
        for f in self.curve:
            low, high = f.gain.interval
            gain = f"{points(f.gain.value)} ({points(low)} to {points(high)})" if f.n > 1 or self.by == "sampling" else ""
            cost = [f"{f.passes:.1f}", f"{f.positions:.1f}"]
            rows.append([str(f.n), with_interval(f.vote), gain, percent(f.any.value), f"{f.distinct:.2f}", *cost])
        return Table(
            headings=("trajectories", "vote % (95%)", "gain, points", "any %", "answers", "passes", "positions"),
            rows=rows,
            notes=[self.note],
            text_columns=0,
            narrow=("n", "vote % (95%)", "gain, points (95%)", "any %", "answers", "passes", "positions"),
        )

    @property
    def note(self) -> str:
        """The table's settings, and whether answers were cut off at the token limit."""
        r = self.report
        cut = cut_off(r.cut_off, r.answers, r.speaking.get("max_new_tokens"))
        return (
            f"{r.task.get('name')}, {r.split} split, the first {r.n} problems, strict rule; trajectories by {self.by} "
            f"{self.strength:g}. Greedy and undisturbed: {with_interval(self.plain.accuracy)}%. Gain: the vote against "
            "that, paired, 95% interval. Any: at least one is right. Passes: of the longest; positions: of all."
            + (f" Trajectories: {cut}." if cut else "")
        )

    def to_markdown(self) -> str:
        """Verdict, table and note."""
        return f"{cell(self.verdict)}\n\n{self.table.markdown()}"

    @property
    def chart(self) -> Chart:
        """Accuracy against positions forwarded."""
        curve = self.curve
        lines = [
            Line(0, "vote", tuple(Point(f.positions, f.vote.value, *f.vote.interval) for f in curve)),
            Line(1, "any is right", tuple(Point(f.positions, f.any.value, *f.any.interval) for f in curve)),
        ]
        x_label = "positions forwarded per question"
        return Chart(name=f"accuracy by {self.by}", lines=lines, x_label=x_label, percent=True, markers=True)


def scale(
    model: Model,
    task: Task,
    split: Split = "test",
    *,
    by: str,
    counts: Sequence[int] = COUNTS,
    strength: float | None = None,
    limit: int | None = None,
    latents: int | None = None,
    batch_size: int = 32,
    trajectory_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **speaking: Unpack[AnswerOptions],
) -> ScalingReport:
    """Answer questions with the largest of `counts` trajectories, and evaluate the vote of the first n.

    Args:
        model: with latents for noise and dropout; any for sampling.
        task, split, limit, latents: as in `evaluate`.
        by: noise, dropout (of a latent's entries) or sampling (of words).
        counts: numbers of trajectories.
        strength: see `STRENGTH`.
        batch_size: answers per batch.
        trajectory_seed: of noise and dropout; sampling uses the seed in `speaking`.
        progress: called with (questions answered, questions in all).
        speaking: fields of `AnswerOptions`.

    Raises:
        ConfigError: unknown `by`, invalid counts, a strength out of range, or a model without latents.
        DataError: as `evaluate`.
    """
    from unspoken.causal.interventions import Drop, Noise, edit_of, latents_into
    from unspoken.causal.known import KnownLatents

    if by not in STRENGTH:
        raise ConfigError(f"unknown way to make trajectories {by!r}; known: {', '.join(STRENGTH)}")
    counts = tuple(sorted(set(counts)))
    if not counts or counts[0] < 1 or counts[-1] < 2:
        raise ConfigError(f"n needs numbers of trajectories from 1 on, one above 1, e.g. 1,2,4,8; got {counts}")
    strength = STRENGTH[by] if strength is None else strength
    if not strength > 0:
        raise ConfigError(f"strength must be positive, or all trajectories would be the same; got {strength:g}")
    if by == "sampling" and "temperature" in speaking:
        raise ConfigError("temperature is what strength says for sampling; leave one of them out")
    if by != "sampling" and (not model.method.latents_per_group or latents == 0):
        raise ConfigError(f"this model thinks without latents, so {by} has nothing to disturb; take sampling")
    how: dict[str, Any] = {"limit": limit, "latents": latents, "batch_size": batch_size}
    greedy: AnswerOptions = {**speaking, "temperature": 0.0}
    drawn: AnswerOptions = {**speaking, "temperature": strength}
    kept: dict[LatentKey, Tensor] = {}
    plain = evaluate(model, task, split, on_trace=latents_into(kept), **how, **greedy)
    most = counts[-1]
    if by == "sampling":
        report = evaluate(model, task, split, samples=most, progress=progress, **how, **drawn)
    else:
        known = KnownLatents.of(kept, [record.id for record in plain.records])
        one = Noise(scale=strength, seed=trajectory_seed, spare=1)
        if by == "dropout":
            one = Drop(share=strength, seed=trajectory_seed, spare=1)
        report = evaluate(model, task, split, chains=most, progress=progress, edit=edit_of([one], known), **how, **speaking)
    return ScalingReport(by=by, strength=strength, counts=counts, plain=plain, report=report)


def _said(record: Record) -> tuple[Completion, ...]:
    assert record.said is not None, "several trajectories were asked for"
    return record.said
