"""Checks over every file of a kind: one test per rule, which names each file that breaks it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable
from pathlib import Path


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A module, parsed once for all rules; they read it only."""
    return ast.parse(path.read_text(encoding="utf-8"))


def over(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make a test of all files out of a check of one: three hundred tests per rule would take longer than their checks."""
    paths = list(paths)

    def all_at_once(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    broken.append(f"{path}: {error}")
            assert not broken, "\n".join(broken)
            assert paths, "no files: the rule would hold of anything"

        test.__doc__ = check.__doc__
        return test

    return all_at_once
