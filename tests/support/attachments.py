"""What methods attach to their rows and stages, as tests make it and look at it."""

from __future__ import annotations

from typing import Any

from unspoken.core.auxiliary.assistant import ASSISTANT_PROMPT, AssistantPrompt
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.label_marks import LABEL_MARKS, Marks
from unspoken.core.rows.row import Row
from unspoken.methods.icot_si import REMOVED_TOKENS, RemovedTokens
from unspoken.methods.sim_cot import STEP_TARGETS


def assistant_row(row: Row) -> Row:
    """What the assistant reads for a row."""
    prompt = row.extra[ASSISTANT_PROMPT]
    assert isinstance(prompt, AssistantPrompt)
    return prompt.row


def marks_on(row: Row) -> Marks:
    """The marks of a row's labels."""
    found = row.extra[LABEL_MARKS]
    assert isinstance(found, Marks)
    return found


def step_targets(row: Row) -> Any:
    """Per thought group, the token ids of its step."""
    return row.value(STEP_TARGETS)


def without_tokens(count: int | None, smoothing: float | None = None, **fields: Any) -> Stage:
    """iCoT's stage at which so many tokens of the chain are gone; None = all."""
    return Stage(extra={REMOVED_TOKENS: RemovedTokens(count=count, smoothing=smoothing)}, **fields)
