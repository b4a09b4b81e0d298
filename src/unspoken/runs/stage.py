"""Which stage of a curriculum the model of a run is of, as `RunDir.save_model` has written it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any


def stage_of(run: Path) -> dict[str, Any] | None:
    """ "index" of the stage, that of the "last" one, and how many "latents" it thinks (None = the method's own number).

    None where RUN/model does not say: it is broken, which whoever loads it is told, or of an older version.
    """
    try:
        stage = json.loads((run / "model" / "unspoken.json").read_text(encoding="utf-8")).get("stage")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return stage if isinstance(stage, dict) and isinstance(stage.get("latents"), (int, type(None))) else None


def own_latents(run: Path) -> int | None:
    """How many latents a run's model thinks unless told otherwise; None = as many as its method does at the end of training.

    Warns where it is of a stage that thinks another number: asked for those of the end, which it has never seen, it would
    be judged by what it was not trained for.
    """
    stage = stage_of(run) or {}
    if (latents := stage.get("latents")) is not None:
        warnings.warn(
            f"the model in {run} is of stage {stage.get('index')} of a curriculum that ends in stage {stage.get('last')}: "
            f"it thinks {latents} latents, as that stage does, where no other number is asked for",
            stacklevel=3,
        )
    return latents
