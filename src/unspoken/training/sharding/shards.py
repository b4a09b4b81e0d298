"""Parameters in shards: each process keeps its rows of every trained parameter, with their optimizer state (FSDP2).

PyTorch's `fully_shard` shards the method: each layer of a language model is a unit, the rest of the method another. A method
makes many passes per loss, as many as its rows have latents, and processes have different rows. Two ways:

    zero2    All units are gathered when a step begins, and dropped when it ends. Passes need no communication, so each
             process makes as many as it likes. Gradients are added up after each micro-batch, unit by unit in one order,
             and each process keeps its rows. What does not train is whole on every process.
    zero3    A unit is gathered for each pass and dropped behind it, also of what does not train. For models that do not fit
             whole. All processes must make the same passes (`core/loop/loop.py`: idle ones are added).

Shards are float32. With `low`, layers are gathered in bfloat16, half the bytes, and computed under autocast as without
sharding; what is outside of layers (embeddings, head, projections) is gathered in float32.

The optimizer sees a process's rows as ordinary parameters (`trained`), not as DTensors.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from transformers import PreTrainedModel

from unspoken.core.auxiliary.sentence_encoder import SentenceEncoder
from unspoken.core.lm.hf import layer_list
from unspoken.core.lm.ways import ways_of
from unspoken.core.precision import computing
from unspoken.core.rows.batch import Batch
from unspoken.errors import BackboneError, ConfigError
from unspoken.methods.base import LossReport, Method
from unspoken.training.sharding.whole import sizes_of, tables_of


class Shards:
    """See `Placed`.

    Args:
        method: the method, on its device; it is sharded in place.
        device: where.
        low: gather layers in bfloat16.
        even: zero3.
    """

    def __init__(self, method: Method, device: torch.device, *, low: bool, even: bool) -> None:
        self.method, self.device, self.low, self.even = method, device, low, even
        self.tables, self.sizes = tables_of(method), sizes_of(method)
        self.shape = _without_weights(method)
        self.count, self.index = dist.get_world_size(), dist.get_rank()
        self.factor = float(self.count) if even else 1.0  # FSDP averages, our own sum does not
        self.mesh = init_device_mesh(device.type, (self.count,))
        hooks = {name: list((p._backward_hooks or {}).values()) for name, p in method.named_parameters()}
        if even:
            self._make_even()
        # It looks for tensors in what a method returns, and warns that nobody may write into them.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        self._shard()
        root: Any = fully_shard.state(method)  # pyright: ignore[reportFunctionMemberAccess]
        root._lazy_init()  # now, as a validation may come before the first loss, and may run layers alone
        self.units: list[FSDPModule] = [m for m in method.modules() if isinstance(m, FSDPModule)]
        self.placed = dict(method.named_parameters())  # DTensors; and what is whole on every process
        self.trained = {name: nn.Parameter(_local(p)) for name, p in self.placed.items() if p.requires_grad}
        self.whole: dict[str, nn.Parameter] = {}
        self.groups = self._units_of_names()
        self._watch(hooks)

    def _shard(self) -> None:
        """Make units of the layers, and one of the rest."""
        # FSDP takes no scalars; and sharding what does not train would save nothing where it is gathered for a whole step
        left = {p for p in self.method.parameters() if p.ndim == 0 or not (self.even or p.requires_grad)}
        kind: Any = torch.bfloat16 if self.low else None
        layers = MixedPrecisionPolicy(
            param_dtype=kind, reduce_dtype=torch.float32 if self.even else None, cast_forward_inputs=False
        )
        rest = MixedPrecisionPolicy(cast_forward_inputs=False)
        more: Any = {"mesh": self.mesh, "ignored_params": left}
        for layer in _layers(self.method):
            fully_shard(layer, mp_policy=layers, reshard_after_forward=self.even, **more)
        root = fully_shard(self.method, mp_policy=rest, reshard_after_forward=False, **more)
        if not self.even:
            root.set_reshard_after_backward(False)
            root.set_requires_gradient_sync(False)

    def _make_even(self) -> None:
        """Let all models of the method make as many passes as on the process that makes most.

        Raises:
            ConfigError: a model of a family whose rows cannot be padded, so that passes depend on the rows; or passes that
                are made elsewhere than in the loop.
        """
        modules: Any = self.method.modules()
        for module in modules:
            if isinstance(module, SentenceEncoder) or getattr(module, "parallel", None) is not None:
                raise ConfigError(
                    "train.sharding=zero3 was not made for sentence encoders and for latents made in parallel, whose passes "
                    "it does not count; set train.sharding=zero2"
                )
            if not hasattr(module, "agree"):
                continue
            if (ways := ways_of(module.lm)).training != "padded" or ways.limit is not None:
                raise ConfigError(
                    f"train.sharding=zero3 does not go with {type(module.lm).__name__}, whose passes depend on the rows' "
                    "lengths; set train.sharding=zero2"
                )
            module.agree = self._most

    def _most(self, passes: int) -> int:
        found = torch.tensor(passes, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def _units_of_names(self) -> list[list[str]]:
        """The names of trained parameters, a list per unit; what is whole on every process is the last."""
        names = {id(p): name for name, p in self.placed.items() if name in self.trained}
        found: list[list[str]] = []
        taken: set[str] = set()
        for unit in reversed(self.units):  # the innermost first: the method has the rest
            module: Any = unit
            here = [names[id(p)] for p in module.parameters() if id(p) in names]
            found.append([name for name in here if name not in taken])
            taken.update(here)
        return [group for group in found if group]

    def _watch(self, hooks: Mapping[str, list[Any]]) -> None:
        """Gather once to learn the whole parameters, and give them the hooks that their originals had."""
        for unit in self.units:
            unit.unshard()
            for name, p in self.method.named_parameters():
                if name in self.trained and name not in self.whole and not isinstance(p, DTensor):
                    self.whole[name] = p
                    for hook in hooks[name] if isinstance(self.placed[name], DTensor) else ():
                        p.register_hook(hook)
            unit.reshard()

    # a step

    def loss(self, batch: Batch, counts: Mapping[str, np.ndarray]) -> LossReport:
        """See `Placed`."""
        return self.method(batch, counts)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """zero2: everything is gathered inside."""
        if self.even:
            yield
            return
        self._gather()
        try:
            yield
        finally:
            self._drop()

    def _gather(self) -> None:
        for unit in self.units:
            unit.unshard()

    def _drop(self) -> None:
        for unit in self.units:
            unit.reshard()

    @contextlib.contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """zero2: gradients are added up behind every micro-batch, so that no process keeps those of all rows."""
        yield
        if not self.even:
            self._reduce()
        elif last:
            self._take()

    @torch.no_grad()
    def _reduce(self) -> None:
        """Add up the gradients of all processes; each keeps those of its rows."""
        present = torch.tensor([self.whole[name].grad is not None for name in self.trained], dtype=torch.int32)
        present = present.to(self.device)
        dist.all_reduce(present, dist.ReduceOp.MAX)  # one process may have rows without latents, another with
        used = {name for name, one in zip(self.trained, present.tolist(), strict=True) if one}
        for group in self.groups:
            if names := [name for name in group if name in used]:
                self._reduce_unit(names)

    def _reduce_unit(self, names: list[str]) -> None:
        """The same for the parameters of a unit, in one exchange."""
        dealt = []
        for name in names:
            p = self.whole[name]
            dealt.append(self._dealt(torch.zeros_like(p) if p.grad is None else p.grad).float())
            p.grad = None
        given = torch.cat(dealt, dim=1)
        mine = given.new_empty(given.shape[1])
        _reduce_scatter(mine, given.reshape(-1))
        for name, part in zip(names, mine.split([one.shape[1] for one in dealt]), strict=True):
            own = self.trained[name]
            part = part[: own.numel()].view_as(own)
            own.grad = part.clone() if own.grad is None else own.grad.add_(part)

    def _dealt(self, whole: Tensor) -> Tensor:
        """A whole tensor as what each process gets of it, padded to equal sizes: [processes, n].

        A scalar is on every process, and each gets it.
        """
        if whole.ndim == 0:
            return whole.expand(self.count, 1)
        rows = -(-len(whole) // self.count)
        padded = whole.new_zeros(rows * self.count, *whole.shape[1:])
        padded[: len(whole)] = whole
        return padded.view(self.count, -1)

    def _take(self) -> None:
        """zero3: FSDP has added up the gradients of all micro-batches; the optimizer gets those of this process's rows."""
        for name, own in self.trained.items():
            p = self.placed[name]
            if p.grad is None:
                own.grad = None
            elif isinstance(p.grad, DTensor):
                own.grad = p.grad.to_local()
            else:  # a scalar
                own.grad = p.grad / self.count
                dist.all_reduce(own.grad)
            p.grad = None

    @torch.no_grad()
    def clip(self, most: float) -> Tensor:
        """See `Placed`."""
        shared = [
            name for name, p in self.placed.items()
            if name in self.trained and (isinstance(p, DTensor) or self.index == 0)
        ]  # fmt: skip
        mine = [grad for name in shared if (grad := self.trained[name].grad) is not None]
        square = torch.zeros((), device=self.device)
        if mine:
            square = torch.nn.utils.get_total_norm(mine).square()
        dist.all_reduce(square)
        norm = square.sqrt()
        torch.nn.utils.clip_grads_with_norm_(self.trained.values(), most, norm)
        return norm

    # what else needs whole parameters

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Everything is gathered inside; layers are in bfloat16 if they train in it."""
        for unit in self.units if self.even else ():
            unit.set_reshard_after_forward(False, recurse=False)
        self._gather()
        try:
            with computing(self.device.type, self.low):
                yield
        finally:
            self._drop()
            for unit in self.units if self.even else ():
                unit.set_reshard_after_forward(unit is not self.method, recurse=False)

    def saved(self) -> Method | None:
        """A copy in the main process's memory; parameters are gathered one by one."""
        found: dict[str, Tensor] = {}
        for name, p in self.placed.items():
            full = p.full_tensor() if isinstance(p, DTensor) else p
            if self.index == 0:
                found[name] = full.detach().cpu()
        if self.index != 0:
            return None
        known: dict[int, Any] = {
            id(p): nn.Parameter(found[name], p.requires_grad) for name, p in self.shape.named_parameters()
        }
        return copy.deepcopy(self.shape, known | _kept_as_is(self.shape))

    # states

    def as_shard(self, name: str, rows: Tensor) -> Tensor:
        """A tensor of this process's rows of a parameter, or of its optimizer state, as part of the whole one."""
        p = self.placed[name]
        if not isinstance(p, DTensor) or rows.shape != self.trained[name].shape:
            return rows
        return DTensor.from_local(rows, self.mesh, [Shard(0)], shape=p.shape, stride=p.stride(), run_check=False)

    def rows_of(self, name: str, whole: Tensor) -> Tensor:
        """This process's rows of a whole tensor."""
        p = self.placed[name]
        if not isinstance(p, DTensor) or whole.shape != p.shape:
            return whole
        rows = -(-len(whole) // self.count)
        return whole[rows * self.index : rows * (self.index + 1)]


_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""The older name is deprecated since PyTorch 2.13."""


def _local(p: nn.Parameter) -> Tensor:
    """This process's rows of a parameter, in the same memory."""
    return p.to_local().detach() if isinstance(p, DTensor) else p.detach()


def _layers(method: nn.Module) -> list[nn.Module]:
    """The layers of all language models of a method."""
    found: dict[int, nn.Module] = {}
    for module in method.modules():
        if isinstance(module, PreTrainedModel):
            with contextlib.suppress(BackboneError, AttributeError):  # without a list of layers it is part of the rest
                found |= {id(layer): layer for layer in layer_list(module)}
    return list(found.values())


def _without_weights(method: Method) -> Method:
    """A copy of a method whose parameters take no memory."""
    known: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in method.parameters()
    }
    return copy.deepcopy(method, known | _kept_as_is(method))


def _kept_as_is(method: Method) -> dict[int, Any]:
    """What copies of a method share, for `deepcopy`: the tokenizer and the files of its encodings."""
    shared = [method.backbone.tokenizer, method.backbone.encodings]
    return {id(one): one for one in shared if one is not None}
