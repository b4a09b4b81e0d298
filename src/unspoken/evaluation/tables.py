"""Compare evaluations: table, JSON, paired comparison, and notes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev

from unspoken.core.text.table import Table
from unspoken.errors import DataError
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.rescore import Agreement
from unspoken.evaluation.statistics import OverSeeds, Rate, mcnemar

Reports = Mapping[str, EvalReport]
"""Label -> report. The first one is the baseline."""

COLUMNS = ("method", "accuracy", "flexible", "latents", "visible tokens", "forward passes", "ms/question", "n")
HEADINGS = ("method", "accuracy % (95%)", "flexible %", *COLUMNS[3:])
NARROW = ("method", "accuracy % (95%)", "flex. %", "latents", "tokens", "passes", "ms", "n")
"""The headings on a terminal of 80 columns."""
WITH_THOUGHTS = "†"
"""Marks a time that includes decoding thoughts."""


def percent(value: float) -> str:
    """A share in per cent with one decimal; a dash for None."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def points(difference: float) -> str:
    """A difference in percentage points with its sign; the minus is a hyphen, so that programs can parse it."""
    return f"{100 * difference:+.1f}"


def with_interval(rate: Rate) -> str:
    """`43.2 (40.5–45.9)`: per cent with the 95% interval."""
    low, high = rate.interval
    return f"{percent(rate.value)} ({percent(low)}–{percent(high)})"


def over_seeds_cell(over: OverSeeds) -> str:
    """`46.2 (15.6–76.8)`: the mean over training seeds with its interval, if there is one."""
    if over.interval is None:
        return percent(over.mean)
    low, high = over.interval
    return f"{percent(over.mean)} ({percent(low)}–{percent(high)})"


def each_seed(over: OverSeeds) -> str:
    """`46.9, 33.6, 58.2`: the accuracy of each training seed."""
    return ", ".join(map(percent, over.values))


def milliseconds(report: EvalReport) -> str:
    """Time per question, marked if it includes decoding thoughts."""
    ms = report.ms_per_question
    return f"{ms:.{0 if ms >= 100 else 1 if ms >= 1 else 2}f}" + (WITH_THOUGHTS if report.explained else "")


