"""What a run starts from: the method of its config, on its base model, and what another run has trained of it."""

from __future__ import annotations

from typing import Any

from unspoken.core.lm.loading import load_backbone
from unspoken.core.lm.markers import BOT, EOT, LATENT
from unspoken.core.loop.sources import parallel
from unspoken.core.precision import train_in_float32
from unspoken.errors import ConfigError, RunError
from unspoken.methods import make_method
from unspoken.methods.base import Method
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir, own_state


def build_method(config: RunConfig) -> Method:
    """The method of a config on its base model, LoRA included, as training starts from it.

    Raises:
        ConfigError: LoRA on a base model that the method is told not to train; parallel passes over latents that are known
            before.
        RunError: `start` is of another method.
    """
    trains = getattr(config.method, "trains", "both")
    if config.backbone.lora is not None and trains in ("decoder", "pauses"):
        raise ConfigError(f"backbone.lora trains the base model, method.trains={trains} does not; set one of them otherwise")
    backbone = load_backbone(config.backbone)
    method = make_method(config.method, backbone)
    parallel(method.source(), config.thinking.parallel)  # refuses thoughts that do not follow from each other
    backbone.parallel = config.thinking.parallel
    if config.start is not None:
        _continue(method, config.start)
    if config.backbone.lora is not None:
        known = backbone.tokenizer.get_vocab()
        backbone.adapt(config.backbone.lora, tuple(known[name] for name in (BOT, EOT, LATENT) if name in known))
    train_in_float32(method)  # pyright: ignore[reportArgumentType]
    return method


def _continue(method: Method, start: str) -> None:
    """Take over what a run has trained beside its base model, inside of any wrapping method: projections, vectors.

    Raises:
        RunError: it has other parts than this method.
    """
    mine: Any = method.inner
    theirs = own_state(RunDir(start).load_method(inner=True))
    wanted = own_state(mine)
    differ = sorted(
        name for name in {*wanted, *theirs} if name not in wanted or name not in theirs
        or wanted[name].shape != theirs[name].shape
    )  # fmt: skip
    if differ:
        raise RunError(
            f"{start} cannot be the start of method {mine.config.name!r}: {differ[0]!r} differs in name or shape; "
            "give the same method settings as that run has"
        )
    for name, tensor in wanted.items():
        tensor.data.copy_(theirs[name])
