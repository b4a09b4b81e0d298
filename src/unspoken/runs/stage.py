"""The curriculum stage of a run's model, as recorded by `RunDir.save_model`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any


def stage_of(run: Path) -> dict[str, Any] | None:
    """ "index" of the stage, that of the "last" one, and how many "latents" it thinks (None = the method's own number).

    None if RUN/model does not say: it is damaged, which loading reports, or of an older version.
    """
    try:
        stage = json.loads((run / "model" / "unspoken.json").read_text(encoding="utf-8")).get("stage")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return stage if isinstance(stage, dict) and isinstance(stage.get("latents"), (int, type(None))) else None


def own_latents(run: Path) -> int | None:
    """Default number of latents of a run's model; None = as many as at the end of training.

    Warns if the model is of a stage with another number, since it was never trained with the final number of latents.
    """
    stage = stage_of(run) or {}
    if (latents := stage.get("latents")) is not None:
        warnings.warn(
            f"the model in {run} is of stage {stage.get('index')} of a curriculum that ends in stage {stage.get('last')}: "
            f"it thinks {latents} latents, as that stage does, where no other number is asked for",
            stacklevel=3,
        )
    return latents
