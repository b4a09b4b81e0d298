"""Peak memory of a training step as the vocabulary and the labels grow: a figure of docs/speed/training.md.

    python -m benchmarks.memory > memory.json

A Coconut step (forward and backward) of a GPT-2 with few layers, so that the head is what costs; ours, and the way of the
released code. Every figure comes from a process of its own: the most it held, less what it held before the step and less
the gradients, which are as large as the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

VOCABULARIES = (50_257, 151_936)
ROWS = (8, 32)


def measure(side: str, words: int, rows: int, layers: int) -> None:
    """One step; prints megabytes."""
    import torch

    from benchmarks import train
    from benchmarks.workloads import Load
    from unspoken.bench import shapes
    from unspoken.core.loop.trace import Cost

    torch.set_num_threads(1)
    shapes.SHAPES["this"] = {"model_type": "gpt2", "vocab_size": words, "n_layer": layers}
    load = Load(rows=rows, length=96, labels=50)
    bench = train.coconut_bench("this", torch.device("cpu"), "fp32", load, with_decoder=False)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the model
    held = memory("VmRSS")
    bench.sides[side](Cost())
    most = memory("VmHWM")
    gradients = sum(p.grad.nbytes for p in bench.method.parameters() if p.grad is not None)
    print(json.dumps({"side": side, "vocabulary": words, "labels": bench.about["labels"],
                      "megabytes": round((most - held - gradients) / 1e6)}))  # fmt: skip


def memory(what: str) -> int:
    """Bytes that this process holds (VmRSS), or has held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main() -> None:
    """Both sides at both vocabularies, with few and with many labels."""
    options = argparse.ArgumentParser()
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--one", nargs=3, metavar=("SIDE", "WORDS", "ROWS"))
    given = options.parse_args()
    if given.one:
        measure(given.one[0], int(given.one[1]), int(given.one[2]), given.layers)
        return
    found = []
    for side in ("coconut ours", "coconut released"):
        for words in VOCABULARIES:
            for rows in ROWS:
                command = [sys.executable, "-m", "benchmarks.memory", "--layers", str(given.layers)]
                command += ["--one", side, str(words), str(rows)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found.append(json.loads(said.splitlines()[-1]))
                print(found[-1], file=sys.stderr)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
