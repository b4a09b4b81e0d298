"""The lengths of somebody's own questions, in tokens of the model that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from unspoken.bench.shapes import SHAPES
from unspoken.core.lm.loading import resolve
from unspoken.core.lm.pretrained import load_tokenizer
from unspoken.errors import ConfigError
from unspoken.tasks import make_task

_MOST = 1000
"""Problems that are looked at."""


def lengths_of(model: str, task: str | None, questions: Path | None) -> dict[str, int]:
    """Median lengths in tokens: `question`, and of a task also `answer` and `chain`, the written steps.

    Args:
        model: a folder, whose tokenizer counts; a shape by name has none of its own.
        task: a task's name; its test split is looked at.
        questions: a file with a question a line.

    Raises:
        ConfigError: both or neither, a shape without a tokenizer, or no question in the file.
        DataError: the task has no data.
    """
    if (task is None) == (questions is None):
        raise ConfigError("lengths come from --task or from --questions; give one of them")
    if model in SHAPES:
        raise ConfigError(f"{model} has random weights and no tokenizer to count with; give --model a folder")
    tokenizer = load_tokenizer(resolve(model), model)

    def middle(texts: Sequence[str]) -> int:
        return max(round(median(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)), 1)

    if questions is not None:
        try:
            lines = [line for line in questions.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{questions} cannot be read: {error}; give a text file with a question a line") from None
        if not lines:
            raise ConfigError(f"{questions} has no question; write one on each line")
        return {"question": middle(lines[:_MOST])}
    examples = make_task(task or "").examples("test")[:_MOST]
    found = {"question": middle([one.question for one in examples]), "answer": middle([one.answer for one in examples])}
    return found | {"chain": middle(["\n".join(one.steps) for one in examples])}
