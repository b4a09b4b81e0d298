"""What the task files for lm-evaluation-harness (`assets/lm-eval`) call: problems and scores of unspoken's own tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unspoken.core.text.example import Example
from unspoken.tasks import make_task


def problems(problems_of: str, **_: Any) -> Any:
    """The test split of a task as the harness wants it; what else the harness passes on (model arguments) is not used.

    Args:
        problems_of: the task's name.

    Raises:
        DataError: its data are not there.
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
    """Both rules of the task on one answer."""
    example = Example(question=doc["question"], steps=tuple(doc["steps"]), answer=doc["answer"], id=doc["id"])
    found = make_task(doc["problems_of"]).score(example, results[0])
    return {"strict": float(found.strict), "flexible": float(found.flexible)}
