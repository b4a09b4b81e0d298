"""`unspoken list`: recipes, methods, tasks and models inside the package."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from unspoken.cli._options import app, argument
from unspoken.errors import ConfigError

KINDS = ("recipes", "methods", "tasks", "models")


@app.command("list")
def list_(
    words: Annotated[
        list[str] | None, argument("recipes, methods, tasks or models, and words that a name or its line must have.")
    ] = None,
) -> None:
    """Recipes, methods, tasks and the package's own models, a line each: `unspoken list recipes coconut`."""
    from unspoken.core.config import place, plugins
    from unspoken.methods import METHODS
    from unspoken.recipes import RECIPES
    from unspoken.tasks import TASKS

    asked = [word.lower() for word in words or ()]
    kinds = [kind for kind in KINDS if asked and asked[0] in (kind, kind[:-1])] or list(KINDS)
    parts = asked[1:] if len(kinds) == 1 else asked
    found = 0
    for kind in kinds:
        if kind == "models":
            lines = _models()
        else:
            one = kind[:-1]
            table = {"recipes": RECIPES, "methods": METHODS, "tasks": TASKS}[kind]
            lines = {name: _about(place(table, name, one), one) for name in dict.fromkeys([*table, *plugins(one)])}
        lines = {name: line for name, line in lines.items() if all(part in f"{name} {line}".lower() for part in parts)}
        found += len(lines)
        if lines:
            typer.echo(f"{kind}:")
        for name, line in lines.items():
            typer.echo(f"  {name:34} {line}")
    if not found:
        raise ConfigError(f"no {' or '.join(kinds)} with {' '.join(parts)!r}; `unspoken list` names all there are")
    if "recipes" in kinds and sys.stdout.isatty():
        typer.echo("settings of a recipe: unspoken show NAME; what it would do: unspoken train NAME --dry-run", err=True)


def _about(where: str, kind: str) -> str:
    """The first line that an object, or of a method its module, says about itself; read from the file, so loads nothing."""
    module, _, name = where.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        text = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
        tree = ast.parse(text)
    except (ImportError, OSError, ValueError, SyntaxError) as error:
        return f"cannot be read: {error}"
    kinds = (ast.ClassDef, ast.FunctionDef)
    inside = [node for node in tree.body if isinstance(node, kinds) and node.name == name]
    said = ast.get_docstring(inside[0] if inside and kind != "method" else tree)
    return (said or where).splitlines()[0]


def _models() -> dict[str, str]:
    """The models that ship inside the package, with the first line of their cards."""
    from unspoken.core.builtin import BUILTIN, builtin

    cards = {run.parent.name: run.parent / "README.md" for run in sorted(builtin(BUILTIN).glob("*/run.json"))}
    return {BUILTIN + name: card.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, card in cards.items()}
