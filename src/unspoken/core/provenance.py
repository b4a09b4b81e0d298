"""Record the origin of results: versions, machine, commit, time. Training and evaluation write it next to every result."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("unspoken", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy")
"""Libraries whose version can change results."""


def provenance() -> dict[str, Any]:
    """A description of this process, as plain JSON values.

    Never fails: unknown values are None. Keys: versions, python, platform, cpu, cores (available to this process), threads
    (torch's), gpu (names of visible ones), commit and changed (of the unspoken checkout, if it runs from one), time (UTC).
    """
    commit, changed = _checkout(Path(__file__).resolve().parents[1])
    threads, gpu = _torch()
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "commit": commit,
        "changed": changed,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _cpu() -> str | None:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or None


def _torch() -> tuple[int | None, list[str]]:
    """torch's threads and the names of the GPUs it sees."""
    try:
        import torch

        gpu = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        return torch.get_num_threads(), gpu
    except Exception:  # a broken driver or a missing library must not cost the result that is being written
        return None, []


@functools.cache
def _checkout(package: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout that `package` (".../src/unspoken") runs from, and whether tracked files differ from it.

    Asked once: a later commit is not what this process has loaded.

    An installed copy may be inside another repository (a virtual environment in a project), whose commit is irrelevant; so
    the package must be at its place in our repository.
    """
    try:
        top = _git(package, "rev-parse", "--show-toplevel")
        if Path(top) / "src" / "unspoken" != package:
            return None, None
        return _git(package, "rev-parse", "HEAD"), bool(_git(package, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None, None


def _git(where: Path, *arguments: str) -> str:
    # Hooks set GIT_DIR, which would point at their repository; and status must take no lock.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, check=True, timeout=10)
    return done.stdout.decode().strip()
