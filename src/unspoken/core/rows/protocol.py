"""What the loop needs of a causal language model: the base model (`Backbone`) and SIM-CoT's decoder provide it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Required, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor


class BodyOutput(Protocol):
    """What a pass of a model's body gives: states after the final norm, and of every layer where they were asked for."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None


class PassOptions(TypedDict, total=False):
    """What a pass is told besides what it is fed.

    Attributes:
        positions_BT: position of each column inside its own row.
        mask: [B, S], 1 for real columns so far, including this pass; or bool [B, 1, T, S], which columns each column of
            this pass attends to; None = all, causally.
        cache: keys and values so far; extended in place.
        real: host array [B, T], which columns of this pass are real; padding may then be skipped, and its states are
            unspecified.
    """

    positions_BT: Required[Tensor]
    mask: Tensor | None
    cache: Any
    real: np.ndarray | None


class CausalLM(Protocol):
    """A causal LM as the loop calls it. Shapes: B rows, T columns of a pass, D width.

    Attributes:
        checkpointing: in training, recompute activations instead of keeping them.
        parallel: number of parallel passes for recurrent latents; None = one pass per latent.
        agree: in training, the most passes that any process makes, given this one's; None = each makes its own.
    """

    lm: Any
    checkpointing: bool
    parallel: int | None
    agree: Callable[[int], int] | None

    @property
    def device(self) -> torch.device: ...
    @property
    def context(self) -> int | None: ...
    @property
    def window(self) -> int | None: ...
    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    def embed(self, ids: Tensor) -> Tensor: ...
    def new_cache(self, columns: int = 0, branched: bool = False) -> Any: ...
    def logits(self, hidden: Tensor) -> Tensor: ...
    def step(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> Tensor: ...
    def states(self, embeds_BTD: Tensor, **how: Unpack[PassOptions]) -> tuple[Tensor, ...]: ...
