"""Shorten a chain of reasoning by rule: keep equations, and the content words of sentences without one.

SemCoT's data use a language model for this; the rule costs nothing and never invents a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKED = re.compile(r"<<(.+?)>>")
_EQUATION = re.compile(r"[(\d$£€.][\d\s.,$£€%()+\-*/×÷x^=]*=\s*[-$£€]?\s*\d[\d,]*(?:\.\d+)?%?")
_WORD = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_FILLERS = """
a an and are as at be because been being but by can could did do does each every for from had has have he her hers him
his how if in into is it its let may more must of on or our out per she should since so than that the their them then
there therefore these they this those thus to total was we were what when where which who will with would you your first
second next now also all both only just
"""
_LIGHT = frozenset(_FILLERS.split())


def condense(steps: Sequence[str], words: int = 10) -> str:
    """Shorten a chain of reasoning.

    Args:
        steps: the chain.
        words: the most words to keep from all sentences without an equation together; every step keeps at least one.
            Equations are kept whole, because dropping one would change the reasoning.

    Returns:
        The shortened steps, joined by "; "; "" for an empty chain.
    """
    kept = [step.strip() for step in steps if step.strip()]
    said = [step for step in kept if not _equations(step)]
    share = max(words // len(said), 1) if said else 0
    parts = ["; ".join(_equations(step)) or _words(step, share) for step in kept]
    return "; ".join(part for part in parts if part)


def _equations(step: str) -> list[str]:
    """The calculations of a step without spaces: annotated ones if there are any, else what looks like an equation."""
    found = _MARKED.findall(step) or [match.group() for match in _EQUATION.finditer(step)]
    return [tight for text in found if "=" in (tight := re.sub(r"\s+", "", text))]


def _words(step: str, most: int) -> str:
    """The first words of a step, without filler words unless all are fillers. Numbers come before words."""
    words = _WORD.findall(step)
    telling = [word for word in words if word.lower() not in _LIGHT] or words
    numbers = [i for i, word in enumerate(telling) if any(c.isdigit() for c in word)]
    rest = [i for i in range(len(telling)) if i not in numbers]
    return " ".join(telling[i] for i in sorted((numbers + rest)[:most]))
