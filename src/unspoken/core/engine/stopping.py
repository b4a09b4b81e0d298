"""The interface of rules that stop thinking early; rules are in experimental/stopping.py, or a caller's own.

A row that stops after k latents continues exactly as if its prompt had k slots: the rest of the prompt moves up.

Shapes: N rows, D width, V vocabulary size.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class StopDecider(Protocol):
    """Decides row by row, before a latent is fed or, if it `tries`, after."""

    @property
    def tries(self) -> bool:
        """Whether it needs the logits at the end of the prompt, which is then forwarded speculatively after every
        latent."""
        ...

    def asked(self, thought: int) -> bool:
        """Whether it wants to decide after this many latents."""
        ...

    def is_last(self, thought: int, latent_D: Tensor, before_D: Tensor | None) -> bool:
        """Whether the latent about to be fed, number `thought` counted from 1, is the last. Not called if it `tries`."""
        ...

    def confident(self, logits_NV: Tensor) -> list[bool]:
        """Called if it `tries`: per row, whether it has thought enough, from the logits at the end of its prompt."""
        ...
