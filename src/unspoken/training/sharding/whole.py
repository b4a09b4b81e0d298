"""Every process has the whole model: one process, or several with DDP (`train.sharding=none`)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.hf import token_parameters
from unspoken.core.rows.batch import Batch
from unspoken.evaluation.processes import started
from unspoken.methods.base import LossReport, Method
from unspoken.runs.config import RunConfig


class Placed(Protocol):
    """A method in training, wherever its parameters are.

    Attributes:
        trained: what the optimizer of this process updates, by the parameters' names: whole parameters, or this process's
            rows of them.
        tables: names of trained embedding tables (`core/lm/hf.py:token_parameters`).
        sizes: numbers of trained parameters and of all, over all processes.
        factor: multiply a loss by this before its backward pass, so that gradients add up over processes.
        even: whether all processes must make equally many forward passes.
    """

    trained: dict[str, nn.Parameter]
    tables: frozenset[str]
    sizes: tuple[int, int]
    factor: float
    even: bool

    def loss(self, batch: Batch, counts: Mapping[str, np.ndarray]) -> LossReport:
        """The method's loss."""
        ...

    def step(self) -> contextlib.AbstractContextManager[None]:
        """Around the forward and backward passes of an optimizer step."""
        ...

    def part(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around the passes of a micro-batch; `last` of the step."""
        ...

    def clip(self, most: float) -> Tensor:
        """Clip the gradients to this norm; returns the norm before."""
        ...

    def answering(self) -> contextlib.AbstractContextManager[None]:
        """Inside, every process can use the method by itself, without gradients."""
        ...

    def saved(self) -> Method | None:
        """The method with whole parameters, to be written by the main process; None on others. All call it together."""
        ...


def fast_of(config: RunConfig) -> FastConfig:
    """A run's settings of speed, without the caches of frozen models' states where all processes must make the same passes:
    what one finds in them, another may not."""
    even = config.train.sharding == "zero3" and started() > 1
    return replace(config.fast, states=None, prefix_gb=0.0) if even else config.fast


def sizes_of(method: Method) -> tuple[int, int]:
    """The numbers of parameters that train, and of all."""
    return (
        sum(p.numel() for p in method.parameters() if p.requires_grad),
        sum(p.numel() for p in method.parameters()),
    )


def tables_of(method: Method) -> frozenset[str]:
    """Names of the parameters that are embedding tables."""
    tables = token_parameters(method)
    return frozenset(name for name, p in method.named_parameters() if id(p) in tables)


class Whole:
    """See `Placed`.

    Args:
        method: the method.
        accelerator: wraps it for several processes.
        waits: some parameters get no gradient in some steps.
    """

    even = False

    def __init__(self, method: Method, accelerator: Accelerator, waits: bool) -> None:
        self.method, self.accelerator, self.factor = method, accelerator, float(accelerator.num_processes)
        self.trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self.tables, self.sizes = tables_of(method), sizes_of(method)
        if waits:
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)  # pyright: ignore[reportAttributeAccessIssue]
        self.wrapped: Any = accelerator.prepare_model(method) if accelerator.num_processes > 1 else method

    def loss(self, batch: Batch, counts: Mapping[str, np.ndarray]) -> LossReport:
        """See `Placed`."""
        return self.wrapped(batch, counts)

    def step(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is to be done."""
        return contextlib.nullcontext()

    def part(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """DDP adds gradients up in the last micro-batch."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped)

    def clip(self, most: float) -> Tensor:
        """See `Placed`."""
        return torch.nn.utils.clip_grad_norm_(self.trained.values(), most)

    def answering(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is to be done."""
        return contextlib.nullcontext()

    def saved(self) -> Method:
        """The method itself."""
        return self.method
