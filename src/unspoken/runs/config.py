"""`RunConfig`: everything that determines a run. Recipes return one; `run.json` stores it."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from unspoken.core.checks import MOST_THREADS, shown
from unspoken.core.config import config_class
from unspoken.core.fast.switch import FastConfig
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import ThinkingConfig
from unspoken.errors import ConfigError
from unspoken.methods import method_config
from unspoken.tasks import task_config

_MOST = {"seed": (1 << 32) - 1, "threads": MOST_THREADS, "rank_timeout": 1_000_000, "epochs": 1_000_000_000}
"""Above these, numpy's global seed, the starting of threads, or arithmetic of times and steps fails."""


@config_class
class TrainConfig:
    """How to train. Lengths are in epochs or optimizer steps, according to their names."""

    epochs: float | None = None  # exactly one of epochs and steps
    steps: int | None = None  # optimizer steps
    batch_size: int = 32  # rows per optimizer step, over all processes
    micro_batch_size: int | None = None  # rows per forward pass on one process; None = all of them
    micro_batch_tokens: int | None = None  # positions per forward pass, padding included; groups rows of similar length
    lr: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    max_positions: int | None = None  # leave out training examples whose row or branch is longer
    warmup_steps: int = 0  # linear, from 0
    warmup_share: float = 0.0  # the same as a share of all steps; the longer of the two counts
    restart_warmup_steps: int = 0  # after an optimizer restart at a stage's beginning
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    decay_start: float = 0.0  # share of training after which the schedule begins to fall
    final_lr: float = 0.0  # where it ends, as a share of lr
    clip: float | None = 1.0  # largest gradient norm; None = no clipping
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, fp32 weights and optimizer; so with a bf16 base
    sharding: Literal["none", "zero2", "zero3"] = "none"  # where several processes keep the model: docs/scale.md
    rank_timeout: float = 30.0  # minutes that a process waits for the others before it ends, and says which did not come
    activation_checkpointing: bool = False  # recompute activations in the backward pass: less memory, about a third slower
    fused_activation: bool = True  # GPT-2's activation, on GPUs norms too, as one operator: same up to rounding
    seed: int = 0
    length_window: int = 50  # batches whose rows are sorted by length together; 1 = keep the random order
    encodings: str | None = "~/.cache/unspoken/encodings"  # folder for token ids of a large corpus; None = in memory
    validate_every: int | None = None  # optimizer steps; None = once an epoch
    validate_limit: int = 200  # validation examples; 0 = do not validate
    select_split: str = "validation"  # never "test": a score used to choose is no longer a test score
    select: Literal["accuracy", "loss", "last"] = "accuracy"  # which checkpoint of the last stage becomes the model
    stability_limit: int = 0  # validation problems whose latents are watched (docs/guides/inspector.md); 0 = none
    stability_every: int | None = None  # optimizer steps between two looks at them; None = at each validation
    save_every: int = 500  # optimizer steps between resumable states
    async_save: bool = False  # write states while training goes on; the main process holds a copy in memory meanwhile
    keep_every: Literal["stages", "epochs"] | int | None = None  # models kept in RUN/models: each stage's, epoch's, N steps'
    log_every: int = 10  # optimizer steps between metrics rows
    threads: int | None = None  # CPU threads; None = torch's choice
    tracker: str | tuple[str, ...] | None = None  # one or several of accelerate's: "tensorboard", "wandb", "trackio", ...
    tracker_project: str = "unspoken"  # and how the run is filed there
    tracker_run: str | None = None  # None = the run directory's name
    tracker_group: str | None = None
    tracker_tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError("training needs exactly one of 'epochs' and 'steps'")
        for name in ("lr", "weight_decay", "clip", "epochs", "final_lr", "decay_start", "warmup_share", "rank_timeout"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"{name} must be a finite number, got {value}")
        for name in (
            "epochs",
            "steps",
            "batch_size",
            "micro_batch_size",
            "micro_batch_tokens",
            "lr",
            "log_every",
            "save_every",
            "validate_every",
            "stability_every",
            "clip",
            "length_window",
            "threads",
            "max_positions",
            "keep_every",
            "rank_timeout",
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str) and value <= 0:
                raise ConfigError(f"{name} must be positive, got {value}")
        for name in (
            "seed",
            "validate_limit",
            "stability_limit",
            "warmup_steps",
            "restart_warmup_steps",
            "weight_decay",
            "final_lr",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name, most in _MOST.items():
            if (value := getattr(self, name)) is not None and value > most:
                raise ConfigError(f"{name} must be at most {most}, got {shown(value)}")
        if self.async_save and self.sharding != "none":
            raise ConfigError(
                "async_save copies whole states, and with sharding no process has one; set async_save=false: in shards all "
                "processes write at once"
            )
        if self.encodings is not None and not self.encodings.strip():
            raise ConfigError("encodings is empty; give a folder, or null to keep token ids in memory")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be in [0, 1), got {list(self.betas)}")
        if self.select_split != "validation":
            raise ConfigError(
                f"select_split must be 'validation', got {self.select_split!r}; choosing a checkpoint on another split, "
                "the test split above all, makes its score meaningless"
            )
        for name in ("decay_start", "warmup_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@config_class
class RunConfig:
    """One run: base model, method, task, training, how it thinks and speaks, and settings of speed."""

    backbone: BackboneConfig
    method: Annotated[Any, BeforeValidator(method_config)]
    task: Annotated[Any, BeforeValidator(task_config)]
    train: TrainConfig
    thinking: ThinkingConfig = field(default_factory=ThinkingConfig)
    speaking: SamplingParams = field(default_factory=SamplingParams)
    fast: FastConfig = field(default_factory=FastConfig)
    start: str | None = None  # a run of the same (inner) method whose parts (projection, ...) this run starts with

    @property
    def low(self) -> bool:
        """Whether to compute in bf16; trained parameters are kept in fp32 in any case (`core/precision.py`)."""
        return self.train.precision == "bf16" or self.backbone.dtype == "bfloat16"


def learning_rate(config: TrainConfig, step: int, total: int, restarted: int | None = None) -> float:
    """The learning rate of an optimizer step.

    Args:
        config: warm-up and schedule.
        step: the step, from 0.
        total: steps of the whole run.
        restarted: the step of the optimizer's last reset, if there was one.
    """
    warmup = max(config.warmup_steps, math.ceil(config.warmup_share * total))
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if restarted is not None and config.restart_warmup_steps:
        warm = min(warm, (step - restarted + 1) / config.restart_warmup_steps)
    begin = max(config.decay_start * total, warmup)
    done = min(max((step - begin) / max(total - begin, 1), 0.0), 1.0)
    if config.schedule == "linear":
        share = 1 - done
    elif config.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * done))
    else:
        share = 1.0
    return config.lr * warm * (config.final_lr + (1 - config.final_lr) * share)


