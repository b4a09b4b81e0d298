"""Escape values for HTML, SVG, Markdown and LaTeX, and read metrics rows from untrusted files.

Every value in a page, chart or Markdown table goes through `escape` or `cell`, except numbers that we computed.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML, and so SVG, cannot represent."""

_MARKDOWN = re.compile(r"[\\|\[\]]")

HUGE = 1e100
"""None of our figures is larger; beyond it a chart's arithmetic would overflow."""


def printable(value: object) -> str:
    """A value as printable text."""
    return _CONTROL.sub("\ufffd", str(value))


def escape(value: object) -> str:
    """Escape a value for HTML or SVG, in an element or a quoted attribute."""
    return html.escape(printable(value))


def cell(value: object) -> str:
    """Escape a value for Markdown: one line, no cell separator, no HTML, no link."""
    text = printable(" ".join(str(value).split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda sign: "\\" + sign[0], text)


_LATEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "—": "---",
    "±": r"$\pm$", "−": "$-$", "†": r"\dag{}",
}  # fmt: skip
"""Characters that are special in LaTeX, or may be missing in its fonts."""


def latex(value: object) -> str:
    """Escape a value for LaTeX, on one line."""
    text = printable(" ".join(str(value).split()))
    return "".join(_LATEX.get(sign, sign) for sign in re.sub(r"(?<![\w.])-(?=[\d.])", "−", text))


def number(value: object) -> float | int | None:
    """The value as a number that a chart can draw; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -HUGE < value < HUGE and math.isfinite(value) else None


def metric_rows(metrics: Iterable[object], kind: str) -> list[dict[str, Any]]:
    """The rows of a kind by step; for steps that a resumed run has logged twice, the last.

    Rows without a step are left out, and undrawable numbers become None: metrics.jsonl may come from anywhere.
    """
    latest: dict[float, dict[str, Any]] = {}
    for row in metrics:
        if isinstance(row, Mapping) and row.get("kind") == kind and (step := number(row.get("step"))) is not None:
            latest[step] = {str(name): _sound(value) for name, value in row.items()}
    return [latest[step] for step in sorted(latest)]


def part(row: Mapping[str, object], *path: str) -> Any:
    """The value at a path of names; None if there is none."""
    value: Any = row
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _sound(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _sound(inner) for name, inner in value.items()}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return value
