"""Probes: a step decoder trained on the latents of a finished, frozen run, to read them.

The decoder is SIM-CoT's and is trained as there, but without gradients into the latents, which do not change. What it
cannot write is not in the latents in a form that such a decoder can read; what it can write is there, though the model need
not use it. The result is a run directory of `sim_cot` around the run's method: it answers like the run, and can explain.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unspoken.core.config import build, dump, override
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import resolve
from unspoken.core.precision import kept_dtype
from unspoken.errors import ConfigError
from unspoken.inspector.gather import check_latents
from unspoken.methods.base import Method
from unspoken.runs.config import RunConfig, field_of
from unspoken.runs.directory import RunDir
from unspoken.runs.stage import stage_of

STEPS = 1000
"""Default optimizer steps; on `tiny` the decoder of a sound model is right long before."""


def probe_config(run: str | Path, task: str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a probe of a run; train it like any other.

    The decoder starts as a copy of the run's base model. Batch size, learning rate and precision are the run's; the
    learning rate falls linearly to 0, and the decoder with the lowest validation loss is kept.

    Args:
        run: a finished run; a decoder that it already has is left out.
        task: where problems with steps come from; None = the run's own task.
        overrides: "a.b=value", e.g. "train.steps=500" or "method.decoder.kind=layers".

    Raises:
        ConfigError: the run's method makes no latents, or an override unfreezes it.
    """
    was = RunDir(run).config()
    inner: Method = RunDir(run).load_method(at_inference=True)
    check_latents(inner, "How many?")
    stage = stage_of(RunDir(run).path) or {}
    if stage.get("latents") is not None:
        warnings.warn(
            f"the model in {run} is of stage {stage['index']} of a curriculum that ends in stage {stage['last']}, with "
            f"{stage['latents']} latents; the probe learns from as many as at the end, most of which it has never seen",
            stacklevel=2,
        )
    train = replace(
        was.train, epochs=None, steps=STEPS, schedule="linear", decay_start=0.0, final_lr=0.0, warmup_steps=50,
        warmup_share=0.0, select="loss", validate_every=STEPS // 5, save_every=STEPS // 5,
        stability_limit=0,
    )  # fmt: skip
    method: dict[str, Any] = {
        "name": "sim_cot",
        "inner": dump(inner.config),
        "trains": "decoder",
        "normalisation": "token",
    }
    config = {
        "backbone": dump(
            BackboneConfig(path=str(run), dtype=kept_dtype(resolve(str(run))), attention=was.backbone.attention)
        ),
        "method": method,
        "task": dump(was.task) if task is None else {"name": task},
        "train": dump(train),
        "speaking": dump(was.speaking),
        "start": str(run),
    }
    probe = build(RunConfig, override(config, overrides))
    if any(
        field_of(dump(probe), name) != field_of(config, name) for name in ("method.name", "method.trains", "backbone.lora")
    ):
        raise ConfigError("a probe trains the decoder alone; leave method.trains and backbone.lora as they are")
    return probe
