"""Values on their way into pages: HTML and SVG, Markdown, and rows of metrics that somebody else may have written.

Every value that a page, a chart or a Markdown table shows goes through `escape` or `cell`, numbers of our own making aside.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML, and so SVG, has no way to write."""

_MARKDOWN = re.compile(r"[\\|\[\]]")

HUGE = 1e100
"""No figure of ours is larger; beyond it a chart's arithmetic would overflow."""


def printable(value: Any) -> str:
    """A value as text that can be drawn and written."""
    return _CONTROL.sub("\ufffd", str(value))


def escape(value: Any) -> str:
    """A value as text of HTML or SVG, in an element or in a quoted attribute."""
    return html.escape(printable(value))


def cell(value: Any) -> str:
    """A value as text of Markdown, in a table or outside: one line, no cell's end, no HTML, no link."""
    text = printable(" ".join(str(value).split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda sign: "\\" + sign[0], text)


_LATEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "—": "---",
    "±": r"$\pm$", "−": "$-$", "†": r"\dag{}",
}  # fmt: skip
"""Signs that LaTeX reads otherwise, or whose fonts may lack them."""


def latex(value: Any) -> str:
    """A value as LaTeX text, on one line."""
    text = printable(" ".join(str(value).split()))
    return "".join(_LATEX.get(sign, sign) for sign in re.sub(r"(?<![\w.])-(?=[\d.])", "−", text))


def number(value: Any) -> float | int | None:
    """A value that a chart can draw; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -HUGE < value < HUGE and math.isfinite(value) else None


def metric_rows(metrics: Iterable[Any], kind: str) -> list[dict[str, Any]]:
    """Rows of a kind by step, the last one of each: a resumed run has logged some twice.

    A row without a step is left out, and a number that none can draw is None: metrics.jsonl may come from anybody.
    """
    latest: dict[float, dict[str, Any]] = {}
    for row in metrics:
        if isinstance(row, Mapping) and row.get("kind") == kind and (step := number(row.get("step"))) is not None:
            latest[step] = {str(name): _sound(value) for name, value in row.items()}
    return [latest[step] for step in sorted(latest)]


def part(row: Mapping[str, Any], *path: str) -> Any:
    """What stands at a path of names; None where there is nothing."""
    value: Any = row
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _sound(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _sound(inner) for name, inner in value.items()}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return value
