"""What both calls do first on the machine: options, the packages it lacks, the environment of every job."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_pack import runs
from benchmarks.gpu_pack.jobs import ROOT, Board, Job

PACK = ROOT / ".pack"
CARRIED = ("one", "two")
"""Folders of the pack: what the first call brings, and what the second does."""

VLLM = ("vllm-1", "vllm-2")
"""Folders of the pack with vLLM, for `benchmarks/gpu_pack/vllm_call.py`."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a script.

    Attributes:
        board: runs its jobs.
        work: what outlives the call: both calls are given the same.
        carried: what it brings with it.
        tiny: a trial on a machine without a GPU.
        rehearse: of the first call, what the second cannot do without, and the tests.
        bench: of the first call, the benches alone.
        shared: processes use the GPU at the same time (CUDA MPS) instead of by turns.
        names: the runs that are made.
        by_turns: those that write their steps first, then the others two at a time.
        update: rows of an update.
    """

    board: Board
    work: Path
    carried: Path
    tiny: bool
    rehearse: bool
    bench: bool
    shared: bool
    names: Sequence[str]
    by_turns: bool
    update: int

    @property
    def base(self) -> Path:
        """Folder of the model."""
        return self.work / "base"

    @property
    def random(self) -> Path:
        """Folder of a model of the same shape with random weights; tiny in a trial."""
        return self.work / "random"

    def waits_for(self, name: str) -> list[str]:
        """The runs that must have ended before one begins."""
        return runs.waits_for(name, self.names) if self.by_turns else []

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
    options.add_argument(
        "--rehearse", action="store_true", help="of the first call, no benches: where a machine had them before"
    )
    options.add_argument("--bench", action="store_true", help="of the first call, the benches alone")
    options.add_argument("--runs", type=lambda names: names.split(","), help="only these of the runs, two at a time")
    options.add_argument("--rows", type=int, default=96, help="of an update")
    asked = options.parse_args()
    if unknown := [name for name in asked.runs or () if name not in runs.RUNS]:
        sys.exit(f"error: --runs: {unknown[0]!r} is none of {', '.join(runs.RUNS)}")
    carried, work = PACK / CARRIED[number - 1], Path(asked.work)
    if not carried.is_dir() and not (asked.bench and (work / "site").is_dir()):
        sys.exit(f"error: {carried} is not here; make gpu-pack prepares it, and it must travel with the checkout")
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
    _unpack(board, work, carried)
    shared = _share(board, work)
    call = Call(
        board=board, work=work, carried=carried, tiny=asked.tiny, rehearse=asked.rehearse, bench=asked.bench, shared=shared,
        names=asked.runs or runs.chosen(shared), by_turns=asked.runs is not None or not shared, update=asked.rows,
    )  # fmt: skip
    card = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    commit = json.loads((work / "manifest.json").read_text(encoding="utf-8"))["commit"]
    told = f"commit {commit}; Python {sys.version.split()[0]}; {os.cpu_count()} CPUs"
    board.tell(f"{told}; GPU: {card or 'none'}")
    return call


_TRY = "import torch; assert torch.ones(2, device='cuda').sum().item() == 2"


def _share(board: Board, work: Path) -> bool:
    """Start the service that lets processes use one GPU at the same time, and try it; without it they take turns of some
    milliseconds each, which six trainings of small kernels spend waiting."""
    control = shutil.which("nvidia-cuda-mps-control", path=os.environ.get("PATH", "") + ":/usr/local/nvidia/bin:/usr/bin")
    if control is None:
        board.tell("no CUDA MPS on this machine: runs take turns, two at a time")
        return False
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(work / "mps"), "CUDA_MPS_LOG_DIRECTORY": str(board.logs)}
    (work / "mps").mkdir(exist_ok=True)
    environment = {**os.environ, **places}
    try:
        how = _start_sharing(control, environment)
        subprocess.run([sys.executable, "-c", _TRY], env=environment, check=True, capture_output=True, timeout=40)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        board.tell(f"CUDA MPS does not work here ({error}: {said[-300:].decode(errors='replace')}): two runs at a time")
        _unshare(control, environment)
        return False
    board.environment |= places
    board.closing.append(lambda: _unshare(control, environment))
    board.tell(f"CUDA MPS: processes share the GPU{how}")
    return True


def _start_sharing(control: str, environment: Mapping[str, str]) -> str:
    """Start the service. Where the one of an earlier call has not ended, which keeps a new one from starting, it is told to
    once more; where that does not help either, it serves again."""
    for number in range(3):
        if subprocess.run([control, "-d"], env=environment, capture_output=True, timeout=20).returncode == 0:
            return " (the earlier service had to be ended)" if number else ""
        _unshare(control, environment)
        time.sleep(1)
    return " (the service of an earlier call)"


def _unshare(control: str, environment: Mapping[str, str]) -> None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([control], env=environment, input=b"quit -t 2\n", capture_output=True, timeout=8)


def _unpack(board: Board, work: Path, carried: Path) -> None:
    """Wheels, data and what belongs to the model, into the folder that stays."""
    wheels = sorted((carried / "wheels").glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    for name, chosen in (("site", wheels), ("site-liger", sorted((carried / "wheels" / "liger").glob("*.whl")))):
        if chosen:
            subprocess.run([*pip, "--upgrade", "--target", work / name, *chosen], check=True)
    if (data := carried / "data.tar.gz").exists():
        with tarfile.open(data) as archive:
            archive.extractall(work / "data", filter="data")
    for part in (*carried.glob("model.part*"), *carried.glob("manifest.json")):
        shutil.copy2(part, work / part.name)
    if (shape := carried / "shape.tar.gz").exists():
        with tarfile.open(shape) as archive:
            archive.extractall(work, filter="data")
    board.tell("unpacked")


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


def tokens(two: bool) -> int:
    """Positions of a micro-batch with which six runs fit into the GPU: by `unspoken train --plan`, the four that are there
    longest take 93 GB at 12,288 positions and 62 at 8,192. All six at once, as the rehearsal has them, ran out of an H200's
    at 12,288. Two at a time have room for twice as many: 84 GB at 20,480 positions for Coconut and SIM-CoT on it, and a
    fifth more is as far as the plan was ever short."""
    said = _output("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits").splitlines()
    large = bool(said) and said[0].strip().isdecimal() and int(said[0]) > 100_000
    return (20_480 if two else 10_240) if large else (12_288 if two else 8192)


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
