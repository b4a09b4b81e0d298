"""The result of an evaluation: one record per problem, from which every figure is computed.

So every number can be traced to the answers behind it, and two runs can be compared problem by problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from unspoken.core.stored import Stored
from unspoken.core.text.table import Table
from unspoken.errors import DataError, RunError
from unspoken.evaluation.several import Completion, Several, several
from unspoken.evaluation.statistics import Rate, mean, rate

FORMAT = 1
"""Version of the file that `EvalReport.save` writes."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One problem, the model's answer, and its cost.

    Attributes:
        id: the example's id, unique in the split.
        question, answer, steps: the problem with its reference answer and steps.
        text: the model's answer.
        strict, flexible, extracted: see `Score`.
        latents: number of latents.
        visible_tokens: tokens spoken, without eos.
        passes: sequential forward passes: the latency of this question alone, in passes.
        positions: positions forwarded.
        finished: eos was reached before the limit.
        thoughts: decoded steps, one per thought group; None if not requested.
        expected: what each thought group stands for (several steps joined by newlines, or None for no step), as the
            method aligns steps with groups; None = group k stands for step k.
        said: all answers, if there were several. Then `text`, the scores and `finished` belong to the answer chosen by
            vote, `passes` to the longest, and latents, tokens and positions are totals.
    """

    id: str
    question: str
    answer: str
    steps: tuple[str, ...]
    text: str
    strict: bool
    flexible: bool
    extracted: str | None
    latents: int
    visible_tokens: int
    passes: int
    positions: int
    finished: bool
    thoughts: tuple[str, ...] | None = None
    expected: tuple[str | None, ...] | None = None
    said: tuple[Completion, ...] | None = None

    @property
    def answers(self) -> list[tuple[str | None, bool]]:
        """The extracted text of each answer, and whether it is right."""
        return [(one.extracted, one.strict) for one in self.said or (self,)]


@dataclass(frozen=True, kw_only=True)
class StepAccuracy:
    """How often a thought group's decoded step equals the step it stands for, ignoring white space.

    Groups that stand for no step are not counted. Steps of one problem depend on each other, so these rates have no
    interval.

    Attributes:
        overall: all pairs.
        correct_only: pairs of problems whose answer is right by the strict rule.
        by_index: `overall` per thought group, first group first.
        by_index_correct_only: `correct_only` per thought group.
    """

    overall: Rate
    correct_only: Rate
    by_index: tuple[Rate, ...]
    by_index_correct_only: tuple[Rate, ...]


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What is evaluated, how, and where.

    Attributes:
        task: the task's config as plain values, with its name.
        split: which split.
        fingerprint: of the whole split, also where `limit` took only a part.
        limit: how many examples were asked for; None = all.
        latents: how many latents were asked for; None = the model's own number.
        batch_size: questions per batch; `ms_per_question` depends on it.
        speaking: all sampling settings.
        chains, samples: sets of thoughts per question, and answers from each; more than one answer means a vote.
        model: path (None if not from a directory), method config, dtype, device.
        environment: versions, hardware, commit, time (`provenance()`).
    """

    task: dict[str, Any]
    split: str
    fingerprint: str
    limit: int | None
    latents: int | None
    batch_size: int
    speaking: dict[str, Any]
    model: dict[str, Any]
    environment: dict[str, Any]
    chains: int = 1
    samples: int = 1

    def settings(self) -> dict[str, Any]:
        """These fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(EvalSettings)}


@dataclass(frozen=True, kw_only=True)
class EvalReport(EvalSettings, Stored):
    """An evaluation: the records, and where they come from. All figures are computed from the records.

    Attributes:
        seconds: wall-clock time from the first question to the last answer, including decoding of thoughts; for a resumable
            evaluation (`evaluation/resume.py`) the sum over batches of all processes.
        loop_seconds: the part spent on thinking and speaking.
        records: one per problem, in the order of the split.
        extractor: the scoring rule of `accuracy`. Not "strict" if the texts were rescored (`evaluation/rescore.py`);
            `Record.strict` and `Record.extracted` are then by that rule.
    """

    KIND: ClassVar[str] = "report"
    MADE_BY: ClassVar[str] = "eval"

    seconds: float
    loop_seconds: float
    records: tuple[Record, ...]
    extractor: str = "strict"
    format: int = FORMAT

    def __repr__(self) -> str:
        return f"<EvalReport {', '.join(f'{name} {value}' for name, value in self._facts().items())}>"

    def _repr_html_(self) -> str:
        facts = self._facts()
        return Table(headings=[*facts], rows=[[*facts.values()]]).html()

    def _facts(self) -> dict[str, str]:
        """The figures that one looks at first."""
        low, high = self.accuracy.interval
        return {
            "model": str(self.model.get("path") or "in memory"),
            "task": f"{self.task.get('name')} ({self.split})",
            "accuracy": f"{self.accuracy.value:.1%} ({low:.1%} to {high:.1%})",
            "latents": f"{self.mean_latents:.1f}",
            "visible tokens": f"{self.mean_visible_tokens:.1f}",
            "forward passes": f"{self.mean_passes:.1f}",
            "problems": str(self.n),
        }

    @property
    def n(self) -> int:
        """Number of problems."""
        return len(self.records)

    @property
    def accuracy(self) -> Rate:
        """Accuracy by `extractor`; by default "strict": the answer is where the task's format says. Has `.value`,
        `.interval`, ..."""
        return rate(r.strict for r in self.records)

    @property
    def single(self) -> float | None:
        """After a vote: the share of right answers among all given, which are not independent."""
        said = [one for r in self.records for one in r.said or ()]
        return mean(one.strict for one in said) if said else None

    @property
    def flexible(self) -> Rate:
        """Accuracy of the last answer-like text, whatever the format."""
        return rate(r.flexible for r in self.records)

    @property
    def finished(self) -> Rate:
        """Answers that reached eos before the limit."""
        return rate(r.finished for r in self.records)

    @property
    def answers(self) -> int:
        """Number of answers: one per problem, or all that voted."""
        return sum(1 if r.said is None else len(r.said) for r in self.records)

    @property
    def cut_off(self) -> int:
        """Answers that were cut off at the limit of tokens."""
        return sum(not one.finished for r in self.records for one in r.said or (r,))

    @property
    def mean_latents(self) -> float:
        """Latents per question."""
        return mean(r.latents for r in self.records)

    @property
    def mean_visible_tokens(self) -> float:
        """Generated tokens per question."""
        return mean(r.visible_tokens for r in self.records)

    @property
    def mean_passes(self) -> float:
        """Sequential forward passes per question."""
        return mean(r.passes for r in self.records)

    @property
    def mean_positions(self) -> float:
        """Forwarded positions per question."""
        return mean(r.positions for r in self.records)

    @property
    def ms_per_question(self) -> float:
        """Wall-clock milliseconds of the evaluation divided by n, at `batch_size`."""
        return 1000 * self.seconds / self.n

    @property
    def loop_ms_per_question(self) -> float:
        """The same without decoding thoughts and preparing prompts."""
        return 1000 * self.loop_seconds / self.n

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of all answers per second, at `batch_size`."""
        return sum(r.visible_tokens for r in self.records) / max(self.seconds, 1e-9)

    @property
    def explained(self) -> bool:
        """Whether thoughts were decoded."""
        return any(r.thoughts is not None for r in self.records)

    @property
    def by_steps(self) -> dict[int, Rate]:
        """Strict accuracy per number of true steps, fewest first."""
        counts = sorted({len(r.steps) for r in self.records})
        return {count: rate(r.strict for r in self.records if len(r.steps) == count) for count in counts}

    @property
    def by_part(self) -> dict[str, Rate]:
        """Strict accuracy of each part of a mixture of tasks; empty for other tasks."""
        parts = self.task.get("parts")
        found = {name: [r.strict for r in self.records if r.id.startswith(f"{name}/")] for name in parts or ()}
        return {name: rate(rights) for name, rights in found.items() if rights}

    @property
    def step_accuracy(self) -> StepAccuracy | None:
        """How often decoded steps are the true ones; None if nothing was decoded, or no problem has steps."""
        every = [_matches(r) for r in self.records if r.thoughts is not None]
        right = [_matches(r) for r in self.records if r.thoughts is not None and r.strict]
        if not any(every):
            return None
        return StepAccuracy(
            overall=rate(match for row in every for match in row),
            correct_only=rate(match for row in right for match in row),
            by_index=_by_index(every),
            by_index_correct_only=_by_index(right),
        )

    @property
    def mismatched_steps(self) -> Rate | None:
        """How often decoded steps are the next problem's: what words that say nothing about the problem would get."""
        told = [record for record in self.records if record.thoughts is not None]
        matches = [
            match
            for record, other in zip(told, told[1:] + told[:1], strict=True)
            for match in _matches(replace(other, thoughts=record.thoughts))
        ]
        return rate(matches) if len(told) > 1 and matches else None

    @property
    def several(self) -> Several | None:
        """Figures of several answers per question; None if each has one."""
        return several([r.answers for r in self.records]) if any(r.said for r in self.records) else None

    @property
    def hardware(self) -> str:
        """The hardware, as text."""
        gpu = self.environment.get("gpu")
        if str(self.model.get("device") or "").startswith("cuda") and isinstance(gpu, list) and gpu:
            return str(gpu[0])
        threads = self.environment.get("threads") or "?"
        return f"{self.environment.get('cpu') or 'unknown CPU'}, {threads} thread{'' if threads == 1 else 's'}"

    def summary(self) -> dict[str, Any]:
        """All figures as plain JSON values; None for those that do not exist."""
        steps = self.step_accuracy
        return {
            "n": self.n,
            "correct": self.accuracy.correct,
            "accuracy": _plain(self.accuracy),
            "flexible": _plain(self.flexible),
            "single": self.single,
            "several": None if self.several is None else self.several.plain(),
            "finished": self.finished.value,
            "answers": self.answers,
            "cut_off": self.cut_off,
            "mean_latents": self.mean_latents,
            "mean_visible_tokens": self.mean_visible_tokens,
            "mean_passes": self.mean_passes,
            "mean_positions": self.mean_positions,
            "ms_per_question": self.ms_per_question,
            "loop_ms_per_question": self.loop_ms_per_question,
            "tokens_per_second": self.tokens_per_second,
            "batch_size": self.batch_size,
            "by_steps": {str(count): _plain(r) for count, r in self.by_steps.items()},
            **({"by_part": {name: _plain(r) for name, r in self.by_part.items()}} if self.by_part else {}),
            "step_accuracy": None
            if steps is None
            else {
                "overall": _plain(steps.overall, interval=False),
                "correct_only": _plain(steps.correct_only, interval=False),
                "mismatched": None if (chance := self.mismatched_steps) is None else _plain(chance, interval=False),
                "by_index": [_plain(r, interval=False) for r in steps.by_index],
                "by_index_correct_only": [_plain(r, interval=False) for r in steps.by_index_correct_only],
            },
        }

    def check(self, path: str | Path) -> None:
        """Refuse impossible values: no records, duplicate ids, counts or times out of range."""
        check_records(self, path)


