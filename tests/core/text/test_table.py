"""Tables on terminals of any width: no figure is cut, left out or broken."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from unspoken.core.text.table import Table

TABLE = Table(
    headings=("method", "accuracy % (95%)", "flexible %", "n"),
    narrow=("method", "accuracy % (95%)", "flex. %", "n"),
    rows=[
        ("quickstart/sim_cot", "100.0 (99.2–100.0)", "100.0", "12345"),
        ("one[bold]two", "42.8 (38.5–47.2)", "42.8", "7"),
        ("答えを考える", "1.0 (0.1–2.0)", "–", "500"),
    ],
    notes=["A note of [b] several words."],
)


def drawn(table: Table, width: int) -> str:
    said = io.StringIO()
    Console(file=said, width=width).print(table)
    return said.getvalue()


@pytest.mark.parametrize("width", [*range(18, 120), 200])
def test_no_figure_is_lost_at_any_width(width: int):
    words = drawn(TABLE, width).split()
    for row in TABLE.rows:
        for value in row[1:]:
            for part in value.split():
                assert part in words, f"{part} at {width} columns"
    for heading in ("accuracy", "flex.", "n"):
        assert heading in words


@pytest.mark.parametrize("width", [18, 40, 60, 80, 200])
def test_lines_fit(width: int):
    from rich.cells import cell_len

    assert max(cell_len(line) for line in drawn(TABLE, width).splitlines()) <= width


def test_labels_and_notes_are_no_markup():
    text = drawn(TABLE, 100)
    assert "one[bold]two" in text
    assert "A note of [b] several words." in text


def test_a_column_without_a_narrow_heading_is_left_out():
    table = Table(headings=("a", "b"), narrow=("a", None), rows=[("left", "right")])
    assert "right" not in drawn(table, 80)
    assert "right" not in drawn(table, 4)
