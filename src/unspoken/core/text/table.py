"""A table as data, for the terminal, Markdown, LaTeX and CSV. Library functions return tables; commands print them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table as Drawn
from rich.text import Text

from unspoken.core.text.markup import cell, latex

_LABEL = 8
"""Minimum width of a text column in characters; longer labels are broken."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts under headings.

    Attributes:
        headings: one per column.
        rows: one text per column each.
        notes: explanations, shown below the table.
        text_columns: how many of the first columns hold text; the others hold figures and are right-aligned.
        narrow: headings for a terminal of 80 columns, if different; None leaves the column out there.
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

    def html(self) -> str:
        """As a plain HTML table, for notebooks; the notes below."""
        heads = "".join(f"<th>{escape(name)}</th>" for name in self.headings)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in self.rows)
        notes = "".join(f"<div><small>{escape(note)}</small></div>" for note in self.notes)
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{notes}"

    def _repr_html_(self) -> str:
        return self.html()

    def latex(self) -> str:
        """As a LaTeX tabular with booktabs rules, the notes as comments above it."""
        notes = "".join(f"% {' '.join(note.split())}\n" for note in self.notes)
        columns = "l" * self.text_columns + "r" * (len(self.headings) - self.text_columns)
        lines = [" & ".join(map(latex, row)) + r" \\" for row in (self.headings, *self.rows)]
        body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
        return f"{notes}\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Drawn | Text]:
        """For a terminal, as rich's `print` asks for it. No figure is cut or broken over two lines, at any width.

        Long labels are broken. Where even that does not fit, every row is written as lines of "heading  value".
        """
        yield self._drawn() if self._least() <= options.max_width else Text("\n\n".join(self._listed()) + "\n")
        if self.notes:
            yield Text("\n".join(self.notes), style="dim italic")

    def _shown(self) -> list[tuple[int, str]]:
        """The columns on a terminal: their numbers and headings."""
        shown = self.headings if self.narrow is None else self.narrow
        return [(number, heading) for number, heading in enumerate(shown) if heading is not None]

    def _least(self) -> int:
        """The terminal width that the columns need: texts may be broken, figures may not."""
        return 1 + sum(2 + self._column(number, heading) for number, heading in self._shown())

    def _column(self, number: int, heading: str) -> int:
        """The least width of a column."""
        widest = max((cell_len(row[number]) for row in self.rows), default=0)
        if number >= self.text_columns:
            return max(cell_len(heading), widest)
        return max(max(map(cell_len, heading.split()), default=1), min(widest, _LABEL))

    def _drawn(self) -> Any:
        result = Drawn(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, heading in self._shown():
            text = number < self.text_columns
            result.add_column(
                Text(heading), justify="left" if text else "right", overflow="fold", no_wrap=not text,
                min_width=self._column(number, heading),
            )  # fmt: skip
        for row in self.rows:
            result.add_row(*(Text(row[number]) for number, _ in self._shown()))
        return result

    def _listed(self) -> Iterator[str]:
        """Every row as lines."""
        shown = self._shown()
        wide = max(cell_len(heading) for _, heading in shown)
        for row in self.rows:
            yield "\n".join(f"{heading}{' ' * (wide - cell_len(heading))}  {row[number]}" for number, heading in shown)


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Comma-separated values: figures as they are, None as nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    return text.getvalue()
