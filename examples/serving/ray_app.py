"""Replicas of a model behind one address, by Ray Serve.

    pip install 'unspoken[serve,ray]'
    cd examples/serving; RUN=/path/to/run serve run ray_app:app

Each replica is a process with a model and an engine of its own, which batches the requests that Ray sends to it. Ray
starts another one while they have more than `target_ongoing_requests` each, and ends one when they have fewer.
"""

from __future__ import annotations

import os

from ray import serve  # pyright: ignore[reportMissingImports]

from unspoken.serving.app import create_app
from unspoken.serving.guard import Guard
from unspoken.serving.models import ServedModel
from unspoken.serving.service import Service

RUN = os.environ.get("RUN", "builtin:tiny-sim-cot")
KEY = os.environ.get("UNSPOKEN_API_KEY")
SLOTS = 32  # answers at a time, per replica


def application() -> Guard:
    """What answers in a replica: the same that `unspoken serve` runs, behind the same guard."""
    service = Service(models=[ServedModel.load(RUN, slots=SLOTS)], deadline=600.0)
    service.engine.start()
    return Guard(create_app(service), key=KEY, local=False)


@serve.deployment(
    autoscaling_config={
        "min_replicas": int(os.environ.get("REPLICAS", "1")),
        "max_replicas": 4,
        "target_ongoing_requests": SLOTS,
    },
    max_ongoing_requests=4 * SLOTS,  # what exceeds the slots waits in the engine's own queue
    graceful_shutdown_timeout_s=30.0,
    ray_actor_options={"num_cpus": 1},
)
@serve.ingress(application)
class Replica:
    """A model and its engine."""


app = Replica.bind()  # pyright: ignore[reportAttributeAccessIssue]
