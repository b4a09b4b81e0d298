"""The texts of prompts with soft thoughts: one configurable set per kind of task.

The wording is ours. Placeholders: {question}, {latents} (number of slots), {thoughts} (replaced by `hint`, or by nothing
without slots), {slots} (the slots themselves), {step}, {number} (of the step, from 1), {answer}.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unspoken.core.config import build, config_class
from unspoken.core.files import read_object
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, did_you_mean


@config_class
class SoftTexts:
    """The texts around soft thoughts.

    Attributes:
        assistant: the assistant's prompt.
        opening: the beginning of its answer, right before its slots.
        base: the base model's prompt.
        hint: replaces {thoughts} in `base` if there are slots.
        step, answer: how the base model learns to write its reasoning and its answer.
    """

    assistant: str = "{question}\n"
    opening: str = ""
    base: str = "{question}\n{thoughts}"
    hint: str = "{slots}"
    step: str = "{step}\n"
    answer: str = "### {answer}"

    def __post_init__(self) -> None:
        for name, needs in (
            ("assistant", "{question}"),
            ("base", "{question}"),
            ("base", "{thoughts}"),
            ("hint", "{slots}"),
            ("step", "{step}"),
            ("answer", "{answer}"),
        ):
            if getattr(self, name).count(needs) != 1:
                raise ConfigError(f"texts.{name} must contain {needs} once, got {getattr(self, name)!r:.80}")

    def asked(self, question: str, latents: int) -> tuple[str, str]:
        """(the assistant's prompt, the beginning of its answer)."""
        asked = _fill(self.assistant, latents=str(latents), question=question)
        return asked, _fill(self.opening, latents=str(latents), question=question)

    def prompt(self, question: str, latents: int, slots: str) -> str:
        """The base model's prompt, with `slots` in the place of the thoughts."""
        hint = _fill(self.hint, latents=str(latents), slots=slots) if latents else ""
        return _fill(self.base, latents=str(latents), thoughts=hint, question=question)

    def written(self, example: Example, *, steps: bool) -> str:
        """The text that the base model learns to write: the reasoning, if `steps`, and the answer."""
        told = example.steps if steps else ()
        lines = [_fill(self.step, number=str(i), step=step) for i, step in enumerate(told, start=1)]
        return "".join(lines) + _fill(self.answer, answer=example.answer)


def _fill(text: str, **values: str) -> str:
    """Replace placeholders in a text; the last value is not searched for placeholders itself."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


_ASSISTANT = (
    "Another language model has to solve the problem below. Write {latents} words for it, the most important first: the "
    "numbers, and the operations to do with them. No sentences, no numbering.{more}\n\nProblem: {question}"
)
_MATH = SoftTexts(
    assistant=_ASSISTANT.replace("{more}", ""),
    opening="{latents} words that help to solve the problem: ",
    base="Solve the problem step by step, in as few steps as it needs. Write each step on a line of its own, as "
    '"## Step 1: ..." with its calculation, and the answer alone on the last line, behind "####".\n\n'
    "Problem: {question}{thoughts}",
    hint="\n\nA smaller model has read the problem and left hints. They may be right or wrong: use what helps, ignore the "
    "rest.\nHints: {slots}",
    step="## Step {number}: {step}\n",
    answer="#### {answer}",
)
_CHOICE = replace(
    _MATH,
    base="Answer the question by choosing one of its options. Reason step by step, each step on a line of its own, as "
    '"## Step 1: ...", and write the letter of the option alone on the last line, behind "####".\n\n{question}{thoughts}',
)
_YES_NO = replace(
    _MATH,
    assistant="Another language model has to answer the question below with yes or no. Write {latents} words for it, the "
    "most important first: the facts that decide. No sentences, no numbering.\n\nQuestion: {question}",
    opening="{latents} words that help to answer the question: ",
    base="Answer the question with yes or no: {question}{thoughts}\n\nReason step by step, each step on a line of its own, "
    'as "## Step 1: ...", and write yes or no alone on the last line, behind "####".',
    hint="\n\nHints of a smaller model, which may be right or wrong: {slots}",
)
_KEY_WORDS = " It understands the problem by itself: key words that sum it up are enough."

TEXTS: dict[str, SoftTexts] = {
    "plain": SoftTexts(),  # for models that were never taught to follow instructions
    "bare": SoftTexts(  # question, thoughts, answer: nothing tells the model what the thoughts are (SemCoT)
        assistant="Question: {question}",
        base="Question: {question}{thoughts}\n",
        answer="The answer is: {answer}",
    ),
    "math": _MATH,
    "math/qwen": replace(_MATH, assistant=_ASSISTANT.replace("{more}", _KEY_WORDS)),
    "choice": _CHOICE,
    "yes_no": _YES_NO,
}
"""Texts per kind of task, and per model family where they differ."""

BY_KIND = {"letter": "choice", "verdict": "yes_no"}
"""Kind of reference answers (`tasks/scoring/extractors.py`) -> name of `TEXTS`; the others take "math"."""


def texts_of(data: object) -> SoftTexts:
    """A name of `TEXTS`, a JSON file with fields of `SoftTexts`, or such fields -> the texts.

    Raises:
        ConfigError: unknown name (with a did-you-mean) or field, or a file that cannot be read.
    """
    if isinstance(data, str) and data.endswith(".json"):
        try:
            return build(SoftTexts, read_object(Path(data)), where=f"{data}: ")
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the texts in {data}: {error}") from None
    if isinstance(data, str):
        if data not in TEXTS:
            raise ConfigError(
                f"unknown texts {data!r}; {did_you_mean(data, TEXTS)}; or give the texts themselves, or a JSON file of them"
            )
        return TEXTS[data]
    return build(SoftTexts, data)
