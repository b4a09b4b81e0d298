"""Write a problem as text and token ids. Shared by all methods that train on plain rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.core.text.tokenizer import Tokenizer
from unspoken.errors import ConfigError


@config_class
class Template:
    """Text around a problem's parts. The defaults are Coconut's (facebookresearch/coconut 27273cb, dataset.py)."""

    question: str = "{question}\n"
    step: str = "{step}\n"
    answer: str = "### {answer}"  # eos follows

    def __post_init__(self) -> None:
        for name in ("question", "step", "answer"):
            if "{" + name + "}" not in getattr(self, name):
                raise ConfigError(f"template field '{name}' must contain {{{name}}}, got {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Token ids of a problem: the question (with the tokenizer's bos), steps, answer with eos."""

    question: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """The chain and answer of a problem as a method writes them, before a curriculum removes any of it.

    Attributes:
        parts: the texts of the chain; each is encoded separately.
        steps: (start, end) of each step's own text in the concatenated parts, in characters.
        rest: token ids of what follows the chain.
    """

    parts: tuple[str, ...]
    steps: tuple[tuple[int, int], ...]
    rest: tuple[int, ...]


def question_ids(tokenizer: Tokenizer, template: Template, question: str) -> tuple[int, ...]:
    """The prompt's token ids."""
    return tokenizer.encode(template.question.replace("{question}", question), special=True)


def pieces(tokenizer: Tokenizer, template: Template, example: Example) -> Pieces:
    """Token ids of every part. Parts are encoded separately, as in the released code, so that removing a step does not
    change its neighbours' tokens."""
    return Pieces(
        question=question_ids(tokenizer, template, example.question),
        steps=tuple(tokenizer.encode(template.step.replace("{step}", step)) for step in example.steps),
        answer=answer_ids(tokenizer, template, example.answer),
    )


def answer_ids(tokenizer: Tokenizer, template: Template, answer: str) -> tuple[int, ...]:
    """Token ids of the written answer, with eos unless the template itself ends with one, as chat templates do."""
    ids = tokenizer.encode(template.answer.replace("{answer}", answer))
    return ids if ids and ids[-1] in tokenizer.eos_ids else (*ids, tokenizer.tokenizer.eos_token_id)


def written(
    template: Template,
    steps: Sequence[str],
    rest: tuple[int, ...],
    *,
    separator: str | None = None,
    before: str = "",
    after: str = "",
) -> Written:
    """Write out steps.

    Args:
        template: text around each step.
        steps: the steps.
        rest: token ids that follow the steps.
        separator: text between the steps, which are then encoded as one text; None = each is encoded separately.
        before, after: text around all steps, if they are encoded as one text.
    """
    texts = [template.step.replace("{step}", step) for step in steps]
    first, at, bounds = template.step.index("{step}"), len(before), []
    for step, text in zip(steps, texts, strict=True):
        bounds.append((at + first, at + first + len(step)))
        at += len(text) + len(separator or "")
    parts = texts if separator is None else [before + separator.join(texts) + after]
    return Written(parts=tuple(parts), steps=tuple(bounds), rest=rest)


def whole(tokenizer: Tokenizer, template: Template, example: Example) -> Written:
    """Every step of a problem, each encoded on its own, then the answer."""
    return written(template, example.steps, answer_ids(tokenizer, template, example.answer))


def answer_start(tokenizer: Tokenizer, template: Template, answer: str) -> int:
    """Number of tokens of the written answer before the first one with a character of the answer itself.

    Uses character offsets, so it is right whether a tokenizer gives " 7", " " + "7" or " -" + "7".
    """
    text = template.answer.replace("{answer}", answer)
    first = template.answer.index("{answer}")
    return next(i for i, end in enumerate(tokenizer.character_ends(text)) if end > first)
