"""Imports point one way (docs/design.md)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "unspoken"

LAYERS = (
    ("errors",),
    ("core",),
    ("methods", "tasks", "model"),
    ("training", "evaluation", "importers", "inspector"),
    ("recipes", "bench"),
    ("cli", "serve", "quickstart", "__main__", "__init__"),
)
"""What stands in a layer may import from its own layer and from those before it."""

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

MODULES = sorted(PACKAGE.rglob("*.py"))


def top(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of unspoken that a file imports, anywhere in it, those named in a table included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"unspoken(\.\w+)+:\w+", str(node.value)):
            found.add(str(node.value).split(":")[0])
    return {name for name in found if name.startswith("unspoken.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path):
    mine = top(path)
    assert mine in RANK, f"{mine} is in no layer; add it to LAYERS here and to docs/design.md"
    for name in imported(path):
        theirs = name.split(".")[1]
        assert theirs in RANK or theirs.startswith("__"), f"{path.name} imports {name}"
        assert RANK.get(theirs, 0) <= RANK[mine], (
            f"{path.name} ({mine}) imports {name}: arrows point from {theirs} to {mine}"
        )


@pytest.mark.parametrize("path", [p for p in MODULES if top(p) == "methods"], ids=lambda p: p.stem)
def test_a_method_imports_no_other_method(path: Path):
    """One that wraps others makes them by name, from the table."""
    others = {p.stem for p in MODULES if top(p) == "methods"} - {"__init__", "base"}
    if path.stem != "__init__":
        assert not {name.split(".")[2] for name in imported(path) if name.startswith("unspoken.methods.")} & others


def test_method_names_stand_in_one_place():
    """Nothing outside methods/ and recipes/ asks which method it has."""
    from unspoken.methods import METHODS

    for path in MODULES:
        if top(path) in ("core", "model", "training", "evaluation", "inspector"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            compared = {
                leaf.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Compare)
                for leaf in ast.walk(node)
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
            }
            assert not compared & set(METHODS), f"{path.name} compares with the name of a method"
