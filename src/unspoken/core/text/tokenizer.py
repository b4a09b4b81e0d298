"""What writing needs of a model: its tokens. `Backbone` gives it; so does anything else that can encode."""

from __future__ import annotations

from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text to token ids and back, as a model reads them.

    Attributes:
        tokenizer: the tokenizer of transformers itself: its vocabulary, special tokens and chat template.
        eos_ids: every token id that ends an answer.
    """

    tokenizer: Any

    @property
    def eos_ids(self) -> tuple[int, ...]: ...

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]: ...

    def character_ends(self, text: str) -> list[int]: ...
