"""Steps as arithmetic: the numbers, operators and results in a step's text, and what carrying it out gives.

An equation is arithmetic on plain numbers, "=", and a number: `<<7+5=12>>`, "so 3 x 4 = 12 pens". Values are exact
fractions: 0.1*3 is 0.3. "%" between two numbers is the remainder, as in the task `tiny`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from unspoken.tasks.scoring.answers import normalise

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "$": " "})
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBERS = re.compile(_NUMBER)
_X = re.compile(r"(?<=[\d)])\s*x\s*(?=[\d(])")
_EQUATION = re.compile(rf"(?P<left>[-+*/%().,\d\s]*?\d[\s)]*)=\s*(?P<result>-?\s*(?:{_NUMBER}))")
_PLAIN = re.compile(r"[-+*/%().\d\s]{1,200}")

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Mod: lambda a, b: a % b,
}


@dataclass(frozen=True, kw_only=True)
class Equation:
    """`left = result` as it is written.

    Attributes:
        left: the arithmetic, without thousands commas and currency.
        operands: its numbers in order, normalised (`normalise`).
        operators: the signs between operands, in order.
        result: the number after "=", normalised.
    """

    left: str
    operands: tuple[str, ...]
    operators: tuple[str, ...]
    result: str


def _plain(text: str) -> str:
    """Unify signs, and drop thousands commas."""
    text = _X.sub("*", text.translate(_SIGNS))
    return _NUMBERS.sub(lambda match: match[0].replace(",", ""), text)


def equations(step: str) -> tuple[Equation, ...]:
    """Every equation in a step's text, in order."""
    found = []
    for match in _EQUATION.finditer(_plain(step)):
        left = match["left"].strip(" \n\t,.")
        signs = re.findall(r"(?<=[\d)])\s*([-+*/%])", left)
        operands = tuple(normalise(number) for number in _NUMBERS.findall(left))
        if signs:  # "x = 3 = 3" has none
            result = normalise(match["result"].replace(" ", ""))
            found.append(Equation(left=left, operands=operands, operators=tuple(signs), result=result))
    return tuple(found)


def numbers(text: str) -> tuple[str, ...]:
    """Every number in a text, normalised."""
    return tuple(normalise(number) for number in _NUMBERS.findall(_plain(text)))


def work_out(left: str, known: Mapping[str, Fraction] | None = None) -> Fraction | None:
    """The value of plain arithmetic; None for anything else, or a division by zero.

    Args:
        left: e.g. "(7+5)*2".
        known: values that replace numbers as written; see `chain`.
    """
    if not _PLAIN.fullmatch(left):
        return None
    # Python refuses "007", and "%" and "/" bind as they should.
    source = re.sub(r"(?<![\d.])0+(?=\d)", "", left).strip()
    try:
        return _value(ast.parse(source, mode="eval").body, source, known or {})
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, source: str, known: Mapping[str, Fraction]) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        text = ast.get_source_segment(source, node) or str(node.value)
        return known.get(normalise(text), Fraction(Decimal(text)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _value(node.operand, source, known)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, source, known), _value(node.right, source, known))
    raise ValueError(f"not plain arithmetic: {source}")


def same(value: Fraction | None, text: str | None) -> bool:
    """Whether a value equals the number in a text, rounded or truncated to the text's decimal places."""
    if value is None or text is None or not re.fullmatch(rf"-?(?:{_NUMBER})", text):
        return False
    places = len(text.partition(".")[2])
    return abs(value - Fraction(Decimal(text.replace(",", "")))) < (
        Fraction(1, 10**places) if places else Fraction(1, 10**9)
    )


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The result of carrying out a problem's steps in order.

    Attributes:
        equations: number of equations.
        holds: how many of them are true as written.
        linked: how many of those after the first use a result written by an earlier one.
        value: the value of the last one, carried out from the beginning; None if there is none, or it cannot be computed.
    """

    equations: int
    holds: int
    linked: int
    value: Fraction | None


def chain(steps: Sequence[str]) -> Chain:
    """Carry out steps in order.

    A number that an earlier step wrote as its result is replaced by that step's computed value, whether or not it was
    written correctly. So one wrong result does not stop the chain, and a result that is written but not computed does not
    count.
    """
    known: dict[str, Fraction] = {}
    count = holds = linked = 0
    value: Fraction | None = None
    for equation in (equation for step in steps for equation in equations(step)):
        holds += same(work_out(equation.left), equation.result)
        linked += count > 0 and any(operand in known for operand in equation.operands)
        value = work_out(equation.left, known)
        count += 1
        if value is not None:
            known[equation.result] = value
    return Chain(equations=count, holds=holds, linked=linked, value=value)


def carried_on(steps: Sequence[str], place: int, value: Fraction) -> tuple[Fraction, ...] | None:
    """What steps give if the result of one of them is another number, and the later ones are carried out with it.

    Args:
        steps: each with one equation that uses the result of the step before exactly once.
        place: of the step whose result is replaced, from 0.
        value: what stands there instead.

    Returns:
        The results from that step on, `value` first; None where the steps are not such a chain, or cannot be carried out.
    """
    written = [found[-1] for step in steps if len(found := equations(step)) == 1]
    if len(written) < len(steps) or not 0 <= place < len(steps):
        return None
    values = [value]
    for before, step in zip(written[place:], written[place + 1 :], strict=False):
        found = work_out(step.left, {before.result: values[-1]})
        if step.operands.count(before.result) != 1 or found is None:
            return None
        values.append(found)
    return tuple(values)
