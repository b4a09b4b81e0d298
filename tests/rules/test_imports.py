"""Imports point one way, between rooms, inside core, and from file to file (docs/design.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support.sources import over, tree_of

SOURCE = Path(__file__).resolve().parents[2] / "src"
PACKAGE = SOURCE / "unspoken"

ROOMS = (
    ("errors",),
    ("core",),
    ("methods", "tasks"),
    ("runs",),
    ("evaluation",),
    ("inspector",),
    ("pages",),
    ("training", "causal", "importers", "exporters", "experimental"),
    ("serving", "vllm"),
    ("recipes", "bench"),
    ("studies",),
    ("api",),
    ("cli",),
)
"""A room imports from rooms before it; rooms on one line do not import each other."""

CORE = (
    (
        *("builtin", "config", "checks", "embeddings", "extensions", "files", "precision", "provenance", "seal", "stored"),
        *("tensors", "weightless"),
    ),
    ("text",),
    ("rows",),
    ("fast",),
    ("lm",),
    ("loop",),
    ("losses", "engine"),
    ("auxiliary",),
)
"""The same inside core. `losses` is a file; the first line may be imported by all of core."""

FACES = ("__init__", "__main__")
"""The package's own face may import anything."""

HIDDEN: dict[str, set[str]] = {
    # `compare`, `rescore`, `list` and the like read files, and start without torch
    "unspoken.causal.controls": {"unspoken.causal.interventions", "unspoken.causal.known"},
    "unspoken.causal.scaling": {"unspoken.causal.beam", "unspoken.causal.ranker", "unspoken.causal.trajectories"},
    "unspoken.evaluation.evaluator": {"unspoken.core.fast.state_cache"},
    "unspoken.importers": {"unspoken.importers.released"},
    "unspoken.recipes": {"unspoken.runs.config"},
}
"""Imports of our own inside a function that are wanted, {file: {module}}: they save start-up, none turns an arrow round."""

START_UP = ("cli",)
"""Rooms whose functions import what they need when called, so that `--help` costs nothing."""

RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}
CORE_RANK = {name: rank for rank, names in enumerate(CORE) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))
every_module = over(MODULES)


def dotted(path: Path) -> str:
    """unspoken.core.text.chat for its file; a package for its __init__."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {dotted(path): path for path in MODULES}


def module_of(name: str) -> str:
    """The module that a dotted name is, or is in."""
    while name not in FILES:
        name = name.rpartition(".")[0]
    return name


def names(tree: ast.AST, tables: bool = True) -> Iterator[str]:
    """Modules of unspoken that a piece of code imports; with `tables` those that a table names ("unspoken.x:Name") too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "unspoken")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import; write the whole name"
            if (node.module or "").split(".")[0] == "unspoken":
                yield from (module_of(f"{node.module}.{alias.name}") for alias in node.names)
        elif tables and isinstance(node, ast.Constant) and re.fullmatch(r"unspoken(\.\w+)+:\w+", str(node.value)):
            yield module_of(str(node.value).split(":")[0])


def room(name: str) -> str:
    """core, for unspoken.core.text.chat."""
    return (name.split(".") + ["__init__"])[1]


def core_room(name: str) -> str:
    """text, for unspoken.core.text.chat."""
    return (name.split(".") + ["", ""])[2]


@every_module
def test_rooms_import_one_way(path: Path):
    """Imports inside functions count: hiding one does not turn the arrow round."""
    mine = dotted(path)
    if room(mine) in FACES:
        return
    assert room(mine) in RANK, f"{room(mine)} is no room; add it to ROOMS here and to docs/design.md"
    for theirs in names(tree_of(path)):
        if room(theirs) in FACES or room(theirs) == room(mine):
            continue
        assert RANK[room(theirs)] < RANK[room(mine)], f"{mine} imports {theirs}: {room(theirs)} stands above {room(mine)}"


@over(p for p in MODULES if room(dotted(p)) == "core")
def test_core_imports_one_way(path: Path):
    mine = core_room(dotted(path))
    if not mine:
        return
    assert mine in CORE_RANK, f"core/{mine} is no room of core; add it to CORE here and to docs/design.md"
    for name in names(tree_of(path)):
        theirs = core_room(name)
        if room(name) == "core" and theirs and theirs != mine:
            assert CORE_RANK[theirs] < CORE_RANK[mine] or CORE_RANK[theirs] == 0, (
                f"{dotted(path)} imports {name}: core/{theirs} stands above core/{mine}"
            )


def test_no_circle_of_files():
    """Neither while modules are loaded nor through functions; what a table names is loaded when it is asked for."""
    arrows = {name: {n for n in names(tree_of(path), tables=False) if n != name} for name, path in FILES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, "a circle of imports: " + " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(arrows[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in FILES:
        if room(name) not in FACES:
            visit(name, ())


@every_module
def test_no_import_is_hidden_in_a_function(path: Path):
    """Of unspoken's own modules; optional dependencies of others may be imported where they are needed."""
    mine = dotted(path)
    if room(mine) in (*START_UP, *FACES):
        return
    hidden = {
        name
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
        for name in names(inner)
    }
    assert hidden == HIDDEN.get(mine, set())


@over(p for p in MODULES if room(dotted(p)) == "methods")
def test_a_method_imports_no_other_method(path: Path):
    """One that wraps others makes them by name, from the table; what several papers share has a file without a card."""
    others = {f"unspoken.methods.{p.stem}" for p in MODULES if room(dotted(p)) == "methods"}
    others -= {"unspoken.methods.__init__", "unspoken.methods.base", "unspoken.methods.soft_prompt", dotted(path)}
    if path.stem != "__init__":
        assert not set(names(tree_of(path))) & others


def test_method_names_stand_in_one_place():
    """Nothing outside methods/ and recipes/ asks which method it has."""
    from unspoken.methods import METHODS

    for path in MODULES:
        if room(dotted(path)) in ("core", "runs", "training", "evaluation", "inspector", "causal", "exporters"):
            compared = {
                leaf.value
                for node in ast.walk(tree_of(path))
                if isinstance(node, ast.Compare)
                for leaf in ast.walk(node)
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
            }
            assert not compared & set(METHODS), f"{path.name} compares with the name of a method"


def test_no_function_of_the_package_has_the_name_of_a_room():
    """Python binds a room to its name in the package once anything in it is imported, in place of the function."""
    import unspoken

    assert not {name for name in unspoken.__all__ if (PACKAGE / name).is_dir()}
