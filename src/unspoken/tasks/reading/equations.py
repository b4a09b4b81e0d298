"""Turn arithmetic expressions in data sets into reasoning steps: one operation per step, in the form of GSM8K-Aug.

    ( ( 7.0 + 12.0 ) - 15.0 )      ->  <<7+12=19>>  <<19-15=4>>
    - + number0 number1 number2    ->  the same, from prefix notation with the numbers at hand

Only true steps are made: the expression must be plain arithmetic (numbers, + - * /, brackets), every intermediate result an
exact decimal with few places, and the last one the reference answer. Anything else (units, remainders, "LCM[8,9]",
equations in x, 1/3) gets no steps rather than wrong ones.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<sign>[-+*/()]))")
_PLACES = 6  # a person would not write a step with more decimal places
_OPERATORS = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True)
class _Operation:
    sign: str
    left: _Tree
    right: _Tree


_Tree = Fraction | _Operation


@functools.lru_cache(maxsize=10_000)  # a task that holds splits apart reads the same rows several times
def infix_steps(expression: str, answer: str) -> tuple[str, ...]:
    """The steps of "(7+12)-15", or () if it is not plain arithmetic that gives `answer`."""
    return _told(_infix(expression), answer)


def equality_steps(formula: str, answer: str) -> tuple[str, ...]:
    """The steps of "7+12=19; 19-15=4" as written, with each equality checked; () if one fails or none gives `answer`."""
    found: list[str] = []
    for part in formula.split(";"):
        left, sign, right = part.partition("=")
        steps = infix_steps(left, right.strip()) if sign else ()
        if not steps:
            return ()
        found += steps
    last = found[-1].removesuffix(">>").partition("=")[2]
    return tuple(found) if _number(last) == _number(answer) else ()


def prefix_steps(expression: str, numbers: Sequence[str], answer: str) -> tuple[str, ...]:
    """The steps of "- + number0 number1 number2", or () if it is not plain arithmetic that gives `answer`."""
    tokens = expression.split()
    stack: list[_Tree] = []
    for token in reversed(tokens):
        if token in _OPERATORS:
            if len(stack) < 2:
                return ()
            stack.append(_Operation(token, stack.pop(), stack.pop()))
            continue
        place = re.fullmatch(r"number(\d+)", token)
        text = token if place is None else numbers[int(place[1])] if int(place[1]) < len(numbers) else ""
        number = _number(text)
        if number is None:
            return ()
        stack.append(number)
    return _told(stack[0], answer) if len(stack) == 1 else ()


def plain_number(value: float | int | str) -> str:
    """A number from a data set as plain digits: 51.0 -> "51", "504.0" -> "504", 5.158e-07 -> "0.0000005158".

    Raises:
        ValueError: it is not a number.
    """
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"not a number: {value!r}") from None
    if not number.is_finite():
        raise ValueError(f"not a finite number: {value!r}")
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if number == 0 else text


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(Decimal(text.strip().replace(",", "")))
    except (InvalidOperation, ValueError, OverflowError):
        return None


def _infix(expression: str) -> _Tree | None:
    """Parse by precedence climbing; None if the text is not plain arithmetic."""
    tokens: list[str] = []
    at = 0
    text = expression.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match["number"] or match["sign"])
        at = match.end()
    tokens.reverse()  # so that the next token is the last of the list

    def operand() -> _Tree | None:
        if not tokens:
            return None
        token = tokens.pop()
        if token == "(":
            inside = climb(1)
            return inside if tokens and tokens.pop() == ")" else None
        return None if token in "+-*/)" else _number(token)

    def climb(level: int) -> _Tree | None:
        left = operand()
        while left is not None and tokens and _OPERATORS.get(tokens[-1], 0) >= level:
            sign = tokens.pop()
            right = climb(_OPERATORS[sign] + 1)
            if right is None:
                return None
            left = _Operation(sign, left, right)
        return left

    tree = climb(1)
    return None if tokens else tree


def _told(tree: _Tree | None, answer: str) -> tuple[str, ...]:
    if tree is None or isinstance(tree, Fraction):  # nothing to work out
        return ()
    steps: list[str] = []

    def work_out(node: _Tree) -> Fraction | None:
        if isinstance(node, Fraction):
            return node
        left, right = work_out(node.left), work_out(node.right)
        if left is None or right is None or (node.sign == "/" and right == 0):
            return None
        result = {"+": left + right, "-": left - right, "*": left * right}.get(node.sign)
        result = left / right if result is None else result
        texts = [_text(number) for number in (left, right, result)]
        if None in texts:
            return None
        steps.append(f"<<{texts[0]}{node.sign}{texts[1]}={texts[2]}>>")
        return result

    result = work_out(tree)
    return tuple(steps) if result is not None and result == _number(answer) else ()


def _text(number: Fraction) -> str | None:
    """The value as an exact decimal with few places, or None."""
    scaled = number * 10**_PLACES
    if scaled.denominator != 1:
        return None
    whole, part = divmod(abs(scaled.numerator), 10**_PLACES)
    return plain_number(f"{'-' if number < 0 else ''}{whole}.{part:0{_PLACES}d}")
