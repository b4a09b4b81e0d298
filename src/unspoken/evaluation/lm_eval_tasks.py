"""Functions that our task files for lm-evaluation-harness (`assets/lm-eval`) call: problems and scores of unspoken's
tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unspoken.core.text.example import Example
from unspoken.tasks import make_task


def problems(problems_of: str, **_: object) -> Any:
    """A task's test split in the harness's form; further arguments from the harness are ignored.

    Args:
        problems_of: the task's name.

    Raises:
        DataError: its data are missing.
    """
    from datasets import Dataset, DatasetDict

    rows = [
        {
            "question": e.question,
            "answer": e.answer,
            "steps": list(e.steps),
            "id": e.id or str(i),
            "problems_of": problems_of,
        }
        for i, e in enumerate(make_task(problems_of).examples("test"))
    ]
    return DatasetDict({"test": Dataset.from_list(rows)})


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one answer by both rules of the task."""
    example = Example(question=doc["question"], steps=tuple(doc["steps"]), answer=doc["answer"], id=doc["id"])
    found = make_task(doc["problems_of"]).score(example, results[0])
    return {"strict": float(found.strict), "flexible": float(found.flexible)}
