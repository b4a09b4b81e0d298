"""Written thinking in a model's answer, as reasoning models mark it: `<think> ... </think>`, then what is said."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def said(text: str) -> str:
    """What was said behind the thinking: the part of a text that is scored. Thinking that never ended says nothing."""
    before, closed, behind = text.rpartition(CLOSE)
    spoken = behind if closed else before + behind
    return spoken.partition(OPEN)[0]
