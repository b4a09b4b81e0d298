"""Trainings that are killed at random moments and resumed to their end, compared with one that was not.

    python -m benchmarks.kills                  # 100 kills, over an hour on 2 cores: `make endurance`
    python -m benchmarks.kills --kills 3        # as the tests run it

Each variant is trained once without a kill. Then it is trained again and again, killed with signal 9 after a random time
(while building, in steps, saves, validations, changes of stage), and resumed by the same command. Weights, optimizer and
metrics must be equal, bit for bit. A JSON object a line; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

LORA = 'backbone={"path":"builtin:tiny","lora":{"r":4}}'
VARIANTS: dict[str, tuple[int, list[str]]] = {
    "stages": (1, []),
    "lora, micro-batches": (1, [LORA, "train.micro_batch_size=3", "train.activation_checkpointing=true"]),
    "2 processes": (2, []),
    "2 processes, zero2": (2, ["train.sharding=zero2"]),
}
"""Name: (processes, overrides of tiny/sim_cot)."""

COMMON = [
    "task.train_size=64", "task.validation_size=8", "train.steps=24", "train.epochs=null", "train.batch_size=8",
    "train.save_every=2", "train.validate_every=6", "train.validate_limit=4", "train.log_every=1", "train.threads=1",
    "speaking.max_new_tokens=8", "train.encodings=null",
]  # fmt: skip


def start(out: Path, processes: int, overrides: list[str]) -> list[subprocess.Popen[bytes]]:
    """Begin or resume a run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "unspoken", "train", "tiny/sim_cot", *COMMON, *overrides, "--out", str(out), "--quiet"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = []
    for rank in range(processes):
        group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port)} if processes > 1 else {}  # fmt: skip
        found.append(subprocess.Popen(command, env={**env, **group}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    return found


def ends(started: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the end of a run.

    Raises:
        SystemExit: it failed.
    """
    for process in started:
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"a training failed: {said.decode()[-2000:]}")


def kill(started: list[subprocess.Popen[bytes]]) -> None:
    """Signal 9 to all processes, as a machine that goes down."""
    for process in started:
        process.send_signal(signal.SIGKILL)
    for process in started:
        process.communicate()


def contents(run: Path) -> dict[str, Any]:
    """Tensors of model and state, and metrics without times."""
    found: dict[str, Any] = {}
    for file in sorted(run.rglob("*.safetensors")):
        found |= {f"{file.relative_to(run)}/{name}": tensor for name, tensor in load_file(file).items()}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows]
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not equal, bit for bit."""
    odd = sorted(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
            odd.append(name)
    return odd


def trial(name: str, kills: int, folder: Path, dice: random.Random) -> dict[str, Any]:
    """Kill a variant so many times, over as many runs as that takes."""
    processes, overrides = VARIANTS[name]
    began = time.perf_counter()
    ends(start(folder / "whole", processes, overrides))
    seconds, whole = time.perf_counter() - began, contents(folder / "whole")
    done, runs, steps, odd = 0, 0, [], []
    while done < kills:
        run = folder / f"run-{runs}"
        while done < kills:
            started = start(run, processes, overrides)
            time.sleep(dice.uniform(0.3, 1.1) * seconds)
            if all(process.poll() is not None for process in started):
                break
            kill(started)
            done += 1
            states = sorted(path.name for path in (run / "state").glob("step-*"))
            steps.append(int(states[-1].removeprefix("step-")) if states else 0)
        ends(start(run, processes, overrides))
        odd += [f"{run.name}: {what}" for what in differing(whole, contents(run))]
        runs += 1
    return {"variant": name, "kills": done, "runs": runs, "newest_states": sorted(set(steps)), "different": odd}


def main() -> None:
    """Make all trials."""
    options = argparse.ArgumentParser(description="Trainings that are killed at random moments.")
    options.add_argument("variants", nargs="*", choices=[[], *VARIANTS], help="all where none is named")
    options.add_argument("--kills", type=int, default=100, help="over all variants")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    names, failed = given.variants or list(VARIANTS), False
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = trial(name, -(-given.kills // len(names)), Path(folder), random.Random(f"{given.seed}/{name}"))
        print(json.dumps(found), flush=True)
        failed |= bool(found["different"])
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
