"""CODI's data sets of rationales on the hub (columns question, cot, answer), for tasks with the setting `cot`."""

from __future__ import annotations

from collections.abc import Mapping

from unspoken.core.text.example import Example
from unspoken.tasks.base import Split
from unspoken.tasks.reading.rows import text_field
from unspoken.tasks.reading.segment import StepRule, split_steps
from unspoken.tasks.reading.source import DataSource, converted

_TRUTH = {"True": "yes", "False": "no"}


def cot_source(task: str, hub: str | None, hub_splits: Mapping[Split, tuple[str, ...]]) -> DataSource:
    """The source of rationales: only the hub. Without a network, the error says what else to do."""
    return DataSource(
        task=task,
        files={},
        folders=(),
        hub=hub,
        hub_splits=hub_splits,
        instead="set cot=false, or load it once with a network, or save its rows (question, cot, answer) for task 'files'",
    )


def read_cot(source: DataSource, split: Split, rule: StepRule) -> list[Example]:
    """The rows of a split with their rationale as steps. Truth values become yes or no."""

    def convert(row: Mapping[str, object], where: str) -> Mapping[str, object]:
        answer = row.get("answer")
        text = str(answer) if isinstance(answer, bool) else text_field(row, "answer", where)
        return {
            "question": text_field(row, "question", where),
            "steps": list(split_steps(text_field(row, "cot", where, may_be_empty=True), rule)),
            "answer": _TRUTH.get(text.capitalize(), text),
        }

    rows, where = source.hub_rows(split)
    return converted(rows, convert, split, where)
