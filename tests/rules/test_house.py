"""The house rules that a machine can check (docs/design.md)."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
from support.sources import over, tree_of

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "unspoken"
MODULES = sorted(PACKAGE.rglob("*.py"))
METHODS = [p for p in MODULES if p.parent.name == "methods" and p.stem not in ("__init__", "base", "soft_prompt")]
CARD = ("Paper", "Idea", "Row", "Trains", "Reference code", "Relations", "Departures")

every_module = over(MODULES)


@every_module
def test_a_module_is_short_and_says_what_it_is(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    assert not text.strip() or ast.get_docstring(tree_of(path)), "a module starts with its docstring"


@every_module
def test_what_is_public_has_a_docstring(path: Path):
    """Functions, classes and methods whose name has no underscore; stubs of a Protocol are explained by its class."""
    bare = []
    tree = tree_of(path)
    stubs = {
        id(item)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
        for item in node.body
    }
    inside = {
        id(item)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for item in ast.walk(node)
        if item is not node
    }
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if node.name.startswith("_") or id(node) in stubs or id(node) in inside:
            continue
        if not ast.get_docstring(node):
            bare.append(f"{node.name} (line {node.lineno})")
    assert not bare


@over(METHODS)
def test_a_method_has_its_card(path: Path):
    card = ast.get_docstring(tree_of(path)) or ""
    places = [card.find(f"\n{heading}:") for heading in CARD]
    assert all(place > 0 for place in places), dict(zip(CARD, places, strict=True))
    assert places == sorted(places), "the card's headings stand in one order"


@over(METHODS)
def test_a_method_file_is_about_250_lines(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_folders_are_two_levels_deep_and_three_in_the_large_rooms():
    for path in MODULES:
        parts = path.relative_to(PACKAGE).parts
        assert len(parts) <= (3 if parts[0] in ("core", "tasks", "training") else 2), path


@over(sorted({p.parent for p in MODULES}))
def test_a_room_has_at_most_15_files(folder: Path):
    if folder.name not in ("cli", "methods"):
        assert len([p for p in folder.glob("*.py") if p.stem != "__init__"]) <= 15


@over(sorted({p.parent for p in MODULES}))
def test_a_room_says_what_it_is(folder: Path):
    assert len((ast.get_docstring(tree_of(folder / "__init__.py")) or "").split()) > 5


MIRRORED = sorted((PACKAGE.parents[1] / "tests").rglob("test_*.py"))
APART = ("contract", "reference", "rules", "e2e", "gpu", "examples", "docs")
"""Folders of tests that belong to no room."""


@over(MIRRORED)
def test_tests_mirror_the_source(path: Path):
    """A test lies in the folder of the room that it is about."""
    where = path.parent.relative_to(PACKAGE.parents[1] / "tests")
    assert where.parts, "a test lies in a folder"
    assert where.parts[0] in APART or (PACKAGE / where).is_dir(), where


def test_no_link_is_kept_in_the_repository():
    """A link to a shared environment, once committed, replaces the environment itself where it is merged."""
    root = PACKAGE.parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if line.startswith("120000")]
