"""Commands that are killed at random moments and given again until they end, compared with ones that were not killed.

    python -m benchmarks.kills                            # 100 trainings and 20 of each other command: `make endurance`
    python -m benchmarks.kills --kills 10 evaluation study    # some of them

Each is run once without a kill. Then it is run again and again, killed with signal 9 after a random time, and the same
command is given again. Trainings are killed while building, in steps, saves, validations, changes of stage. Weights,
optimizer and metrics, answers, condensed rows must be equal, bit for bit. A JSON object a line; exit code 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

LORA = 'backbone={"path":"builtin:tiny","lora":{"r":4}}'
TRAININGS: dict[str, tuple[int, list[str]]] = {
    "stages": (1, []),
    "lora, micro-batches": (1, [LORA, "train.micro_batch_size=3", "train.activation_checkpointing=true"]),
    "async saves": (1, ["train.async_save=true"]),
    "2 processes": (2, []),
    "2 processes, zero2": (2, ["train.sharding=zero2"]),
}
"""Name: (processes, overrides of tiny/sim_cot)."""

OTHERS = ("evaluation", "condensing", "study")

COMMON = [
    "task.train_size=64", "task.validation_size=8", "train.steps=24", "train.epochs=null", "train.batch_size=8",
    "train.save_every=2", "train.validate_every=6", "train.validate_limit=4", "train.log_every=1", "train.threads=1",
    "speaking.max_new_tokens=8", "train.encodings=null",
]  # fmt: skip

STUDY = """
title = "Killed"
seeds = [1]
[factors]
latents = [1, 2]
[[runs]]
config = "tiny/coconut"
set = { method = { max_stage = "{latents}", epochs_per_stage = 0.5 }, "train.steps" = 8, "train.validate_every" = 4, \
"train.validate_limit" = 2, "train.save_every" = 2, "train.log_every" = 1, "train.threads" = 1, "train.warmup_steps" = 0, \
"task.train_size" = 64, "task.validation_size" = 4, "task.test_size" = 8 }
[[evaluations]]
name = "test"
"""


def command(name: str, out: Path, url: str) -> tuple[int, list[str]]:
    """How many processes, and what each of them runs."""
    if name == "evaluation":
        report = ["--out", str(out / "report.json")]
        return 1, ["eval", "builtin:tiny-sim-cot", "--limit", "256", "--batch-size", "8", "--no-controls", *report]
    if name == "condensing":
        rows = ["--out", str(out / "rows.jsonl"), "--workers", "2"]
        return 1, ["condense", "tiny", "train_size=64", "--url", url, "--model", "any", *rows]
    if name == "study":
        out.mkdir(parents=True, exist_ok=True)
        (out / "study.toml").write_text(STUDY, encoding="utf-8")
        return 1, ["study", str(out), "--runs", str(out / "runs"), "--jobs", "1"]
    processes, overrides = TRAININGS[name]
    return processes, ["train", "tiny/sim_cot", *COMMON, *overrides, "--out", str(out), "--quiet"]


def start(name: str, out: Path, url: str) -> list[subprocess.Popen[bytes]]:
    """Begin or resume."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, words = command(name, out, url)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = []
    for rank in range(processes):
        group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port)} if processes > 1 else {}  # fmt: skip
        how: Any = {"env": {**env, **group}, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        found.append(subprocess.Popen([sys.executable, "-m", "unspoken", *words], start_new_session=True, **how))
    return found


@contextlib.contextmanager
def model() -> Iterator[str]:
    """The address of something that speaks as a language model behind an endpoint, and always says the same of a text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
            time.sleep(0.05)
            said = json.dumps({"choices": [{"message": {"role": "assistant", "content": f"in {len(asked)} signs"}}]})
            with contextlib.suppress(OSError):  # whoever asked was killed
                self.send_response(200)
                self.end_headers()
                self.wfile.write(said.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def ends(started: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the end of a run.

    Raises:
        SystemExit: it failed.
    """
    for process in started:
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"a command failed: {said.decode()[-2000:]}")


def kill(started: list[subprocess.Popen[bytes]]) -> None:
    """Signal 9 to all processes and those that they have started, as a machine that goes down."""
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in started:
        process.communicate()


def contents(out: Path) -> dict[str, Any]:
    """Tensors of models and states, metrics without times, answers, and condensed rows."""
    found: dict[str, Any] = {}
    for file in sorted(out.rglob("*.safetensors")):
        found |= {f"{file.relative_to(out)}/{name}": tensor for name, tensor in load_file(file).items()}
    for file in sorted(out.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        untimed = [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows]
        found[str(file.relative_to(out))] = untimed
    for file in sorted(out.rglob("*.json")):
        if isinstance(whole := json.loads(file.read_text()), dict) and "records" in whole:
            found[str(file.relative_to(out))] = [whole["records"], whole["fingerprint"]]
    for file in sorted(out.rglob("rows.jsonl")):
        found[str(file.relative_to(out))] = file.read_text()
    return found


def reached(out: Path) -> int:
    """How far a killed command had come: the newest state's step, or lines of answers and rows."""
    states = sorted(int(path.name.removeprefix("step-")) for path in out.rglob("state/step-*"))
    lines = [len(path.read_bytes().splitlines()) for path in (*out.glob("*.partial-*"), *out.glob("rows.jsonl"))]
    return sum(states) or sum(lines)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not equal, bit for bit."""
    odd = sorted(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
            odd.append(name)
    return odd


def trial(name: str, kills: int, folder: Path, dice: random.Random) -> dict[str, Any]:
    """Kill a command so many times, over as many runs of it as that takes."""
    with model() as url:
        began = time.perf_counter()
        ends(start(name, folder / "whole", url))
        seconds, whole = time.perf_counter() - began, contents(folder / "whole")
        assert whole, "nothing to compare"
        done, runs, far, odd = 0, 0, [], []
        while done < kills:
            run = folder / f"run-{runs}"
            while done < kills:
                began, fresh = time.perf_counter(), not run.exists()
                started = start(name, run, url)
                when = began + dice.uniform(0.3, 1.1) * seconds
                while time.perf_counter() < when and any(process.poll() is None for process in started):
                    time.sleep(0.05)
                if all(process.poll() is not None for process in started):
                    ends(started)
                    seconds = time.perf_counter() - began if fresh else seconds  # the machine is freer than it was
                    break
                kill(started)
                done += 1
                far.append(reached(run))
            ends(start(name, run, url))
            odd += [f"{run.name}: {what}" for what in differing(whole, contents(run))]
            runs += 1
    return {"variant": name, "kills": done, "runs": runs, "reached": sorted(set(far)), "different": odd}


def main() -> None:
    """Make all trials."""
    options = argparse.ArgumentParser(description="Commands that are killed at random moments.")
    options.add_argument("variants", nargs="*", choices=[[], *TRAININGS, *OTHERS], help="all where none is named")
    options.add_argument("--kills", type=int, default=100, help="over all trainings; of each other command a fifth")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    names, failed = given.variants or [*TRAININGS, *OTHERS], False
    for name in names:
        kills = -(-given.kills // len(TRAININGS))
        with tempfile.TemporaryDirectory() as folder:
            found = trial(name, kills, Path(folder), random.Random(f"{given.seed}/{name}"))
        print(json.dumps(found), flush=True)
        failed |= bool(found["different"])
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
