"""What both calls do first on the machine: options, the packages it lacks, the environment of every job."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_pack.jobs import ROOT, Board, Job

PACK = ROOT / ".pack"
CARRIED = ("one", "two")
"""Folders of the pack: what the first call brings, and what the second does."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a script.

    Attributes:
        board: runs its jobs.
        work: what outlives the call: both calls are given the same.
        carried: what it brings with it.
        tiny: a trial on a machine without a GPU.
    """

    board: Board
    work: Path
    carried: Path
    tiny: bool

    @property
    def base(self) -> Path:
        """Folder of the model."""
        return self.work / "base"

    @property
    def random(self) -> Path:
        """Folder of a model of the same shape with random weights; tiny in a trial."""
        return self.work / "random"

    def run_of(self, name: str) -> Path:
        """Directory of a run."""
        return self.work / "runs" / name


def begin(about: str | None, number: int, lanes: dict[str, int]) -> Call:
    """Read the options, install what the machine lacks, and lay out the data.

    Args:
        about: what the script does.
        number: 1 or 2.
        lanes: see `Board`.
    """
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path, help="folder for what is to be brought back")
    options.add_argument("--seconds", type=float, required=True, help="how long the call may take, to its last word")
    options.add_argument("--work", type=Path, default=Path.home() / "gpu-pack", help="what both calls see")
    options.add_argument("--tiny", action="store_true", help="a trial: everything as small as can be, also without a GPU")
    asked = options.parse_args()
    carried = PACK / CARRIED[number - 1]
    if not carried.is_dir():
        sys.exit(f"error: {carried} is not here; make gpu-pack prepares it, and it must travel with the checkout")
    work: Path = asked.work
    work.mkdir(parents=True, exist_ok=True)
    path = [str(ROOT / "src"), str(work / "site"), str(ROOT)]
    environment = {
        "PYTHONPATH": os.pathsep.join(path),
        "UNSPOKEN_DATA": str(work / "data"),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    board = Board(work, asked.out, asked.seconds, environment, lanes)
    call = Call(board=board, work=work, carried=carried, tiny=asked.tiny)
    _unpack(call)
    card = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    manifest = json.loads((carried / "manifest.json").read_text(encoding="utf-8"))
    board.tell(f"commit {manifest['commit']}; Python {sys.version.split()[0]}; {os.cpu_count()} CPUs; GPU: {card or 'none'}")
    return call


def _unpack(call: Call) -> None:
    """Wheels, data and what belongs to the model, into the folder that stays."""
    wheels = sorted((call.carried / "wheels").glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    for name, chosen in (("site", wheels), ("site-liger", sorted((call.carried / "wheels" / "liger").glob("*.whl")))):
        if chosen:
            subprocess.run([*pip, "--upgrade", "--target", call.work / name, *chosen], check=True)
    if (data := call.carried / "data.tar.gz").exists():
        with tarfile.open(data) as archive:
            archive.extractall(call.work / "data", filter="data")
    for part in call.carried.glob("model.part*"):
        shutil.copy2(part, call.work / part.name)
    if (shape := call.carried / "shape").is_dir():
        shutil.copytree(shape, call.work / "shape", dirs_exist_ok=True)
    call.board.tell("unpacked")


def joined(call: Call) -> Path | None:
    """The model's file, put together from its parts and compared with its hash; None where a part is missing."""
    about = json.loads((call.carried / "manifest.json").read_text(encoding="utf-8"))["model"]
    parts = [call.work / name for name in about["parts"]]
    if missing := [part.name for part in parts if not part.exists()]:
        call.board.tell(f"{', '.join(missing)} not here: the first call's folder {call.work} is gone")
        return None
    target = call.work / about["name"]
    digest = hashlib.sha256()
    with target.open("wb") as whole:
        for part in parts:
            data = part.read_bytes()
            digest.update(data)
            whole.write(data)
    if digest.hexdigest() != about["sha256"]:
        call.board.tell("the model's parts do not make the file that was taken apart")
        return None
    return target


def tokens() -> int:
    """Positions of a micro-batch with which six runs fit into the GPU: some 1.3 MB each, and 2.2 or 4.3 GB a run."""
    said = _output("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits").splitlines()
    large = bool(said) and said[0].strip().isdecimal() and int(said[0]) > 100_000
    return 8192 if large else 5120


def watch_gpu(call: Call) -> list[Job]:
    """A job that notes the GPU's load and memory every two seconds, where there is one."""
    if shutil.which("nvidia-smi") is None:
        return []
    what = ["nvidia-smi", "--query-gpu=timestamp,utilization.gpu,memory.used,power.draw", "--format=csv", "-l", "2"]
    return [Job(name="gpu", command=lambda: what, until=call.board.seconds, aside=True)]


def write(path: Path, content: Any) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
