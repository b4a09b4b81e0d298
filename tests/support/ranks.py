"""Several processes that train together (gloo), started without a launcher: torchrun itself takes seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def launch(processes: int, *words: str | Path, timeout: float = 240, **more: str) -> list[tuple[int, str]]:
    """Run a script in several processes of one group; exit code and output of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
           "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), **more}  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, words)], env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        return [(p.returncode, out) for p in started for out, _ in [p.communicate(timeout=timeout)]]
    finally:
        for p in started:
            p.kill()
            p.wait()