_FREE = {
    f"train.{name}"
    for name in (
        "validate_every", "validate_limit", "select", "stability_limit", "stability_every", "save_every", "keep_every",
        "log_every", "threads", "tracker", "tracker_project", "tracker_run", "tracker_group", "tracker_tags",
        "encodings", "micro_batch_size", "micro_batch_tokens", "activation_checkpointing",
        "sharding", "rank_timeout", "async_save",
    )
}  # fmt: skip
"""Fields that do not affect what is trained, only logging, saving and memory. They may be changed on resuming.

`micro_batch_*` and `activation_checkpointing` are included because they are the remedy for too little memory: they change
weights only by rounding, or, with dropout, by what is dropped."""


def changed_fields(old: object, new: object) -> tuple[list[str], list[str]]:
    """Names of the fields in which two dumped configs differ: those that must not change on resuming, and the others."""
    found = _differences(old, new)
    free = [name for name in found if name in _FREE or name.startswith(("speaking.", "fast.", "task.stream_folder"))]
    return [name for name in found if name not in free], free


def differences(old: object, new: object) -> str:
    """Describe differences that are not allowed on resuming: another method, or the first few fields; "" if none."""
    found, _ = changed_fields(old, new)
    if "method.name" in found:
        return f"method {field_of(old, 'method.name')!r}, not {field_of(new, 'method.name')!r}"
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def changes_choice(name: str) -> bool:
    """Whether a field affects validation scores, so that scores before and after a change cannot be compared."""
    return name in ("train.select", "train.validate_limit") or name.startswith("speaking.")


def field_of(data: object, name: str) -> object:
    """The value of a dotted name in a dumped config."""
    for part in name.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _differences(a: object, b: object, path: str = "") -> list[str]:
    """Dotted names of the fields in which two dumped configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in sorted({*a, *b}) for d in _differences(a.get(k), b.get(k), f"{path}.{k}" if path else k)]
    return [] if a == b else [path]
