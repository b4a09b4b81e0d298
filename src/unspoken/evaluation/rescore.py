"""Score the stored answers of a report again by any named rule, without model or data set.

So a paper's scoring and ours can be applied to the same outputs, and problems on which they differ can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from unspoken.core.config import method_layers
from unspoken.core.text.example import Example
from unspoken.core.text.thinking import said
from unspoken.errors import ConfigError, RunError
from unspoken.evaluation.records import EvalReport, Record
from unspoken.evaluation.several import elect
from unspoken.evaluation.statistics import Rate
from unspoken.tasks import make_task
from unspoken.tasks.base import ScoringRule
from unspoken.tasks.scoring.extractors import EXTRACTORS, extractor, judge
from unspoken.tasks.scoring.math_answers import first_answer


def task_rule(task: Mapping[str, object], where: str = "the report") -> ScoringRule:
    """The scoring rule of a report's task; its data are not read.

    Raises:
        RunError: this version of unspoken does not know the task, or its settings.
    """
    try:
        return make_task(dict(task)).score
    except ConfigError as error:
        raise RunError(f"{where} is of a task that cannot be made again: {error}; run the evaluation again") from None


def rescore(report: EvalReport, name: str, rule: ScoringRule | None = None) -> EvalReport:
    """The report with its answers scored by another rule, which accuracy, votes and everything else then follow.

    `flexible` is not changed. Scoring by "strict" restores the report as `evaluate` made it.

    Args:
        report: what an evaluation left behind.
        name: a key of `EXTRACTORS`.
        rule: the task's own rule; None = that of the report's task.

    Raises:
        ConfigError: no such extractor, its library is missing, or it does not apply to this task's answers.
        RunError: the task is unknown to this version.
    """
    extractor(name)
    own = task_rule(report.task) if rule is None else rule
    mark = mark_of(report)
    return replace(report, records=tuple(_again(r, name, own, mark) for r in report.records), extractor=name)


def mark_of(report: EvalReport) -> str | None:
    """The answer mark in the template that the report's model was trained with; None if unknown, or if there is none."""
    *_, method = [None, *method_layers(report.model.get("method"))]
    template = method.get("template") if isinstance(method, Mapping) else None
    answer = template.get("answer") if isinstance(template, Mapping) else None
    return (answer.partition("{answer}")[0].strip() or None) if isinstance(answer, str) else None


def several_marks(report: EvalReport, rule: ScoringRule | None = None) -> int:
    """Number of texts in which the first and the last answer mark are followed by different answers: the model went on
    after an answer."""
    own = task_rule(report.task) if rule is None else rule
    mark = mark_of(report)

    def differs(record: Record, text: str) -> bool:
        example = Example(question=record.question, steps=record.steps, answer=record.answer, id=record.id)
        text = said(text)
        first = first_answer(text, mark)
        return first != text and own(example, first).extracted != own(example, text).extracted

    return sum(differs(r, one.text) for r in report.records for one in r.said or (r,))


def _again(record: Record, name: str, rule: ScoringRule, mark: str | None = None) -> Record:
    """One record scored by another rule. Several answers vote on what this rule extracts."""
    example = Example(question=record.question, steps=record.steps, answer=record.answer, id=record.id)
    if record.said is None:
        verdict = judge(name, example, said(record.text), rule, mark)
        return replace(
            record,
            strict=verdict.right,
            flexible=bool(rule(example, said(record.text)).flexible),
            extracted=verdict.extracted,
        )
    every = []
    for one in record.said:
        verdict = judge(name, example, said(one.text), rule, mark)
        loose = bool(rule(example, said(one.text)).flexible)
        every.append(replace(one, strict=verdict.right, flexible=loose, extracted=verdict.extracted))
    chosen = every[elect([one.extracted for one in every])]
    # Thoughts are kept for the answer that had been chosen; those of another set of thoughts are not in the record.
    known = next((one.chain for one in record.said if one.text == record.text), None) == chosen.chain
    return replace(
        record,
        text=chosen.text,
        strict=chosen.strict,
        flexible=chosen.flexible,
        extracted=chosen.extracted,
        finished=chosen.finished,
        thoughts=record.thoughts if known else None,
        expected=record.expected if known else None,
        said=tuple(every),
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A rule compared with the report's own.

    Attributes:
        name: the rule.
        accuracy: by the rule.
        extracted: problems in whose text it found an answer.
        only_this, only_own: problems that are right by only one of the two rules, as records scored by this rule.
    """

    name: str
    accuracy: Rate
    extracted: int
    only_this: tuple[Record, ...]
    only_own: tuple[Record, ...]


def agreements(report: EvalReport, names: tuple[str, ...] | None = None) -> tuple[list[Agreement], dict[str, str]]:
    """Compare rules with the one that a report was scored by.

    Args:
        report: what an evaluation left behind.
        names: which rules; None = all that apply to these answers and whose libraries are installed.

    Returns:
        One agreement per rule, and why others were left out (name -> reason; empty if names were given).

    Raises:
        ConfigError: a named rule cannot be used.
    """
    rule = task_rule(report.task)
    found: list[Agreement] = []
    left_out: dict[str, str] = {}
    for name in names or EXTRACTORS:
        try:
            again = rescore(report, name, rule)
        except ConfigError as error:
            if names:
                raise
            left_out[name] = str(error)
            continue
        pairs = list(zip(report.records, again.records, strict=True))
        found.append(
            Agreement(
                name=name,
                accuracy=again.accuracy,
                extracted=sum(r.extracted is not None for r in again.records),
                only_this=tuple(new for old, new in pairs if new.strict and not old.strict),
                only_own=tuple(new for old, new in pairs if old.strict and not new.strict),
            )
        )
    return found, left_out
