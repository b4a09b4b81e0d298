"""Types say something: few parameters take anything, options by name are the options that there are, and what the type
checker is told to overlook is named."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from unspoken.causal.campaign import Campaign, CampaignOptions
from unspoken.core.loop.generate import SampleOptions, sample
from unspoken.core.loop.sampling import SamplingOptions, SamplingParams
from unspoken.runs.model import AnswerOptions, CallOptions, Model

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

MOST = 60
"""Parameters of which it may be said that they are, or hold, `Any`.

Those that there are: what a library calls us with in a form that it does not tell (autograd functions, the harness's
requests, rich), values of JSON that were checked when they were read, and rows of metrics, whose fields differ by kind.
"""

WHERE = ("src", "tests", "benchmarks", "comparison", "examples")


def annotated(tree: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    """(line, annotation) of every parameter, those of `*args` and `**named` too."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = node.args
            more = [one for one in (given.vararg, given.kwarg) if one is not None]
            for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *more):
                if one.annotation is not None:
                    yield one.lineno, one.annotation


def says_any(annotation: ast.expr) -> bool:
    return any(
        (isinstance(part, ast.Name) and part.id == "Any") or (isinstance(part, ast.Attribute) and part.attr == "Any")
        for part in ast.walk(annotation)
    )


def test_any_is_found_wherever_it_stands():
    code = "def f(a: Any, *b: int, c: dict[str, Any], d: typing.Any = 1, e: object, **g: Any) -> Any: ..."
    assert sum(says_any(annotation) for _, annotation in annotated(ast.parse(code))) == 4


def test_few_parameters_take_anything():
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, annotation in annotated(ast.parse(path.read_text(encoding="utf-8")))
        if says_any(annotation)
    ]
    assert len(found) <= MOST, f"{len(found)} parameters are Any; give some of them a type: {', '.join(found)}"


@pytest.mark.parametrize("folder", WHERE)
def test_what_is_overlooked_is_named(folder: str):
    """`# pyright: ignore[rule]`, never all rules at once."""
    bare = re.compile(r"#\s*(type: ignore|pyright: ignore(?!\[report\w+(, report\w+)*\]))")
    odd = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if bare.search(line) and path != Path(__file__)
    ]
    assert not odd, f"name the rule that is overlooked, as in # pyright: ignore[reportArgumentType]: {odd}"


def keywords(function: Callable[..., Any]) -> set[str]:
    return {name for name, one in inspect.signature(function).parameters.items() if one.kind is one.KEYWORD_ONLY}


def test_options_by_name_are_those_that_there_are():
    """A typed dictionary repeats the names of what it stands for."""
    sampling = {f.name for f in fields(SamplingParams)}
    assert set(SamplingOptions.__annotations__) == sampling
    assert set(SampleOptions.__annotations__) == keywords(sample)
    answer = keywords(Model.answer) | sampling
    assert set(AnswerOptions.__annotations__) <= answer
    assert set(CallOptions.__annotations__) == answer - {"watch"}
    own = {f.name for f in fields(Campaign) if f.init} - {"run", "tasks", "seeds", "speaking"}
    assert set(CampaignOptions.__annotations__) == own | set(AnswerOptions.__annotations__)
