"""Models without weights: shapes and types only, to learn what a training would take before anything is allocated.

Inside `weightless`, PyTorch's fake tensors stand for real ones, so that an 8B model is built in a second and makes a step
without arithmetic. Questions about values (is this finite, are these equal) are answered as a sound model would.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig

_DEPTHS: ContextVar[list[int | None] | None] = ContextVar("depths of models to build", default=None)


@contextlib.contextmanager
def weightless(depth: int | None = None) -> Iterator[None]:
    """Context manager: models that are built inside have no weights, and tensors no values.

    Args:
        depth: the number of layers of the first model that is built, the base model; None = its own.
    """
    token, applied = _DEPTHS.set([depth]), nn.Module._apply
    nn.Module._apply = _apply  # pyright: ignore[reportAttributeAccessIssue] -- PyTorch's own swaps tensors, and cannot here
    try:
        with _mode(), _Sound():
            yield
    finally:
        nn.Module._apply = applied
        _DEPTHS.reset(token)


@functools.cache
def _mode() -> FakeTensorMode:
    """One for the whole process: PyTorch 2.13 crashes where one is collected together with tensors of it."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def is_weightless() -> bool:
    """Whether models are built without weights."""
    return _DEPTHS.get() is not None


def shorten(config: PretrainedConfig) -> None:
    """Give the first model that is built inside `weightless` the depth that was asked for."""
    depths = _DEPTHS.get() or []
    if depths and (depth := depths.pop()) is not None:
        config.num_hidden_layers = depth
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:depth]


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module.to`, `float` and the like."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for p in self._parameters.values():
        if p is not None:
            p.data = fn(p.data)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


class _Sound(TorchFunctionMode):
    """Answers for tensors without values."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        answer = _ANSWERS.get(func)
        return answer(*args) if answer is not None else func(*args, **(kwargs or {}))


_ANSWERS: dict[Any, Callable[..., Any]] = {
    torch.allclose: lambda *_: True,
    torch.equal: lambda *_: True,
    Tensor.__bool__: lambda _: True,
    Tensor.__float__: lambda _: 0.0,
    Tensor.__int__: lambda _: 0,
    Tensor.item: lambda _: 0,
    Tensor.nonzero: lambda t, *_: torch.empty(0, t.ndim, dtype=torch.long, device=t.device),
}
