"""What a training will take in memory and arithmetic, found out without making it (`unspoken train --plan`).

The method is built without weights (`core/weightless.py`), and makes the passes of its largest micro-batch forward and
backward with tensors that have sizes but no values; what is alive is counted. That is done with a base model of two depths,
from which the real depth follows: all figures grow linearly with it.

    held      trained masters (fp32), AdamW's two averages of them, gathered copies, what does not train
    passes    the most that is alive in forward and backward: activations, casts and gradients (also those of earlier
              micro-batches of the step)

What the allocator wastes, communication buffers and the CUDA context (about 1 GB) come on top.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from unspoken.core.config import build, dump
from unspoken.core.embeddings import text_config
from unspoken.core.fast import shared_gradients
from unspoken.core.fast.activation_checkpointing import checkpoint_activations
from unspoken.core.fast.activations import fuse_activations
from unspoken.core.fast.switch import using
from unspoken.core.lm.hf import layer_list
from unspoken.core.precision import computing
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.core.weightless import weightless
from unspoken.errors import BackboneError, ConfigError, TrainingError, UnspokenError
from unspoken.methods.base import Method
from unspoken.runs.config import RunConfig, TrainConfig
from unspoken.runs.start import build_method
from unspoken.tasks import make_task
from unspoken.training.feeding.checks import written_tokens
from unspoken.training.feeding.feed import micro_batches
from unspoken.training.feeding.schedule import Schedule
from unspoken.training.plan import count, duration

SHARDINGS = ("none", "zero2", "zero3")
USABLE = 0.92
"""Of a card's memory: the rest is CUDA's own, buffers of communication, and gaps between tensors."""

RATE = 200e12
"""Operations per second of a card that `Needs.lines` reckons with: half of what an H100 makes of dense bf16 products. Passes
of single columns make far less."""

SAMPLE = 1000
"""Examples whose rows are laid out to learn their lengths."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """What grows linearly with the depth of the base model.

    Attributes:
        trained, frozen: parameters that train, and that do not.
        layers: parameters that train inside layers.
        frozen_bytes: of those that do not train.
        unit: parameters of the largest layer.
        whole: bytes alive in the passes, gradients included, where parameters are whole.
        gathered: the same where layers are gathered in the type that they compute in.
        flops: of the passes.
    """

    trained: float
    frozen: float
    layers: float
    frozen_bytes: float
    unit: float
    whole: float
    gathered: float
    flops: float

    def at(self, other: Amounts, share: float) -> Amounts:
        """On the line from this to another."""
        mine, theirs = vars(self), vars(other)
        return Amounts(**{name: mine[name] + share * (theirs[name] - mine[name]) for name in mine})


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a training takes.

    Attributes:
        amounts: of the model and its largest micro-batch.
        processes: how many share it.
        rows, positions: of the largest micro-batch of a process, and the length of its longest row.
        passes: forward passes for it.
        tokens: positions of a step, all rows together, on average.
        steps: optimizer steps.
        step_flops: operations of a step, over all processes.
        low: layers compute in bfloat16.
    """

    amounts: Amounts
    processes: int
    rows: int
    positions: int
    passes: int
    tokens: float
    steps: int
    step_flops: float
    low: bool

    def bytes(self, sharding: str) -> dict[str, float]:
        """Bytes on each process, by kind.

        Args:
            sharding: `train.sharding`.
        """
        a, W = self.amounts, self.processes
        if sharding == "none" or W == 1:
            buckets = 4 * a.trained if W > 1 else 0.0  # DDP's copies of gradients
            return {"parameters": 4 * a.trained + a.frozen_bytes, "optimizer": 8 * a.trained, "passes": a.whole + buckets}
        layer = 2 if self.low else 4
        copies = layer * a.layers + 4 * (a.trained - a.layers)
        if sharding == "zero2":
            return {
                "parameters": 4 * a.trained / W + copies + a.frozen_bytes,
                "optimizer": 8 * a.trained / W,
                "passes": a.gathered + 4 * a.trained / W,
            }
        gathered = 2 * layer * a.unit + 4 * (a.trained - a.layers)  # a layer, the next one, and what is outside of layers
        return {
            "parameters": (4 * a.trained + a.frozen_bytes) / W + gathered,
            "optimizer": 8 * a.trained / W,
            "passes": a.gathered + 4 * a.trained / W,
        }

    def total(self, sharding: str) -> float:
        """Bytes on each process."""
        return sum(self.bytes(sharding).values())

    def lines(self, train: TrainConfig, gigabytes: int) -> list[str]:
        """As a reader wants it.

        Args:
            train: the run's settings.
            gigabytes: of each card.
        """
        a, most = self.amounts, USABLE * gigabytes * 1e9
        cards = f"{self.processes} card{'s' if self.processes > 1 else ''} of {gigabytes} GB"
        found = [
            f"{count(round(a.trained + a.frozen))} parameters, {count(round(a.trained))} of them learn; the largest "
            f"micro-batch: {self.rows} rows of up to {self.positions} positions, {self.passes} forward passes",
            f"{'GB on each card':18}{'parameters':>12}{'optimizer':>12}{'passes':>12}{'all':>12}",
        ]
        kinds = SHARDINGS if self.processes > 1 else SHARDINGS[:1]
        for kind in kinds:
            parts = self.bytes(kind)
            row = "".join(f"{value / 1e9:12.1f}" for value in (*parts.values(), sum(parts.values())))
            found.append(f"{kind:18}{row}{'' if self.total(kind) <= most else '  does not fit'}")
        seconds = self.steps * self.step_flops / (RATE * self.processes)
        found.append(
            f"{self.steps:,} steps of {self.tokens:,.0f} positions, {self.step_flops / 1e12:,.3g} TFLOP each; "
            f"in all {duration(seconds)} if each card makes {RATE / 1e12:.0f} TFLOP/s"
        )
        fits = [kind for kind in kinds if self.total(kind) <= most]
        if train.sharding in fits or (self.processes == 1 and fits):
            return [*found, f"train.sharding={train.sharding} fits on {cards}"]
        if fits:
            return [*found, f"set train.sharding={fits[0]} for {cards}"]
        return [*found, f"nothing of this fits on {cards}; what helps: " + "; ".join(self._remedies(train, most, kinds[-1]))]

    def _remedies(self, train: TrainConfig, most: float, kind: str) -> list[str]:
        """What to set where nothing fits, the cheapest first."""
        gradients = (2 if self.low else 4) * self.amounts.trained
        activations = max(self.bytes(kind)["passes"] - gradients, 1.0)
        rows = int(self.rows * (most - self.total(kind) + activations) / activations)
        found = [f"train.micro_batch_size={rows}"] if 0 < rows < self.rows else []
        found += [] if train.activation_checkpointing else ["train.activation_checkpointing=true"]
        found += [] if self.low else ["train.precision=bf16"]
        found.append("backbone.dtype=bfloat16 with backbone.lora, and method.decoder.kind=layers where there is a decoder")
        return [*found, "more cards"] if rows < self.rows else found


