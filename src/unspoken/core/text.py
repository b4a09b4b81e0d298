"""How a problem is written out as text, and its pieces as token ids. Shared by every method that trains on plain rows."""

from __future__ import annotations

from dataclasses import dataclass

from unspoken.core.backbone import Backbone
from unspoken.core.config import STRICT
from unspoken.core.example import Example
from unspoken.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Template:
    """Text around a problem's parts. The defaults are Coconut's (facebookresearch/coconut 27273cb, dataset.py)."""

    __pydantic_config__ = STRICT

    question: str = "{question}\n"
    step: str = "{step}\n"
    answer: str = "### {answer}"  # eos follows

    def __post_init__(self) -> None:
        for name in ("question", "step", "answer"):
            if "{" + name + "}" not in getattr(self, name):
                raise ConfigError(f"template field '{name}' must contain {{{name}}}, got {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Token ids of a problem: the question (with what the tokenizer puts before a prompt), steps, answer with eos."""

    question: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]


def question_ids(backbone: Backbone, template: Template, question: str) -> tuple[int, ...]:
    """The prompt's token ids."""
    return backbone.encode(template.question.replace("{question}", question), special=True)


def pieces(backbone: Backbone, template: Template, example: Example) -> Pieces:
    """Token ids of every part. Parts are encoded one by one, as in the released code, so that a step can be removed
    without changing its neighbours' tokens."""
    return Pieces(
        question=question_ids(backbone, template, example.question),
        steps=tuple(backbone.encode(template.step.replace("{step}", step)) for step in example.steps),
        answer=(
            *backbone.encode(template.answer.replace("{answer}", example.answer)),
            backbone.tokenizer.eos_token_id,
        ),
    )


def answer_start(backbone: Backbone, template: Template, answer: str) -> int:
    """How many tokens of the written answer stand before the first one that holds a character of the answer itself.

    From character offsets, so that it is right whether a tokenizer makes " 7", " " + "7" or " -" + "7" of it.
    """
    text = template.answer.replace("{answer}", answer)
    first = template.answer.index("{answer}")
    return next(i for i, end in enumerate(backbone.character_ends(text)) if end > first)