def pooled_over_seeds(reports: Sequence[EvalReport]) -> Several:
    """Pool evaluations of the same problems: each adds its answers to every question.

    Raises:
        DataError: the problems differ.
    """
    ids = [[record.id for record in report.records] for report in reports]
    if any(names != ids[0] for names in ids):
        raise DataError("answers of several reports can be put together for the same problems only; these differ")
    questions = zip(*(report.records for report in reports), strict=True)
    return several([[one for record in asked for one in record.answers] for asked in questions])


def check_records(report: EvalReport, path: str | Path) -> None:
    """Refuse a report with impossible values.

    Raises:
        RunError: no records, duplicate ids, or a count or time out of range.
    """
    if not report.records:
        raise RunError(f"{path}: the report has no records; run the evaluation again")
    seen: set[str] = set()
    for record in report.records:
        if record.id in seen:
            raise RunError(f"{path}: two records have the id {record.id!r:.60}; ids are unique: run the evaluation again")
        seen.add(record.id)
        for one in (record, *(record.said or ())):
            _check_range(path, f"record {record.id!r:.60}", one, "visible_tokens", "passes", "positions")
        _check_range(path, f"record {record.id!r:.60}", record, "latents")
    _check_range(path, "the report", report, "batch_size", "chains", "samples", least=1)
    _check_range(path, "the report", report, "seconds", "loop_seconds")


