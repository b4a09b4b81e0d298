"""The table of docs/families.md says what is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families import HEAD, PADDED, UNPADDED, page, row_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
ROWS = {
    cells[0].strip("`"): cells
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and (cells := tuple(cell.strip() for cell in line.strip("|").split("|")))
}
FEW = ("llama", "gemma2", "bloom", "qwen3_5_text", "lfm2", "falcon_h1", "mpt", "jamba", "rwkv")
"""One of each kind: every cell of its row."""
SOME = ("family", "rows are fed", "`coconut`", "batch = alone", "export = run")
"""What the others are asked: a method that thinks, in training and in a batch, and what transformers makes of it."""


def test_the_page_is_the_whole_table():
    assert [*ROWS] == [*PADDED, *UNPADDED]
    assert PAGE.read_text(encoding="utf-8") == page([*ROWS.values()])


@pytest.mark.parametrize("family", [*PADDED, *UNPADDED])
def test_a_row_says_what_is_so(family: str):
    columns = HEAD if family in FEW else SOME
    assert row_of(family, columns) == tuple(cell for name, cell in zip(HEAD, ROWS[family], strict=True) if name in columns)


def test_nothing_in_the_table_is_wrong():
    """What does not work is refused; no family trains or answers otherwise than row by row."""
    assert not [family for family, cells in ROWS.items() if "no" in cells]
