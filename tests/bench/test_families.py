"""The table of docs/families.md says what is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families import PADDED, UNPADDED, page, row_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
ROWS = {
    cells[0].strip("`"): cells
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and (cells := tuple(cell.strip() for cell in line.strip("|").split("|")))
}
FEW = ("llama", "gemma2", "bloom", "qwen3_5_text", "lfm2", "falcon_h1", "mpt", "jamba", "rwkv")
"""One of each kind; the others are tried where slow tests are."""


def test_the_page_is_the_whole_table():
    assert [*ROWS] == [*PADDED, *UNPADDED]
    assert PAGE.read_text(encoding="utf-8") == page([*ROWS.values()])


@pytest.mark.parametrize(
    "family", [*FEW, *(pytest.param(f, marks=pytest.mark.slow) for f in (*PADDED, *UNPADDED) if f not in FEW)]
)
def test_a_row_says_what_is_so(family: str):
    assert row_of(family) == ROWS[family]


def test_nothing_in_the_table_is_wrong():
    """What does not work is refused; no family trains or answers otherwise than row by row."""
    assert not [family for family, cells in ROWS.items() if "no" in cells]
