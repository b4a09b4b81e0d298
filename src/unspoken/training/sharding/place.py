"""Place the parameters of a method as a run's config says."""

from __future__ import annotations

from accelerate import Accelerator

from unspoken.methods.base import Method
from unspoken.runs.config import RunConfig
from unspoken.training.sharding.shards import Shards
from unspoken.training.sharding.whole import Placed, Whole


def placed(method: Method, config: RunConfig, accelerator: Accelerator) -> Placed:
    """Whole or in shards (`train.sharding`); one process has nothing to share.

    Raises:
        ConfigError: zero3 for a model whose passes depend on the lengths of rows.
    """
    if config.train.sharding == "none" or accelerator.num_processes == 1:
        return Whole(method, accelerator, _waits(method))
    return Shards(method, accelerator.device, low=config.low, even=config.train.sharding == "zero3")


def _waits(method: Method) -> bool:
    """Whether some parameters get no gradient in some steps: because other parts train in them, or because they have no
    latents."""
    stages = method.curriculum().extremes()
    base = {id(p) for p in method.backbone.parameters()}
    beside = any(p.requires_grad and id(p) not in base for p in method.parameters())
    return any(stage.trainable_part or (beside and stage.groups == 0) for stage in stages)
