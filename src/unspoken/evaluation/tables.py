"""Several evaluations side by side: one table in three forms (terminal, Markdown, JSON), and the paired comparison."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev

from rich import box
from rich.markup import escape
from rich.table import Table

from unspoken.core.text.markup import cell
from unspoken.errors import DataError
from unspoken.evaluation.records import EvalReport
from unspoken.evaluation.statistics import OverSeeds, Rate, mcnemar

Reports = Mapping[str, EvalReport]
"""Label -> report. The first one is what the others are compared with."""

COLUMNS = ("method", "accuracy", "flexible", "latents", "visible tokens", "forward passes", "ms/question", "n")
HEADINGS = ("method", "accuracy % (95%)", "flexible %", *COLUMNS[3:])
NARROW = ("method", "accuracy % (95%)", "flex. %", "latents", "tokens", "passes", "ms", "n")
"""The headings on a terminal of 80 columns."""
WITH_THOUGHTS = "†"
"""Stands behind a time that includes decoding thoughts into words."""


def percent(value: float) -> str:
    """A share as per cent with one decimal; a dash where there is none."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def with_interval(rate: Rate) -> str:
    """`43.2 (40.5–45.9)`: per cent with the 95% interval."""
    low, high = rate.interval
    return f"{percent(rate.value)} ({percent(low)}–{percent(high)})"


def over_seeds_cell(over: OverSeeds) -> str:
    """`46.2 (15.6–76.8)`: the mean over training seeds with its interval over them; the mean alone where there is none."""
    if over.interval is None:
        return percent(over.mean)
    low, high = over.interval
    return f"{percent(over.mean)} ({percent(low)}–{percent(high)})"


def each_seed(over: OverSeeds) -> str:
    """`46.9, 33.6, 58.2`: the accuracy of each training seed."""
    return ", ".join(map(percent, over.values))


def milliseconds(report: EvalReport) -> str:
    """Time per question, marked where it includes decoding thoughts."""
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
    """What a reader must know to read the table: rules, conditions, and what may not be compared."""
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
    """Which answers were cut at the limit: such a text may hold a number, but it is no answer."""
    return [
        (f"{label}: " if len(reports) > 1 else "") + told
        for label, report in reports.items()
        if (told := cut_off(report.cut_off, report.answers, report.speaking.get("max_new_tokens")))
    ]


def cut_off(cut: int, answers: int, limit: int | None) -> str:
    """`45 of 60 answers reached max_new_tokens=12 without ending; raise --max-new-tokens`; nothing where all ended."""
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
    """The reports as a table for the terminal."""
    result = terminal_table(NARROW, text_columns=1, caption="\n".join(notes(reports)))
    for label, report in reports.items():
        result.add_row(*map(escape, cells(label, report)))
    return result


def terminal_table(headings: tuple[str, ...], text_columns: int, caption: str) -> Table:
    """A table in which no figure is broken over two lines; long labels are."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=escape(caption), caption_justify="left")
    for number, heading in enumerate(headings):
        text = number < text_columns
        result.add_column(escape(heading), justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return result


def to_markdown(reports: Reports) -> str:
    """The table as Markdown, with its notes."""
    rows = [cells(label, report) for label, report in reports.items()]
    return markdown(list(HEADINGS), rows) + "\n" + "\n".join(f"{cell(line)}  " for line in notes(reports)) + "\n"


def to_json(reports: Reports) -> str:
    """The table as JSON: label -> every figure of the report with where it comes from, without the records."""
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


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs over the same problems.

    Attributes:
        a, b: labels.
        only_a, only_b: problems that one of them alone got right, by the strict rule.
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
    """All pairs of runs, in the order in which the runs were given.

    Attributes:
        labels: the runs; the first is the baseline.
        n: problems, the same for all.
        pairs: every pair (a before b).
        extractor: the rule by which all were scored.
    """

    labels: tuple[str, ...]
    n: int
    pairs: tuple[Pair, ...]
    extractor: str = "strict"

    @property
    def against_first(self) -> tuple[Pair, ...]:
        """The pairs in which the first run takes part."""
        return tuple(pair for pair in self.pairs if pair.a == self.labels[0])

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def compare(reports: Reports) -> Comparison:
    """Pair runs problem by problem, by the examples' ids.

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


PAIR_COLUMNS = ("a", "b", "b - a, points", "only a right", "only b right", "McNemar p", "95% intervals")


def comparison_table(comparison: Comparison) -> Table:
    """The comparison as a table for the terminal."""
    headings = ("a", "b", "b - a", "only a", "only b", "p", "intervals")
    result = terminal_table(headings, text_columns=2, caption=_pair_note(comparison))
    for pair in comparison.pairs:
        result.add_row(*map(escape, _pair_cells(pair)))
    return result


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    rows = [_pair_cells(pair) for pair in comparison.pairs]
    return markdown(list(PAIR_COLUMNS), rows, text_columns=2) + f"\n{cell(_pair_note(comparison))}\n"


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
    """Refuse two runs that did not see the same problems."""
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
    """Which problems, in words."""
    return f"{_name(report)}, {report.split} split, {report.n} problems (fingerprint {report.fingerprint})"


def _conditions(report: EvalReport) -> str:
    """What a time depends on, in words."""
    return f"batch size {report.batch_size}, {report.hardware}, {report.model.get('dtype') or 'unknown dtype'}"


def markdown(head: list[str], rows: list[list[str]], text_columns: int = 1) -> str:
    """A Markdown table; all columns but the first ones are figures."""
    rule = ["---" if i < text_columns else "---:" for i in range(len(head))]
    lines = [[cell(name) for name in head], rule, *([cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
