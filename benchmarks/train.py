"""Optimizer steps against the way of the released code, as JSON: the figures of docs/speed/training.md, "Training".

    python benchmarks/train.py --threads 1 --rounds 5 --what sim_cot,codi > train.json

The same as `unspoken bench train --json`; the baselines are in src/unspoken/bench/baselines.py.
"""

from __future__ import annotations

import sys

from unspoken.cli import app

if __name__ == "__main__":
    app(["bench", "train", "--json", *sys.argv[1:]])
