"""Runs a notebook's code without Jupyter, and puts what it prints into the file: `python tests/support/notebooks.py FILE`.

Cells share one set of names, as in Jupyter. What a cell prints, and the value of its last line, is its output, as text.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import linecache
import sys
from pathlib import Path
from typing import Any


def outputs(file: Path) -> list[str]:
    """What each code cell gives, in their order; the first error ends it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    return [_run("".join(cell["source"]), f"<cell {i}>", names) for i, cell in enumerate(code_cells(read(file)))]


def read(file: Path) -> dict[str, Any]:
    """A notebook."""
    return json.loads(file.read_text(encoding="utf-8"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Its cells of code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored(cell: dict[str, Any]) -> str:
    """The output that the file holds."""
    return "".join("".join(part["text"]) for part in cell["outputs"])


def _run(source: str, name: str, names: dict[str, Any]) -> str:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for who looks up a cell's source
    tree = ast.parse(source, name)
    last = tree.body[-1] if tree.body else None
    shown = last if isinstance(last, ast.Expr) else None
    if shown is not None:
        tree.body.pop()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(tree, name, "exec"), names)
        if shown is not None and (value := eval(compile(ast.Expression(shown.value), name, "eval"), names)) is not None:
            print(repr(value))
    return out.getvalue()


def main(file: Path) -> None:
    """Run a notebook and store its outputs."""
    notebook = read(file)
    for number, (cell, text) in enumerate(zip(code_cells(notebook), outputs(file), strict=True), start=1):
        cell["execution_count"] = number
        cell["outputs"] = (
            [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []
        )
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
