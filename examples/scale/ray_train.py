"""A training by Ray Train: it starts the processes, and starts them again where one is lost.

    pip install "ray[train]"
    python examples/scale/ray_train.py gsm8k/sim_cot --workers 8 --out /shared/runs/sim_cot train.sharding=zero2

The run directory is on a file system that all machines see. It holds the states, so a restart goes on from the newest one.
"""

from __future__ import annotations

import argparse
from typing import Any


def work(settings: dict[str, Any]) -> None:
    """What each process does; Ray has set RANK, WORLD_SIZE and the group's address."""
    import unspoken
    from unspoken.training.ranks import leave_group

    unspoken.train(settings["recipe"], settings["out"], *settings["overrides"])
    leave_group()


def main() -> None:
    """Start the processes and wait for them."""
    options = argparse.ArgumentParser()
    options.add_argument("recipe")
    options.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    options.add_argument("--out", required=True)
    options.add_argument("--workers", type=int, default=8)
    options.add_argument("--cpu", action="store_true", help="processes without a GPU")
    given = options.parse_args()

    from ray.train import FailureConfig, RunConfig, ScalingConfig  # pyright: ignore[reportMissingImports]
    from ray.train.torch import TorchTrainer  # pyright: ignore[reportMissingImports]

    TorchTrainer(
        work,
        train_loop_config={"recipe": given.recipe, "out": given.out, "overrides": given.overrides},
        scaling_config=ScalingConfig(num_workers=given.workers, use_gpu=not given.cpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    ).fit()


if __name__ == "__main__":
    main()
