"""Write a chat with the model's own template, with a place for thoughts in it.

A chat template turns messages into one text. `PLACEHOLDER` in a message marks the place of thoughts; the text is cut there
and each side is encoded separately, so the slots' positions are known exactly. For a tokenizer without a chat template,
messages are concatenated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from jinja2.exceptions import TemplateError

from unspoken.core.config import config_class
from unspoken.core.text.tokenizer import Tokenizer
from unspoken.errors import ConfigError, DataError

PLACEHOLDER = "\ue000"
"""Marks the place of thoughts in a message: a private-use character, which no tokenizer treats specially."""

_NOW = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>.*?)(?P=quote)\s*\)""")

Message = tuple[str, str]
"""(role, text)."""


@config_class
class SlotMarkers:
    """The text around and in the slots of precomputed thoughts.

    Attributes:
        begin, end: text around the slots, in the base model's prompt.
        hold: the token that fills a slot until a thought takes its place; "" = the tokenizer's eos.
    """

    begin: str = ""
    hold: str = ""
    end: str = ""


FAMILIES: tuple[SlotMarkers, ...] = (
    SlotMarkers(begin="<think>", hold="<|endoftext|>", end="</think>"),  # Qwen3
    SlotMarkers(begin="<|box_start|>", hold="<|endoftext|>", end="<|box_end|>"),  # Qwen2, Qwen2.5
    SlotMarkers(begin="<|reserved_special_token_0|>", hold="<|end_of_text|>", end="<|reserved_special_token_1|>"),  # Llama 3
)
"""SoftCoT's choice per family (xuyige/SoftCoT fa7f537): tokens that a frozen model has embeddings for and rarely reads."""


def slot_markers_for(tokenizer: Tokenizer, given: SlotMarkers | None = None) -> SlotMarkers:
    """The slot markers for a model: the given ones, else those of the first family whose tokens it has, else none."""
    if given is not None:
        return given
    known = tokenizer.tokenizer.get_vocab()
    return next((s for s in FAMILIES if {s.begin, s.hold, s.end} <= set(known)), SlotMarkers())


def placeholder_id(tokenizer: Tokenizer, slots: SlotMarkers) -> int:
    """The id of the token that fills a slot.

    Raises:
        ConfigError: the text is not a single token.
    """
    ids = tokenizer.encode(slots.hold) if slots.hold else (tokenizer.tokenizer.eos_token_id,)
    if len(ids) != 1:
        raise ConfigError(f"slots.hold must be the text of one token, got {slots.hold!r}, which is {len(ids)} tokens")
    return ids[0]


def without_thinking() -> dict[str, Any]:
    """Default variables for chat templates. Qwen3's thinking mode is off, because here the reasoning is part of the
    answer."""
    return {"enable_thinking": False}


_OURS = frozenset(
    [
        "conversation",
        "messages",
        "chat_template",
        "tokenize",
        "add_generation_prompt",
        "continue_final_message",
        "date_string",
        "tools",
        "documents",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ]
)


def check_variables(variables: Mapping[str, object], field: str) -> None:
    """Refuse chat template variables that are not valid names, or that are set elsewhere.

    Raises:
        ConfigError: names the field and the variable.
    """
    for name in variables:
        if not str(name).isidentifier() or name in _OURS:
            raise ConfigError(
                f"{field} holds variables of the chat template, e.g. enable_thinking; {name!r} is none that can be set"
            )


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether the model's tokenizer has a chat template."""
    return getattr(tokenizer.tokenizer, "chat_template", None) is not None


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    prompt: bool,
    today: date,
    variables: Mapping[str, object] | None = None,
) -> str:
    """A chat as text.

    Args:
        messages: in order.
        prompt: end with the header of the assistant's turn.
        today: the date that templates get, however they ask for it. By default some write the current date, so a model's
            states would change overnight.
        variables: further variables for the template; None = `without_thinking`.

    Raises:
        ConfigError: the template refuses the messages.
    """
    if not has_template(tokenizer):
        return "".join(text for _, text in messages)
    try:
        return tokenizer.tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in messages],
            chat_template=_on(today, tokenizer.tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=prompt,
            date_string=today.strftime("%d %b %Y"),
            **(without_thinking() if variables is None else variables),
        )
    except TemplateError as error:
        raise ConfigError(
            f"the model's chat template refuses these messages: {error}; use it as it was made to be used, e.g. without "
            "--shots"
        ) from error


def _on(today: date, template: str) -> str:
    """The template with calls of `strftime_now`, which transformers does not let us replace, replaced by the given day.

    Raises:
        ConfigError: it is called with something other than a string.
    """
    pinned = _NOW.sub(lambda call: repr(today.strftime(call["format"])), template)
    if "strftime_now(" in pinned:
        raise ConfigError(
            "the chat template computes a date in a way that cannot be pinned (strftime_now of something else than a text "
            "in quotes); give the model a tokenizer whose template writes no date"
        )
    return pinned


def encode(tokenizer: Tokenizer, text: str, *, first: bool) -> tuple[int, ...]:
    """Token ids of a piece of a chat; without a template, a `first` piece gets the tokenizer's special tokens (bos)."""
    return tokenizer.encode(text, special=first and not has_template(tokenizer))


def around(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    prompt: bool,
    today: date,
    variables: Mapping[str, object] | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of a chat before and after its one `PLACEHOLDER`.

    Raises:
        ConfigError: the template drops or repeats the placeholder.
    """
    before, *rest = render(tokenizer, messages, prompt=prompt, today=today, variables=variables).split(PLACEHOLDER)
    if len(rest) != 1:
        raise ConfigError(f"the chat template must write the place of the thoughts once, it does so {len(rest)} times")
    return encode(tokenizer, before, first=True), encode(tokenizer, rest[0], first=False)


def refuse_special(tokenizer: Tokenizer, text: str, more: Sequence[int], name: str) -> None:
    """Refuse a question that contains a special token, which could close the user's turn or pass for a slot.

    Args:
        more: further ids to refuse.

    Raises:
        DataError: names the text and the token.
    """
    if PLACEHOLDER in text:
        raise DataError(f"{name or 'text'} contains the character U+E000, which marks the place of thoughts; remove it")
    if found := set(tokenizer.encode(text)) & {*tokenizer.tokenizer.all_special_ids, *more}:
        token = tokenizer.tokenizer.convert_ids_to_tokens(min(found))
        raise DataError(f"{name or 'text'} contains {token!r}, a special token of the model; remove it")
