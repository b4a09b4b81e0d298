"""No room but `methods` knows what a paper calls its parts and settings: it asks what every method declares.

What may be asked stands in `methods/base.py`: `parts()`, `new_tokens()`, `most_latents()`, `template`, ... The names that
may not are read off the other files of that room, so the rule covers a new method from the day it is added.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from support.sources import over, tree_of
from torch import nn

from unspoken.core.config import lookup
from unspoken.methods import METHODS
from unspoken.methods.base import Wrapper
from unspoken.runs.config import RunConfig

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "unspoken"
METHOD_FILES = sorted({PACKAGE / "methods" / f"{name}.py" for name in METHODS})
OTHERS = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "methods")

ALLOWED: dict[str, set[str]] = {
    # an importer says what a released checkpoint is in a method's own settings
    "importers/account.py": {"projection_norm", "projection_width"},
    "importers/families.py": {"projection_norm", "projection_width"},
    # a recipe is a paper's settings: it takes those of another recipe and changes some
    "recipes/semcot.py": {"encoder"},
    "recipes/tiny.py": {"inner"},
    # the same word for something else: what a study lacks, a function that pauses
    "cli/study.py": {"missing"},
    "studies/report.py": {"missing"},
    "evaluation/resume.py": {"pause"},
}
"""Names that a file reads all the same, with the reason: {file: {name}}."""


def members(path: Path) -> set[str]:
    """Fields, methods and attributes of the classes in a file, private ones left out."""
    found: set[str] = set()
    for kind in (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(kind):
            if isinstance(node, ast.FunctionDef) and node in kind.body:
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node in kind.body:
                found.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
                found.add(node.attr)
    return {name for name in found if not name.startswith("_")}


def reads(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each attribute or key that a piece of code asks for by a name that stands in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield node.lineno, str(node.slice.value)
        elif isinstance(node, ast.Call):
            asks = ast.unparse(node.func).rpartition(".")[2] in ("getattr", "hasattr", "setattr", "attrgetter", "get", "pop")
            yield from ((node.lineno, str(a.value)) for a in node.args if asks and isinstance(a, ast.Constant))


@functools.cache
def papers() -> set[str]:
    """What only papers' files have: a name that another class has too is the field's, or says something else."""
    others = map(members, [*OTHERS, PACKAGE / "methods" / "base.py"])
    return set().union(*map(members, METHOD_FILES)).difference(*others)


@functools.cache
def declared() -> set[str]:
    """What may be asked of any method or of its settings, which reports hold as a mapping."""
    return members(PACKAGE / "methods" / "base.py") | set(dir(nn.Module())) | {"name", "get"}


def test_the_names_of_papers_are_found():
    """Each method has some, or the derivation is broken."""
    assert {"epochs_per_stage", "pauses", "distill_weight", "remove_per_epoch", "base_trains", "align_weight"} <= papers()
    for place in METHODS.values():
        config = lookup({"it": place}, "it", "method").Config
        fields = {field.name for field in dataclasses.fields(config)}
        assert len(fields - {"name"}) > 0


@over(OTHERS)
def test_no_other_room_reads_a_papers_name(path: Path):
    allowed = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), set())
    odd = [(line, name) for line, name in reads(tree_of(path)) if name in papers() - allowed]
    assert not odd, f"ask what every method declares (methods/base.py) instead of {odd}"


def test_only_what_is_declared_is_asked_of_a_method():
    """method.X, model.method.X, config.method.X, method.at_inference.X, method.config.X; X may be a word used elsewhere."""
    odd = []
    for path in OTHERS:
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, (ast.Name, ast.Attribute)):
                continue
            of = ast.unparse(node.value).removesuffix(".config").rpartition(".")[2]
            if of in ("method", "at_inference", "wrapped") and node.attr not in declared() | ALLOWED.get(where, set()):
                odd.append(f"{where}:{node.lineno}: {ast.unparse(node)}")
    assert not odd, "\n".join(odd)


def test_a_wrapper_has_one_setting_that_is_known_outside():
    """`inner`: the settings of the wrapped method. Whoever reads stored settings may follow it (`method_layers`)."""
    wrappers = [lookup({"it": place}, "it", "method") for place in METHODS.values()]
    wrappers = [kind for kind in wrappers if issubclass(kind, Wrapper)]
    assert len(wrappers) >= 3
    assert all("inner" in {field.name for field in dataclasses.fields(kind.Config)} for kind in wrappers)
    assert "inner" not in {field.name for field in dataclasses.fields(RunConfig)}


def test_exceptions_are_needed():
    for where, names in ALLOWED.items():
        read = {name for _, name in reads(tree_of(PACKAGE / where))}
        assert names <= read, f"{where} reads {sorted(names - read)} no longer; drop the exception"