def p_value(p: float) -> str:
    """`= 0.021`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}" if p < 0.1 else f"= {p:.2f}"


def cells(label: str, report: EvalReport) -> list[str]:
    """One row of the table, in the order of `COLUMNS`."""
    return [
        label,
        with_interval(report.accuracy),
        percent(report.flexible.value),
        f"{report.mean_latents:.1f}",
        f"{report.mean_visible_tokens:.1f}",
        f"{report.mean_passes:.1f}",
        milliseconds(report),
        str(report.n),
    ]


def notes(reports: Reports) -> list[str]:
    """Notes that explain the table: rules, conditions, and what cannot be compared."""
    rules = {label: f"{r.extractor} rule" for label, r in reports.items()}
    rule = "; ".join(f"{k}: {v}" for k, v in rules.items()) if len(set(rules.values())) > 1 else next(iter(rules.values()))
    lines = [
        f"Accuracy: {rule}, per cent, with the 95% Wilson interval: other problems, the same model (another training "
        "seed is another model). Latents, tokens and passes: means per question."
    ]
    problems = {label: _problems(r) for label, r in reports.items()}
    if len(set(problems.values())) > 1:
        each = "; ".join(f"{label}: {what}" for label, what in problems.items())
        lines.append(f"The runs were evaluated on different problems, so accuracies cannot be compared: {each}.")
    else:
        lines.extend(f"Problems: {what}." for what in set(problems.values()))
    timing = {label: _conditions(r) for label, r in reports.items()}
    if len(set(timing.values())) > 1:
        each = "; ".join(f"{label}: {what}" for label, what in timing.items())
        lines.append(f"ms/question is wall-clock time under different conditions, so it cannot be compared: {each}.")
    else:
        lines.extend(f"ms/question: wall-clock time of the evaluation / n, {what}." for what in set(timing.values()))
    for label, r in reports.items():
        if (single := r.single) is not None:
            many = f"{r.chains} x {r.samples}"
            lines.append(f"{label}: a vote over {many} answers; of single answers {percent(single)}% are right.")
    explained = [f"{label} {r.loop_ms_per_question:.1f} ms" for label, r in reports.items() if r.explained]
    if explained:
        lines.append(f"{WITH_THOUGHTS} includes decoding the thoughts into words; without it: {', '.join(explained)}.")
    return lines + cut_notes(reports)


def cut_notes(reports: Reports) -> list[str]:
    """A note on answers cut off at the token limit: they may contain a number, but are not complete."""
    return [
        (f"{label}: " if len(reports) > 1 else "") + told
        for label, report in reports.items()
        if (told := cut_off(report.cut_off, report.answers, report.speaking.get("max_new_tokens")))
    ]


def cut_off(cut: int, answers: int, limit: int | None) -> str:
    """`45 of 60 answers reached max_new_tokens=12 without ending; raise --max-new-tokens`; "" if all ended."""
    if not cut:
        return ""
    at = "the limit of tokens" if limit is None else f"max_new_tokens={limit}"
    if answers == 1:
        return f"the answer reached {at} without ending; raise --max-new-tokens"
    return f"{cut} of {answers} answers reached {at} without ending; raise --max-new-tokens"


def over_sampling_seeds(reports: Sequence[EvalReport]) -> str:
    """Mean and standard deviation of the accuracy over evaluations of one trained model with several sampling seeds."""
    values = [report.accuracy.value for report in reports]
    spread = f" ± {percent(stdev(values))}" if len(values) > 1 else ""
    return (
        f"accuracy over {len(values)} sampling seeds of this one model: {percent(mean(values))}{spread} (mean ± sample "
        "standard deviation; nothing about other training seeds)"
    )


def table(reports: Reports) -> Table:
    """The reports as a table, with its notes."""
    rows = [cells(label, report) for label, report in reports.items()]
    return Table(headings=HEADINGS, rows=rows, notes=notes(reports), narrow=NARROW)


def to_json(reports: Reports) -> str:
    """The table as JSON: label -> all figures of the report and their origin, without records."""
    data = {
        label: {
            **report.summary(),
            "task": report.task,
            "split": report.split,
            "fingerprint": report.fingerprint,
            "limit": report.limit,
            "speaking": report.speaking,
            "model": report.model,
            "environment": report.environment,
        }
        for label, report in reports.items()
    }
    return json.dumps(data, indent=2, default=str) + "\n"


def details(report: EvalReport) -> list[str]:
    """Figures of an evaluation beyond its table row, as lines of text: cost, difficulty, several answers, steps."""
    lines = [
        f"cost per question: {report.mean_latents:.1f} latents, {report.mean_visible_tokens:.1f} visible tokens, "
        f"{report.mean_passes:.1f} forward passes, {report.mean_positions:.1f} positions, {report.ms_per_question:.2f} ms; "
        f"{report.tokens_per_second:.0f} visible tokens/s at batch size {report.batch_size}"
    ]
    by_steps = report.by_steps
    if set(by_steps) - {0}:
        each = "; ".join(f"{count}: {with_interval(rate)} of {rate.n}" for count, rate in by_steps.items())
        lines.append(f"by number of true steps: {each}")
    if report.by_part:
        lines.append("; ".join(f"{name}: {with_interval(rate)} of {rate.n}" for name, rate in report.by_part.items()))
    if (several := report.several) is not None:
        lines.extend(several.lines())
    if (steps := report.step_accuracy) is not None:
        right = f"{percent(steps.correct_only.value)}%" if steps.correct_only.n else "there is none"
        told = f"{percent(steps.overall.value)}%; where the answer is right, {right}"
        lines.append(f"decoded steps equal to the true step: {told}")
    return lines


def by_rules(found: Sequence[Agreement], left_out: Mapping[str, str]) -> list[str]:
    """The accuracy by other rules, as lines of text; see `rescore.agreements`."""
    return [
        *(f"by {one.name}: {with_interval(one.accuracy)}" for one in found),
        *(f"left out: {name}: {reason}" for name, reason in left_out.items()),
    ]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs over the same problems.

    Attributes:
        a, b: labels.
        only_a, only_b: problems that only one of them got right, by the strict rule.
        difference: accuracy of b minus that of a.
        p: McNemar's exact test, two-sided, not adjusted for the number of pairs.
        overlap: whether the two 95% intervals overlap.
    """

    a: str
    b: str
    only_a: int
    only_b: int
    difference: float
    p: float
    overlap: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All pairs of runs, in the given order.

    Attributes:
        labels: the runs; the first is the baseline.
        n: problems, the same for all.
        pairs: every pair (a before b).
        extractor: the scoring rule of all runs.
    """

    labels: tuple[str, ...]
    n: int
    pairs: tuple[Pair, ...]
    extractor: str = "strict"

    @property
    def against_first(self) -> tuple[Pair, ...]:
        """The pairs with the first run."""
        return tuple(pair for pair in self.pairs if pair.a == self.labels[0])

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def compare(reports: Reports) -> Comparison:
    """Compare runs problem by problem, matched by the examples' ids.

    Raises:
        DataError: fewer than two runs, or runs over different problems (says which differ).
    """
    if len(reports) < 2:
        raise DataError(f"a comparison needs at least two reports, got {len(reports)}")
    (first, baseline), *rest = reports.items()
    strict = {label: {r.id: r.strict for r in report.records} for label, report in reports.items()}
    for label, report in rest:
        _check_same(first, baseline, label, report)
    pairs = []
    for (a, report_a), (b, report_b) in itertools.combinations(reports.items(), 2):
        test = mcnemar(list(strict[a].values()), [strict[b][name] for name in strict[a]])
        (low_a, high_a), (low_b, high_b) = report_a.accuracy.interval, report_b.accuracy.interval
        pair = Pair(
            a=a,
            b=b,
            only_a=test.only_a,
            only_b=test.only_b,
            difference=report_b.accuracy.value - report_a.accuracy.value,
            p=test.p,
            overlap=low_a <= high_b and low_b <= high_a,
        )
        pairs.append(pair)
    return Comparison(labels=tuple(reports), n=baseline.n, pairs=tuple(pairs), extractor=baseline.extractor)


def comparison_table(comparison: Comparison) -> Table:
    """The comparison as a table."""
    return Table(
        headings=("a", "b", "b - a, points", "only a right", "only b right", "McNemar p", "95% intervals"),
        rows=[_pair_cells(pair) for pair in comparison.pairs],
        notes=[_pair_note(comparison)],
        text_columns=2,
        narrow=("a", "b", "b - a", "only a", "only b", "p", "intervals"),
    )


def _pair_cells(pair: Pair) -> list[str]:
    return [
        pair.a,
        pair.b,
        points(pair.difference),
        str(pair.only_a),
        str(pair.only_b),
        p_value(pair.p).removeprefix("= "),
        "overlap" if pair.overlap else "apart",
    ]


def _pair_note(comparison: Comparison) -> str:
    count = len(comparison.pairs)
    many = f", not adjusted for the {count} pairs" if count > 1 else ""
    rule = "Strict rule" if comparison.extractor == "strict" else comparison.extractor
    return (
        f"{rule}, {comparison.n} problems paired by id. p: McNemar's exact test, two-sided{many}. "
        "It compares these two runs; another training seed is another run."
    )


def _check_same(first: str, baseline: EvalReport, label: str, report: EvalReport) -> None:
    """Refuse two runs over different problems."""
    # The fingerprint covers the examples themselves, so the task's settings need not be compared.
    for what, want, got in (
        ("split", baseline.split, report.split),
        ("task fingerprint", baseline.fingerprint, report.fingerprint),
        ("extractor", baseline.extractor, report.extractor),
    ):
        if want != got:
            raise DataError(
                f"{first!r} and {label!r} cannot be paired: the {what} differs, {want!r} ({_name(baseline)}) against "
                f"{got!r} ({_name(report)}); evaluate both on the same task, or put runs of one recipe with several "
                "training seeds together with --group"
            )
    want_ids, got_ids = {r.id for r in baseline.records}, {r.id for r in report.records}
    if want_ids != got_ids:
        only_first, only_second = sorted(want_ids - got_ids), sorted(got_ids - want_ids)
        odd = (only_first or only_second)[0]
        raise DataError(
            f"{first!r} and {label!r} cannot be paired: the problems differ, {len(only_first)} only in {first!r} and "
            f"{len(only_second)} only in {label!r} (e.g. {odd!r}); evaluate both with the same limit"
        )


def _name(report: EvalReport) -> str:
    return str(report.task.get("name") or "a task")


def _problems(report: EvalReport) -> str:
    """The problems of a report, as text."""
    return f"{_name(report)}, {report.split} split, {report.n} problems (fingerprint {report.fingerprint})"


def _conditions(report: EvalReport) -> str:
    """The conditions of a time, as text."""
    return f"batch size {report.batch_size}, {report.hardware}, {report.model.get('dtype') or 'unknown dtype'}"
