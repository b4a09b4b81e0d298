"""Commands that are killed at random moments and given again until they end, compared with ones that were not killed.

    python -m benchmarks.kills                            # 100 trainings and 20 of each other command: `make endurance`
    python -m benchmarks.kills --kills 10 evaluation study    # some of them

Each is run once without a kill. Then it is run again and again, killed with signal 9 after a random time, and the same
command is given again. Trainings are killed while building, in steps, saves, validations, changes of stage; of several
processes all are killed, or one, and then the others must end by themselves. Weights, optimizer and metrics, answers,
condensed rows must be equal, bit for bit. A JSON object a line; exit code 1 if anything differs.

Commands begin with everything imported, forked from one process: importing writes nothing, and takes most of the time.
What a command starts by itself, as a study does its trainings, are ordinary processes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
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

MODELS = ("transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama")

PATIENCE = 120
"""Seconds until the other processes of a training must have ended, when one is killed."""

KILLS_A_RUN = 4
"""Then a run may end, so that many kills hit its later steps."""

VALIDATES = 6
"""Steps between validations."""

COMMON = [
    "task.train_size=64", "task.validation_size=8", "train.steps=24", "train.epochs=null", "train.batch_size=8",
    "train.save_every=2",
    f"train.validate_every={VALIDATES}", "train.validate_limit=4", "train.log_every=1", "train.threads=1",
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


class Started:
    """A process of the command, with everything imported; it leads a group of processes, those that it starts.

    Args:
        words: arguments of the command.
        env: further environment variables.
        first: called in the process.
    """

    def __init__(self, words: list[str], env: dict[str, str], first: Callable[[], object] | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["unspoken.cli", "unspoken.causal.campaign", "unspoken.training.loop", *MODELS])
        self.errors = tempfile.NamedTemporaryFile(prefix="kills-")  # noqa: SIM115 - kept while this object is
        self.process = context.Process(target=_run, args=(words, env, self.errors.name, first))
        self.process.start()

    def ended(self) -> int | None:
        """Its exit code, or None while it runs; -9 where it was killed."""
        return self.process.exitcode

    def kill(self) -> None:
        """Signal 9 to it and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    def said(self) -> str:
        """The end of what it has written to its error stream."""
        return Path(self.errors.name).read_text(errors="replace")[-2000:]


def _run(words: list[str], env: dict[str, str], errors: str, first: Callable[[], object] | None) -> None:
    """What the process does."""
    os.setsid()
    if first is not None:
        first()
    os.environ.update(env)
    for number, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = ["unspoken", *words]
    from unspoken.__main__ import main

    main()


def start(name: str, out: Path, url: str) -> list[Started]:
    """Begin or resume."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    count, words = command(name, out, url)
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if count > 1 else {}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {} for rank in range(count)]
    return [Started(words, {"OMP_NUM_THREADS": "1", **group, **rank}) for rank in ranks]


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


def ends(started: list[Started]) -> None:
    """Wait for the end of a run.

    Raises:
        SystemExit: it failed.
    """
    for process in started:
        process.process.join()
        if process.ended():
            raise SystemExit(f"a command failed: {process.said()}")


def kill(started: list[Started], dice: random.Random) -> None:
    """Kill all processes, as a machine that goes down, or one of several; then the others must end by themselves.

    Raises:
        SystemExit: another process went on, or waits.
    """
    if len(started) > 1 and dice.random() < 0.5:
        struck = dice.choice(started)
        struck.kill()
        for process in started:
            process.process.join(timeout=PATIENCE)
            if process.ended() is None:
                raise SystemExit(f"a process waits for one that was killed: {process.said()}")
    for process in started:
        process.kill()


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


def leftovers(out: Path) -> set[Path]:
    """What was being written when a process was killed."""
    return {*out.rglob(".*.tmp"), *out.rglob(".*.old")}


def moment(out: Path, before: set[Path]) -> str:
    """What a killed command was doing, as far as its files tell.

    Args:
        out: where it writes.
        before: what an earlier kill has left.
    """
    if left := leftovers(out) - before:
        return f"writing {sorted(left)[0].name.split('.')[1].split('-')[0]}"
    if not (files := list(out.rglob("metrics.jsonl"))):
        lines = [len(path.read_bytes().splitlines()) for path in (*out.glob("*.partial-*"), *out.glob("rows.jsonl"))]
        return f"at {sum(lines) // 64 * 64} lines and more" if sum(lines) else "before the first line"
    rows = [json.loads(line) for line in max(files, key=os.path.getmtime).read_text().splitlines() if line.endswith("}")]
    steps = [row for row in rows if row["kind"] == "train"]
    if not steps:
        return "before the first line"
    if steps[-1]["step"] % VALIDATES == 0 and rows[-1]["kind"] == "train":
        return "validating"
    return "first step of a stage" if len(steps) > 1 and steps[-1]["stage"] != steps[-2]["stage"] else "steps"


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
        moments: Counter[str] = Counter()
        runs, odd = 0, []
        while moments.total() < kills:
            run = folder / f"run-{runs}"
            for _ in range(min(KILLS_A_RUN, kills - moments.total())):
                before = leftovers(run)
                if not killed(start(name, run, url), dice.uniform(0.02, 1.0) * seconds, dice):
                    break
                moments[moment(run, before)] += 1
            ends(start(name, run, url))
            odd += [f"{run.name}: {what}" for what in differing(whole, contents(run))]
            shutil.rmtree(run)
            runs += 1
    return {"variant": name, "kills": moments.total(), "runs": runs, "when": dict(moments.most_common()), "different": odd}


def killed(started: list[Started], seconds: float, dice: random.Random) -> bool:
    """Kill a command after so long; False if it has ended before."""
    when = time.perf_counter() + seconds
    while time.perf_counter() < when:
        if all(process.ended() is not None for process in started):
            ends(started)
            return False
        time.sleep(0.01)
    kill(started, dice)
    return True


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
