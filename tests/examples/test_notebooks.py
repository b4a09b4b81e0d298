"""Notebooks run from the first cell to the last, and print what they are stored with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import notebooks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"\d+\.\d+")
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def test_there_are_some() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["layers"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_prints_what_it_is_stored_with(file: Path, tmp_path: Path) -> None:
    """In a process of its own, since nnsight changes how modules are called."""
    pytest.importorskip("nnsight")
    copy = tmp_path / file.name
    copy.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    program = ROOT / "tests" / "support" / "notebooks.py"
    done = subprocess.run([sys.executable, program, copy], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = [[notebooks.stored(cell) for cell in notebooks.code_cells(notebooks.read(one))] for one in (copy, file)]
    assert len(cells[0]) > 5
    for new, old in zip(*cells, strict=True):
        assert NUMBER.split(new) == NUMBER.split(old)
        found = [[float(number) for number in NUMBER.findall(text)] for text in (new, old)]
        assert found[0] == pytest.approx(found[1], abs=0.11), "the last of one decimal may round otherwise elsewhere"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_is_a_whole_notebook(file: Path) -> None:
    """Run in order, nothing left out, no error among the outputs, nothing of the machine it was made on."""
    notebook = notebooks.read(file)
    code = notebooks.code_cells(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) >= (4, 5)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert all(part["output_type"] == "stream" for cell in code for part in cell["outputs"])
    assert str(ROOT) not in file.read_text(encoding="utf-8")
