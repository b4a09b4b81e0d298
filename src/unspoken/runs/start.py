"""Build the method that a run starts from, optionally with parts that another run has trained."""

from __future__ import annotations

from unspoken.core.lm.loading import load_backbone
from unspoken.core.loop.sources import parallel
from unspoken.core.precision import train_in_float32
from unspoken.errors import ConfigError, RunError
from unspoken.methods import make_method
from unspoken.methods.base import Method, new_tokens_of
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir
from unspoken.runs.saved import own_state


def build_method(config: RunConfig) -> Method:
    """Build a config's method on its base model, with LoRA, as training starts from it.

    Raises:
        ConfigError: LoRA on a base model that the settings freeze; an added token missing from `new_tokens`; parallel
            passes for precomputed latents.
        RunError: `start` is a run of another method.
    """
    backbone = load_backbone(config.backbone)
    words, lora = len(backbone.tokenizer), config.backbone.lora
    method = make_method(config.method, backbone)
    parallel(method.source(), config.thinking.parallel)  # refuses latents that are not recurrent
    backbone.parallel = config.thinking.parallel
    new, name = new_tokens_of(method), config.method.name
    if silent := sorted({*range(words, len(backbone.tokenizer))} - {*new}):
        raise ConfigError(
            f"method {name!r} has added {backbone.tokenizer.convert_ids_to_tokens(silent[0])!r} to the base model, but does "
            "not list it in new_tokens(), so its row would not train under LoRA; return its id there"
        )
    if lora is not None and not method.trains_base:
        raise ConfigError(
            f"backbone.lora trains the base model, and method {name!r} is told to leave it as it is (method.trains); "
            "set one of them otherwise"
        )
    if config.start is not None:
        _continue(method, config.start)
    if lora is not None:
        backbone.adapt(lora, new)
    train_in_float32(method)
    return method


def _continue(method: Method, start: str) -> None:
    """Copy the parts that a run has trained beside its base model (projections, vectors) into the innermost method.

    Raises:
        RunError: it has other parts than this method.
    """
    mine = method.at_inference
    theirs = own_state(RunDir(start).load_method(at_inference=True))
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
