"""Split explicit reasoning, given as one text, into steps. Pure functions; `core/text/steps.py` finds the steps.

GSM8K-Aug has its steps marked (`<<48/2=24>>`); natural-language rationales have lines or sentences.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from unspoken.core.text.finders import finder
from unspoken.core.text.sentences import line_bounds
from unspoken.core.text.steps import PATTERNS, check_rule
from unspoken.core.text.steps import RULES as FOUND
from unspoken.errors import ConfigError, did_you_mean

RULES = (*FOUND, "annotated", "nanochat")
"""The rules of `core/text/steps.py`, and two that take every line and keep its calculator annotations: "annotated" as they
are, "nanochat" as nanochat's tool calls."""

_ANNOTATION = re.compile(r"<<.*?>>", re.DOTALL)
_CALCULATION = re.compile(r"<<(?P<expression>[^<>\n]+)=(?P<result>[^<>=\n]*)>>")


def _checked(rule: str) -> str:
    if rule in ("annotated", "nanochat"):
        return rule
    try:
        return check_rule(rule)
    except ConfigError as error:
        if rule.startswith("regex:"):
            raise
        hint = did_you_mean(str(rule), [*RULES, *PATTERNS])
        raise ConfigError(f"unknown rule {rule!r} for splitting steps; {hint}") from error


def _field(rule: str) -> str:
    try:
        return _checked(rule)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # so that the message names the field


StepRule = Annotated[str, AfterValidator(_field)]
"""A name of `RULES`, "regex:PATTERN" or "learned:PATH"."""


def split_steps(text: str, rule: str) -> tuple[str, ...]:
    """The steps of a reasoning text, in order, without empty ones.

    Args:
        text: the reasoning, without the question and the answer.
        rule: "markers" takes each `<<...>>`, marks kept, and nothing else; "lines" takes stripped lines; "sentences"
            takes sentences within lines, and does not end one at a decimal point or an abbreviation; for the others see
            `RULES`.

    Raises:
        ConfigError: no such rule.
    """
    _checked(rule)
    if rule == "nanochat":
        text = as_tool_calls(text)
    if rule in ("annotated", "nanochat"):
        return tuple(text[start:end] for start, end in line_bounds(text))
    return tuple(text[span.start : span.end] for span in finder(rule)(text))


def natural(text: str, rule: str) -> str:
    """The reasoning in the form for a rule: without annotations, unless the rule uses them."""
    return text if rule in ("markers", "annotated", "nanochat") else drop_annotations(text)


def as_tool_calls(text: str) -> str:
    """Write GSM8K's annotations as nanochat's calculator calls: the expression, then its output.

    "is 48/2 = <<48/2=24>>24" -> "is 48/2 = <|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24"
    """
    call = r"<|python_start|>\g<expression><|python_end|><|output_start|>\g<result><|output_end|>"
    return _CALCULATION.sub(call, text)


def drop_annotations(text: str) -> str:
    """Natural text without GSM8K's calculator annotations: "is 48/2 = <<48/2=24>>24" -> "is 48/2 = 24".

    Text that consists only of annotations (GSM8K-Aug) is kept.
    """
    bare = _ANNOTATION.sub("", text)
    return bare if bare.strip() else text


def bare(step: str) -> bool:
    """Whether a step consists only of calculator annotations."""
    return not _ANNOTATION.sub("", step).strip()
