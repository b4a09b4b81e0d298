"""`unspoken doctor`: what is installed here, what this machine can do, and whether it works."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import typer

from unspoken.cli._options import app
from unspoken.cli.ask import SHIPPED

EXTRAS = {
    "plots": ("matplotlib",),
    "math": ("math-verify",),
    "gpu": ("liger-kernel",),
    "lm-eval": ("lm_eval",),
    "serve": ("uvicorn",),
}
"""What tells that an extra is installed."""

QUESTION = (
    "Ann has 18 figs. She sells full dozens. She triples her figs. She finds 3. She sells full tens. How many figs has Ann?"
)
ANSWER = "### 1"

Line = tuple[bool, str, str]
"""Whether it is well, what it is about, and what was found."""


@app.command()
def doctor() -> None:
    """What is installed, what this machine can do, and whether an answer comes out right. Exit code 1: something is not."""
    well = True
    for good, about, found in (*_machine(), *_packages(), *_devices(), *_answer()):
        typer.echo(f"{'ok  ' if good else 'BAD '}{about:14} {found}")
        well &= good
    if not well:
        raise typer.Exit(1)


def _machine() -> Iterator[Line]:
    good = sys.version_info >= (3, 11)
    yield good, "python", f"{platform.python_version()} at {sys.executable}" + ("" if good else "; 3.11 or newer is needed")
    yield True, "system", f"{platform.platform()}{'' if sys.platform == 'linux' else ': not tried by this project'}"
    free = shutil.disk_usage(".").free
    yield (
        free > 2e9,
        "disk",
        f"{free / 1e9:.1f} GB free here" + ("" if free > 2e9 else "; a run takes 2 to 20 times its model"),
    )
    yield True, "terminal", f"{sys.stdout.encoding or 'unknown encoding'}, {shutil.get_terminal_size().columns} columns"


def _packages() -> Iterator[Line]:
    where = Path(__file__).parents[1]
    yield True, "unspoken", f"{importlib.metadata.version('unspoken')} at {where}"
    from packaging.requirements import Requirement

    faults = []
    for text in importlib.metadata.requires("unspoken") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            faults.append(f"{needed.name} {version} does not fit {needed.specifier}")
    yield not faults, "packages", "; ".join(faults) + "; install again" if faults else "as pyproject.toml asks for"
    there, missing = [], []
    for extra, names in EXTRAS.items():
        (there if all(map(_installed, names)) else missing).append(extra)
    yield (
        True,
        "extras",
        f"{', '.join(there) or 'none'}; not installed: {', '.join(missing) or 'none'} (pip install -e '.[NAME]')",
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _devices() -> Iterator[Line]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield False, "torch", f"cannot be loaded: {error}"
        return
    yield True, "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not names and torch.version.cuda is not None:
        yield True, "GPU", f"none that torch can use (it was built for CUDA {torch.version.cuda}); the CPU is used"
    else:
        yield True, "GPU", ", ".join(names) or "none; this torch is for the CPU"
    from unspoken.core.precision import slow_in_bf16

    slow = "no instructions for bf16, which takes several times as long as fp32" if slow_in_bf16("cpu") else "bf16"
    yield True, "CPU", f"{torch.backends.cpu.get_cpu_capability()}; {slow}"
    if torch.backends.mps.is_available():
        yield True, "mps", "there, and not tried by this project; ACCELERATE_USE_CPU=true trains on the CPU"


def _answer() -> Iterator[Line]:
    try:
        from unspoken.runs.directory import load

        model = load(SHIPPED)
        began = time.perf_counter()
        (answer,) = model.answer([QUESTION], explain=True)
    except Exception as error:  # whatever it is, it is what is wrong here
        yield False, "an answer", f"{SHIPPED}: {type(error).__name__}: {error}"
        return
    took = 1000 * (time.perf_counter() - began)
    right = answer.text == ANSWER
    yield right, "an answer", f"{SHIPPED} says {answer.text!r} in {took:.0f} ms" + ("" if right else f", not {ANSWER!r}")
