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

from unspoken.causal.ranking import COUNTS, Ranking
from unspoken.core.files import write_text
from unspoken.core.stored import Stored
from unspoken.core.text.markup import cell
from unspoken.core.text.table import Table
from unspoken.errors import ConfigError
from unspoken.evaluation.records import EvalReport, Record
from unspoken.evaluation.several import Completion, elect
from unspoken.evaluation.statistics import Difference, Rate, difference, mean, rate
from unspoken.evaluation.tables import cut_off, p_value, percent, points, with_interval
from unspoken.pages.drawing import save_charts
from unspoken.pages.svg import Chart, Line, Point
from unspoken.tasks.base import Split, Task

if TYPE_CHECKING:
    from unspoken.causal.latent_ranker import Learned
    from unspoken.runs.model import AnswerOptions, Model

FORMAT = 1
"""Version of the file that `ScalingReport.save` writes."""


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
        by: one of `trajectories.STRENGTH`.
        strength: of the disturbance.
        counts: numbers of trajectories on the curve.
        plain: the undisturbed run: one trajectory, greedy.
        report: all trajectories with their answers.
        ranking: scores by a head on latents, if one was asked.
    """

    KIND: ClassVar[str] = "report of scaling"
    MADE_BY: ClassVar[str] = "scale"
    PARTS: ClassVar[tuple[str, ...]] = ("plain", "report")
    ROWS: ClassVar[tuple[str, ...]] = ("records", "head", "control", "likelihood", "answers", "scores")

    by: str
    strength: float
    counts: tuple[int, ...]
    plain: EvalReport
    report: EvalReport
    ranking: Ranking | None = None
    format: int = FORMAT

    @property
    def curve(self) -> list[Figure]:
        """A point per number of trajectories."""
        return [self._figure(n) for n in self.counts]

    @property
    def _outcomes(self) -> tuple[list[tuple[Completion, ...]], list[bool]]:
        """What the trajectories of each problem said, and whether the greedy answer is right."""
        return [_said(record) for record in self.report.records], [record.strict for record in self.plain.records]

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
        text = (
            f"{found}: of {last.n} trajectories it gets {with_interval(last.vote)}% right, {points(last.gain.value)} points "
            f"against the one greedy answer (95% interval {points(low)} to {points(high)}, McNemar p "
            f"{p_value(last.gain.p)}). At least one is right in {with_interval(last.any)}%. Cost: {cost} "
            f"{first.passes:.1f} with {first.n}."
        )
        return text if self.ranking is None else f"{text} {self.ranking.verdict(*self._outcomes, last.n)}"

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
        if self.ranking is not None:
            for row, figure in zip(rows, self.curve, strict=True):
                row["choice"] = {
                    one.rule: {
                        "value": one.chosen.value,
                        "interval": list(one.chosen.interval),
                        "gain": {"value": one.gain.value, "interval": list(one.gain.interval), "mcnemar_p": one.gain.p},
                        "over_vote": {
                            "value": one.over_vote.value,
                            "interval": list(one.over_vote.interval),
                            "mcnemar_p": one.over_vote.p,
                        },
                    }
                    for one in self.ranking.selections(*self._outcomes, figure.n)
                }
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
        if self.ranking is not None:
            self.ranking.check(path, [len(record.said or ()) for record in self.report.records])

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
    def choices(self) -> Table | None:
        """A row per rule to select a trajectory; None without a head on latents."""
        return None if self.ranking is None else self.ranking.table(*self._outcomes, self.counts)

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
        tables = [table.markdown() for table in (self.table, self.choices) if table is not None]
        return "\n\n".join([cell(self.verdict), *tables])

    @property
    def chart(self) -> Chart:
        """Accuracy against positions forwarded."""
        curve = self.curve
        lines = [
            Line(0, "vote", tuple(Point(f.positions, f.vote.value, *f.vote.interval) for f in curve)),
            Line(1, "any is right", tuple(Point(f.positions, f.any.value, *f.any.interval) for f in curve)),
        ]
        if self.ranking is not None:
            chosen = [self.ranking.selections(*self._outcomes, f.n) for f in curve]
            rates = [next(one.chosen for one in some if one.rule == "rank + vote") for some in chosen]
            ranked = (Point(f.positions, r.value, *r.interval) for f, r in zip(curve, rates, strict=True))
            lines.append(Line(2, "rank + vote", tuple(ranked)))
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
    ranker: Learned | None = None,
    beam: int | None = None,
    **speaking: Unpack[AnswerOptions],
) -> ScalingReport:
    """Answer questions with the largest of `counts` trajectories, and evaluate the vote of the first n.

    Args:
        model: with latents for noise and dropout; any for sampling.
        task, split, limit, latents: as in `evaluate`.
        by: noise, dropout (of a latent's entries) or sampling (of words).
        counts: numbers of trajectories.
        strength: see `trajectories.STRENGTH`.
        batch_size: answers per batch.
        trajectory_seed: of noise and dropout; sampling uses the seed in `speaking`.
        progress: called with (questions answered, questions in all).
        ranker: also select by this head on latents (`causal/ranker.py:learn`).
        beam: also search, steered by the head: of as many candidates as the largest of `counts`, so many stay after each
            thought.
        speaking: fields of `AnswerOptions`.

    Raises:
        ConfigError: unknown `by`, invalid counts, a strength out of range, a model without latents, a ranker that is not
            for them, or a beam without one.
        DataError: as `evaluate`.
    """
    from unspoken.causal.beam import check_beam, search
    from unspoken.causal.ranker import check_ranker, rank
    from unspoken.causal.trajectories import Way, sampled

    way = Way.of(by, counts, strength, latents=latents, seed=trajectory_seed)
    if ranker is not None:
        check_ranker(by, ranker.lesson, split, task.fingerprint(split))
    if beam is not None and ranker is None:
        raise ConfigError("a beam is steered by a head on latents; teach one (--rank) or name a saved one (--ranker)")
    if beam is not None:
        check_beam(model, beam, way.number)
    found = sampled(
        model, task, split, way, limit=limit, batch_size=batch_size, progress=progress, keep=ranker is not None, **speaking
    )
    ranking = None if ranker is None else rank(model, ranker, found, batch_size=batch_size)
    if beam is not None and ranker is not None and ranking is not None:
        how = {"limit": limit, "batch_size": batch_size, **speaking}
        steered, control = search(model, task, split, way, beam, ranker, **how)
        ranking = dataclasses.replace(ranking, beam=steered, beam_control=control)
    counts = tuple(sorted(set(counts)))
    return ScalingReport(
        by=by, strength=way.strength, counts=counts, plain=found.plain, report=found.report, ranking=ranking
    )


def _said(record: Record) -> tuple[Completion, ...]:
    assert record.said is not None, "several trajectories were asked for"
    return record.said
