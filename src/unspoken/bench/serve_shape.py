"""A server of random weights of a well-known shape: `python -m unspoken.bench.serve_shape SHAPE --port N`.

For `unspoken bench serve`: what a server costs does not depend on what the weights say.
"""

from __future__ import annotations

import argparse

from unspoken.bench.serve import shape_model
from unspoken.serving.models import ServedModel
from unspoken.serving.server import Server, ServerConfig, settle
from unspoken.serving.service import Service


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shape")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--max-waiting", type=int, default=256)
    given = parser.parse_args()
    model = shape_model(given.shape)
    served = ServedModel(name="bench", model=model, slots=given.slots, max_waiting=given.max_waiting)
    settle()
    Server(Service(models=[served]), ServerConfig(port=given.port)).serve_forever()


if __name__ == "__main__":
    main()
