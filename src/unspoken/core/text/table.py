"""A table as data, which a terminal and Markdown show alike. Who computes figures gives one back; commands print it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unspoken.core.text.markup import cell


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts under headings.

    Attributes:
        headings: one per column.
        rows: one text per column each.
        notes: what a reader must know to read it; stand below.
        text_columns: so many columns, the first ones, hold texts; the others hold figures, which stand to the right.
        narrow: the headings on a terminal of 80 columns, where they differ; a column of None is left out there.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    text_columns: int = 1
    narrow: Sequence[str | None] | None = None

    def markdown(self) -> str:
        """As Markdown, the notes below."""
        rule = ["---" if i < self.text_columns else "---:" for i in range(len(self.headings))]
        lines = [[cell(name) for name in self.headings], rule, *([cell(value) for value in row] for row in self.rows)]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return text + ("\n" + "  \n".join(map(cell, self.notes)) + "\n" if self.notes else "")

    def __rich__(self) -> Any:
        """For a terminal, as rich's `print` asks for it: no figure is broken over two lines; long labels are."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table as Drawn

        shown = self.headings if self.narrow is None else self.narrow
        notes = escape("\n".join(self.notes))
        result = Drawn(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=notes, caption_justify="left")
        for number, heading in enumerate(shown):
            text = number < self.text_columns
            if heading is not None:
                justify = "left" if text else "right"
                result.add_column(escape(heading), justify=justify, overflow="fold", no_wrap=not text)
        for row in self.rows:
            result.add_row(*(escape(value) for value, name in zip(row, shown, strict=True) if name is not None))
        return result
