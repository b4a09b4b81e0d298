"""Memory of trainings on rows that are kept on the disk, at several numbers of rows.

    python -m benchmarks.streaming --rows 1 3 5         # millions; about 20 minutes on one core
    python -m benchmarks.streaming --rows 0.1 --held    # the same rows in memory, for comparison

Writes shards of 100,000 synthetic rows, adding to them from one size to the next, and trains a few steps of SIM-CoT on
them, from the first step and from the middle of an epoch, in a new process each. A JSON object a line: `rss_mb` at a time,
`peak_mb` the most so far (VmRSS, VmHWM of Linux), `own_mb` without pages of files that are mapped (RssAnon).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SHARD = 100_000
STEPS = 20


def write(folder: Path, first: int, end: int) -> None:
    """Shards of rows, as GSM8K-Aug's in length."""
    folder.mkdir(exist_ok=True)
    for begin in range(first, end, SHARD):
        with (folder / f"train-{begin // SHARD:05}.jsonl").open("w", encoding="utf-8") as file:
            for n in range(begin, min(begin + SHARD, end)):
                a, b, c = n % 97 + 3, n % 89 + 2, n % 7 + 2
                question = (
                    f"Ann ({n}) has {a} pens and buys {b} more. She packs {c} boxes like that. How many pens are in them?"
                )
                steps = [f"<<{a}+{b}={a + b}>>", f"<<{a + b}*{c}={(a + b) * c}>>"]
                file.write(json.dumps({"question": question, "steps": steps, "answer": str((a + b) * c)}) + "\n")


def memory() -> dict[str, float]:
    """Megabytes of this process."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    names = {"rss_mb": "VmRSS", "peak_mb": "VmHWM", "own_mb": "RssAnon"}
    return {name: round(int(found[key].split()[0]) / 1024, 1) for name, key in names.items()}


def measure(folder: Path, stream: bool, middle: bool) -> None:
    """Train a few steps and tell the memory at each stage."""
    from unspoken.core.builtin import builtin
    from unspoken.core.lm.backbone import BackboneConfig
    from unspoken.recipes import recipe
    from unspoken.tasks import task_config
    from unspoken.training.loop import Training
    from unspoken.training.progress import Quiet

    config = recipe("tiny/sim_cot")
    task = {"name": "files", "train": str(folder / "rows"), "stream": stream, "stream_folder": str(folder / "kept")}
    how: Any = {"epochs": 1.0, "steps": None, "batch_size": 32, "validate_limit": 0, "encodings": None, "threads": 1}
    arch = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    backbone = BackboneConfig(
        arch={**arch, "max_position_embeddings": 2048}, tokenizer=str(builtin("builtin:tiny") / "model")
    )
    config = replace(config, backbone=backbone, task=task_config(task), train=replace(config.train, **how))

    def tell(stage: str, began: float, rows: int) -> None:
        seconds = round(time.perf_counter() - began, 1)
        print(json.dumps({"rows": rows, "stream": stream, "stage": stage, "seconds": seconds, **memory()}), flush=True)

    began = time.perf_counter()
    tell("imported", began, 0)
    with tempfile.TemporaryDirectory() as out:
        training = Training(config, Path(out) / "run", Quiet())
        rows = len(training.examples)
        tell("built", began, rows)
        began = time.perf_counter()
        training.step = training.schedule.total // 2 if middle else 0
        for _ in range(STEPS):
            training._train_step()
        training.feed.settle()
        tell(f"{STEPS} steps from step {training.step - STEPS}", began, rows)


def main() -> None:
    """Measure at all sizes, each in a process of its own."""
    options = argparse.ArgumentParser(description="Memory of trainings on rows on the disk.")
    options.add_argument("--rows", nargs="+", type=float, default=[1.0, 3.0, 5.0], help="millions, ascending")
    options.add_argument("--held", action="store_true", help="in memory instead")
    options.add_argument("--measure", help=argparse.SUPPRESS)
    options.add_argument("--middle", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        measure(Path(given.measure), not given.held, given.middle)
        return
    with tempfile.TemporaryDirectory() as place:
        there = 0
        for millions in given.rows:
            write(Path(place) / "rows", there, there := int(millions * 1e6))
            for more in ([], ["--middle"]):
                held = ["--held"] if given.held else []
                command = [sys.executable, "-m", "benchmarks.streaming", "--measure", place, *held, *more]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
