"""Who says that a row has thought enough; the rules are in experimental/stopping.py, or a caller's own.

A row that stops after k latents goes on exactly as if it had been given k slots: the rest of its prompt moves up.

Shapes: N rows that are asked, D width, V words.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class StopDecider(Protocol):
    """Is asked before a latent is fed or, where it tries, after it, row by row."""

    @property
    def tries(self) -> bool:
        """Whether it must see the logits behind the rest of the prompt, which then is forwarded behind every latent."""
        ...

    def asked(self, thought: int) -> bool:
        """Whether it may stop a row after so many latents."""
        ...

    def is_last(self, thought: int, latent_D: Tensor, before_D: Tensor | None) -> bool:
        """Whether the latent that is about to be fed, number `thought` counted from 1, is the last; not for `tries`."""
        ...

    def confident(self, logits_NV: Tensor) -> list[bool]:
        """For `tries`: whether a row has thought enough, from the logits behind the rest of its prompt."""
        ...
