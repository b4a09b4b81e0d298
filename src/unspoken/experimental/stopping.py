"""Rules that stop thinking early, for the scheduler; see core/engine/stopping.py.

`fixed` stops after a given number of latents; `convergence` when a latent hardly differs from the previous one; `head` when
a trained linear head says so (experimental/stop_head.py); `confidence` forwards the rest of the prompt after every latent
and stops if the most likely first token of the answer is likely enough. The first three are free. `confidence` costs the
positions of the rest of the prompt, in the same pass; if the row thinks on, they are dropped.

Shapes: N rows, D width, V vocabulary size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unspoken.core.config import config_class, lookup, plugins
from unspoken.core.files import write_file
from unspoken.errors import ConfigError, RunError
from unspoken.runs.model import Model

StopRule = Literal["fixed", "confidence", "convergence", "head"]

STOP_HEAD = "stop_head.safetensors"
"""The file in a run directory that holds a trained head."""


@config_class
class StopConfig:
    """A stop rule and its threshold. A row never thinks more latents than it has slots."""

    rule: str = "fixed"  # one of `StopRule`; of an installed package; or "module:Class", see `RuleDecider`
    # fixed: number of latents; confidence and head: least probability; convergence: largest relative change of a latent
    threshold: float = 1.0
    least: int = 1  # latents before the rule is applied
    every: int = 1  # stop at multiples only; of a method's thought groups, where `Model` applies it

    def __post_init__(self) -> None:
        if self.rule not in get_args(StopRule):
            lookup(dict.fromkeys(get_args(StopRule), ""), self.rule, "stop rule")
        if self.least < 1 or self.every < 1:
            raise ConfigError(f"a stop rule needs least and every of at least 1, got {self.least} and {self.every}")
        if self.rule == "fixed" and not (self.threshold >= 1 and float(self.threshold).is_integer()):
            raise ConfigError(f"stop rule 'fixed' needs a number of latents, at least 1, got {self.threshold:g}")
        if self.rule in ("confidence", "head") and not 0 <= self.threshold <= 1:
            raise ConfigError(f"stop rule {self.rule!r} needs a probability in 0..1, got {self.threshold:g}")
        if self.rule == "convergence" and not self.threshold >= 0:
            raise ConfigError(f"stop rule 'convergence' needs a relative change of 0 or more, got {self.threshold:g}")

    @classmethod
    def parse(cls, text: str) -> StopConfig:
        """From "rule:threshold", e.g. "confidence:0.9".

        Raises:
            ConfigError: no such rule, or a threshold that is not a number.
        """
        rule, _, number = text.rpartition(":")
        try:
            threshold = float(number)
        except ValueError:
            threshold = None
        known = (*get_args(StopRule), *plugins("stop rule"))
        if threshold is None or (rule not in known and ":" not in rule):
            raise ConfigError(
                f"a stop rule is written RULE:NUMBER with a rule of {', '.join(known)}, e.g. confidence:0.9; got {text!r}"
            )
        return cls(rule=rule, threshold=threshold)


class RuleDecider:
    """Applies a rule: a `StopDecider`.

    Args:
        stopping: the rule.
        head: for rule `head`: weight [D] and bias [1], in float32.

    Raises:
        ConfigError: rule `head` without one.
    """

    def __init__(self, stopping: StopConfig, head: tuple[Tensor, Tensor] | None = None) -> None:
        if stopping.rule == "head" and head is None:
            raise ConfigError("stop rule 'head' needs a trained head, which this model lacks; run `unspoken learn-stop RUN`")
        self.stopping, self.head = stopping, head
        self._other = None
        if stopping.rule not in get_args(StopRule):
            self._other = lookup({}, stopping.rule, "stop rule")(stopping.threshold)

    @property
    def tries(self) -> bool:
        """Whether it needs the logits at the end of the prompt."""
        return self.stopping.rule == "confidence"

    def asked(self, thought: int) -> bool:
        """Whether it wants to decide after this many latents."""
        return thought >= self.stopping.least and thought % self.stopping.every == 0

    def is_last(self, thought: int, latent_D: Tensor, before_D: Tensor | None) -> bool:
        """Whether the latent about to be fed, number `thought` counted from 1, is the last."""
        if self._other is not None:
            return bool(self._other(thought, latent_D, before_D))
        rule, limit = self.stopping.rule, self.stopping.threshold
        if rule == "fixed":
            return thought >= limit
        if rule == "convergence":
            return before_D is not None and bool((latent_D - before_D).norm() <= limit * latent_D.norm())
        assert self.head is not None
        weight_D, bias = self.head
        return bool(torch.sigmoid(features(latent_D) @ weight_D.to(latent_D.device) + bias.to(latent_D.device)) >= limit)

    def confident(self, logits_NV: Tensor) -> list[bool]:
        """Whether the most likely first token of the answer is likely enough."""
        return (logits_NV.float().softmax(dim=-1).amax(dim=-1) >= self.stopping.threshold).tolist()


def decider(model: Model, stop: str | StopConfig, head: tuple[Tensor, Tensor] | None = None) -> RuleDecider:
    """The decider for a stop rule of a model; it stops at the end of a thought group.

    Args:
        model: the model.
        stop: the rule, e.g. "confidence:0.9".
        head: for rule `head`; None = the one that `unspoken learn-stop` wrote into the model's run directory.

    Raises:
        ConfigError: no such rule, or rule `head` without one.
        RunError: the head's file is damaged.
    """
    rule = StopConfig.parse(stop) if isinstance(stop, str) else stop
    if rule.rule == "head" and head is None and model.path:
        head = read_head(Path(model.path) / STOP_HEAD)
        width = model.method.backbone.width
        if head is not None and len(head[0]) != width:
            raise RunError(
                f"{Path(model.path) / STOP_HEAD} reads latents of {len(head[0])} entries, this model's have {width}; run "
                "`unspoken learn-stop` again"
            )
    return RuleDecider(replace(rule, every=rule.every * model.method.at_inference.latents_per_group), head)


def save_head(path: Path, head: tuple[Tensor, Tensor]) -> None:
    """Write a trained head atomically."""
    tensors = {"weight": head[0].contiguous(), "bias": head[1].contiguous()}
    write_file(path, lambda new: save_file(tensors, str(new)))


def read_head(path: Path) -> tuple[Tensor, Tensor] | None:
    """Read what `save_head` wrote; None if there is no file.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        tensors = load_file(str(path))
        weight_D, bias = tensors["weight"], tensors["bias"]
        if weight_D.dim() != 1 or bias.numel() != 1 or not (weight_D.isfinite().all() and bias.isfinite().all()):
            raise ValueError("it must be a vector and a number, all finite")
        return weight_D.float(), bias.float().reshape(())
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); run `unspoken learn-stop` again, or delete it") from error


def features(latent: Tensor) -> Tensor:
    """The input of a stop head: the direction of latents [..., D], because lengths differ between methods."""
    return torch.nn.functional.layer_norm(latent.float(), latent.shape[-1:])
