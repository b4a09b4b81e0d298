"""The interface that writing text as tokens needs; `Backbone` provides it."""

from __future__ import annotations

from typing import Any, Protocol


class Tokenizer(Protocol):
    """Converts text to token ids and back.

    Attributes:
        tokenizer: the transformers tokenizer, with its vocabulary, special tokens and chat template.
        eos_ids: every token id that ends an answer.
    """

    tokenizer: Any

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]: ...

    def character_ends(self, text: str) -> list[int]: ...