def needs_of(config: RunConfig, processes: int = 1, *, gpu: bool = False) -> Needs:
    """What a run takes; found out by a process of its own.

    PyTorch 2.13 crashes where some models without values are freed; that process ends without freeing anything.

    Args:
        config: the run; its data are read, of its models only configs and tokenizers.
        processes: how many share it.
        gpu: on GPUs, where passes do not share gradients.

    Raises:
        UnspokenError: see `train`.
    """
    asked = {"config": dump(config), "processes": processes, "gpu": gpu}
    command = [sys.executable, "-m", "unspoken.training.memory"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TrainingError(f"no plan could be made ({last:.200}); `--dry-run` makes real steps instead") from None
    if "error" in said:
        raise ConfigError(said["error"])
    return Needs(**{**said, "amounts": Amounts(**said["amounts"])})


def _needs(config: RunConfig, processes: int, gpu: bool) -> Needs:
    config = replace(config, fast=replace(config.fast, states=None, prefix_gb=0.0), start=None)
    task = make_task(config.task)
    examples = task.examples("train")
    sample = examples[:: max(len(examples) // SAMPLE, 1)]
    with using(config.fast):
        rows, schedule, depth, least = _rows(config, sample, len(examples))
        mine = max(-(-config.train.batch_size // processes), 1)
        longest = sorted(rows, key=lambda row: row.positions, reverse=True)
        some = (longest * (mine // len(longest) + 1))[:mine]
        parts = micro_batches(some, config.train.micro_batch_size, config.train.micro_batch_tokens)
        part, again = parts[0], len(parts) > 1
        shared, shared_gradients.ON_CPU = shared_gradients.ON_CPU, not gpu
        try:
            low, passes = _amounts(config, part, least, processes > 1, again)
            high = _amounts(config, part, least + 1, processes > 1, again)[0] if depth > least else low
        finally:
            shared_gradients.ON_CPU = shared
    amounts = low.at(high, depth - least)
    tokens = config.train.batch_size * sum(row.positions for row in rows) / len(rows)
    return Needs(
        amounts=amounts,
        processes=processes,
        rows=len(part),
        positions=part[0].positions,
        passes=passes,
        tokens=tokens,
        steps=schedule.total,
        step_flops=amounts.flops * tokens / sum(row.positions for row in part),
        low=config.low,
    )


def _rows(config: RunConfig, sample: Sequence[Example], count: int) -> tuple[list[Row], Schedule, int, int]:
    """Rows of the stages that make the longest and the most latents; the schedule; the base model's depth; and the least
    that the method can be built with."""
    with weightless():
        method = build_method(config)
        _KEPT.append(method)
        stages = method.curriculum().extremes()
        schedule = Schedule(config.train, method.curriculum(), count, lambda: written_tokens(method, sample, stages))
        found = [[method.layout(e, stage, Random(0)) for e in sample] for stage in stages]
        most = config.train.max_positions
        kept = [[row for row in rows if most is None or row.longest <= most] or rows for rows in found]
        rows = max(kept, key=lambda rows: max(row.positions for row in rows))
        depth = text_config(method.backbone.lm).num_hidden_layers
        others = [text_config(m).num_hidden_layers for m in _models(method) if m is not method.backbone.lm]
    least = max([2, *(other for other in others if other < depth)])
    return rows, schedule, depth, min(least, depth)


def _models(method: nn.Module) -> list[Any]:
    """The language models of a method."""
    inside: set[int] = set()
    found = []
    for module in method.modules():
        if isinstance(module, PreTrainedModel):
            if id(module) not in inside:
                found.append(module)
            inside.update(id(part) for part in module.modules())
    return found


def _amounts(config: RunConfig, part: Sequence[Row], depth: int, several: bool, again: bool) -> tuple[Amounts, int]:
    """What a method with a base model of some depth takes for a micro-batch, and its number of passes.

    Args:
        several: whether it is one of several processes.
        again: whether the step has more micro-batches, of which gradients are there.
    """
    with weightless(depth):
        method = build_method(config).train()
        _KEPT.append(method)
        checkpoint_activations(method, config.train.activation_checkpointing)
        if config.train.fused_activation:
            fuse_activations(method)
        layers = _layers(method)
        inside = {id(p) for layer in layers for p in layer.parameters() if p.requires_grad}
        parameters = list(method.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        sizes = {
            "trained": trained,
            "frozen": sum(p.numel() for p in parameters) - trained,
            "layers": sum(p.numel() for p in parameters if id(p) in inside),
            "frozen_bytes": sum(p.nbytes for p in parameters if not p.requires_grad),
            "unit": max((sum(p.numel() for p in layer.parameters()) for layer in layers), default=0),
        }
        whole, flops, passes = _pass(method, part, config.low, again)
        gathered = whole
        if several and (config.low or again):  # one process gathers nothing
            for layer in layers if config.low else []:
                for p in layer.parameters():
                    if p.requires_grad:
                        p.data = p.data.bfloat16()
            gathered, _, _ = _pass(method, part, config.low, again=False)  # gradients are in shards
    return Amounts(**sizes, whole=whole, gathered=gathered, flops=flops), passes


def _layers(method: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for lm in _models(method):
        try:
            found.extend(layer_list(lm))
        except (BackboneError, AttributeError):
            continue
    return found


def _pass(method: Method, part: Sequence[Row], low: bool, again: bool) -> tuple[float, float, int]:
    """The most bytes alive in forward and backward of a micro-batch; the operations; the number of passes."""
    batch = collate(list(part))
    with _Alive() as alive:
        for p in method.parameters():
            p.grad = torch.zeros_like(p) if again and p.requires_grad else None
        with computing("cpu", low):
            report = method(batch, method.counts(batch))
        report.total.backward()
    _KEPT.append((report, alive, [p.grad for p in method.parameters()]))
    method.zero_grad(set_to_none=True)
    passes = report.trace.cost.passes
    return float(alive.most), float(alive.flops), passes


_KEPT: list[Any] = []
"""What would crash where it is freed."""


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors that were made inside and are alive.

    Attributes:
        most: at the worst moment.
        flops: floating-point operations of matrix products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.flops = 0
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # an address, which is used again once it is free
        if key in self._known:
            self.now -= self._known[key][1]
        self._known[key] = StorageWeakRef(storage), storage.nbytes()
        self.now += storage.nbytes()
        if self.now > self.most:  # what is gone is only looked for where it matters
            self._known = {key: one for key, one in self._known.items() if not one[0].expired()}
            self.now = sum(size for _, size in self._known.values())
            self.most = max(self.most, self.now)


def main() -> None:
    """Answer `needs_of`."""
    gc.disable()
    asked = json.loads(sys.stdin.read())
    try:
        found = asdict(_needs(build(RunConfig, asked["config"]), asked["processes"], asked["gpu"]))
    except UnspokenError as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