def _check_range(path: str | Path, what: str, holder: object, *names: str, least: int = 0) -> None:
    for name in names:
        value = getattr(holder, name)
        if not least <= value < 2**53:  # largest exact integer in a float; false for nan
            raise RunError(f"{path}: {name} of {what} must be a number from {least} on, got {value!r:.40}; it was changed")


def same_step(a: str, b: str) -> bool:
    """Whether two steps are equal, ignoring white space: tokenizers disagree about spaces around operators."""
    return "".join(a.split()) == "".join(b.split())


def _matches(record: Record) -> list[bool]:
    """Per thought group that stands for a step, whether its decoded step equals it."""
    true = record.steps if record.expected is None else record.expected
    pairs = zip(record.thoughts or (), true, strict=False)
    return [same_step(said, step) for said, step in pairs if step is not None]


def _by_index(rows: Iterable[Sequence[bool]]) -> tuple[Rate, ...]:
    """Rates per position in the rows."""
    listed = list(rows)
    longest = max(map(len, listed), default=0)
    return tuple(rate(row[k] for row in listed if k < len(row)) for k in range(longest))


def _plain(value: Rate, *, interval: bool = True) -> dict[str, Any]:
    """A rate as JSON values."""
    plain: dict[str, Any] = {"correct": value.correct, "n": value.n, "value": value.value if value.n else None}
    return {**plain, "interval": list(value.interval)} if interval else plain
