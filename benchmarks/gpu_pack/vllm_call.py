"""vLLM with the plugin on the machine: equal to our engine, eagerly and with CUDA graphs; then how fast it is.

    python3 -m benchmarks.gpu_pack.vllm_call OUT --seconds 40 --piece 1     with .pack/vllm-1: keeps it, no more
    python3 -m benchmarks.gpu_pack.vllm_call OUT --seconds 480 --piece 2    with .pack/vllm-2: joins, installs, runs

vLLM's wheel and what it needs travel in two pieces (`python -m benchmarks.gpu_pack.prepare --vllm`); the machine must stay
warm in between. `--tiny --vllm-python PYTHON` goes through all of it on a CPU, with an environment that has vLLM
(`make test-vllm`) and without pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.gpu_pack.jobs import ROOT, Board, Job
from benchmarks.gpu_pack.machine import PACK, VLLM, write

MARGIN = 8.0
"""Seconds between the last job's end and the call's."""

ENGINES = {"eager": 60.0, "graphs": 120.0}
"""How vLLM runs a model, and how many seconds the shipped model's questions may take it, its start included."""


def main() -> None:
    """Keep a piece; with the last one, run everything."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path, help="folder for what is to be brought back")
    options.add_argument("--seconds", type=float, required=True, help="how long the call may take, to its last word")
    options.add_argument("--piece", type=int, choices=range(1, len(VLLM) + 1), help="which of the pieces is here")
    options.add_argument("--work", type=Path, default=Path.home() / "gpu-pack-vllm", help="what both calls see")
    options.add_argument("--tiny", action="store_true", help="a trial: everything as small as can be, on the CPU")
    options.add_argument("--vllm-python", type=Path, default=Path(sys.executable), help="interpreter that runs vLLM")
    asked = options.parse_args()
    work: Path = asked.work
    work.mkdir(parents=True, exist_ok=True)
    if asked.piece is not None:
        _keep(PACK / VLLM[asked.piece - 1], work)
        if asked.piece < len(VLLM):
            print(f"kept {sum(path.stat().st_size for path in (work / 'pieces').rglob('*'))} bytes")
            return
        _install(work)
    path = [str(ROOT / "src"), str(ROOT), *([str(work / "site")] if asked.piece is not None else [])]
    environment = {
        "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "VLLM_USE_V2_MODEL_RUNNER": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(work / "cache"),
    }  # fmt: skip
    if asked.tiny:
        environment |= {"TRITON_INTERPRET": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    with Board(work, asked.out, asked.seconds, environment, {"gpu": 1}) as board:
        _go(board, work, asked.vllm_python.absolute(), asked.tiny)


def _keep(piece: Path, work: Path) -> None:
    if not piece.is_dir():
        sys.exit(f"error: {piece} is not here; prepare --vllm makes it, and it must travel with the checkout")
    shutil.copytree(piece, work / "pieces", dirs_exist_ok=True)


def _install(work: Path) -> None:
    """Join the archive, unpack it, and put the wheels beside it."""
    parts = [work / "pieces" / f"vllm.tar.xz.{number}" for number in range(1, len(VLLM) + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        sys.exit(f"error: {missing[0]} is not here: the earlier call's folder {work} is gone; bring all pieces again")
    whole = work / "vllm.tar.xz"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(whole) as archive:
        archive.extractall(work / "site", filter="data")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    wheels = sorted((work / "pieces").glob("*.whl"))
    subprocess.run([*pip, "--upgrade", "--target", work / "site", *wheels], check=True)


def _go(board: Board, work: Path, python: Path, tiny: bool) -> None:
    """Ours first, then vLLM's engines one after the other, equality before speed."""
    end = board.seconds - MARGIN
    cases = [sys.executable, "-m", "benchmarks.gpu_pack.vllm_cases"]
    more = ["--tiny"] * tiny
    board.add(Job(name="make", command=lambda: [*cases, "make", work, *more], until=end))
    board.add(
        Job(name="ours-equal", command=lambda: [*cases, "ours", work / "equal.json", *more], until=end, after=["make"])
    )
    before = "ours-equal"
    worker = [python, ROOT / "benchmarks/gpu_pack/vllm_worker.py"]
    for kind, seconds in ENGINES.items():
        name = f"vllm-{kind}-equal"
        command = [*worker, work / "equal.json", work / f"{name}.said.json", kind, *more]
        limit = board.clock + 10 * seconds if tiny else end
        board.add(Job(name=name, command=lambda command=command: command, until=limit, after=[before]))
        before = name
    told = [*cases, "compare", work, board.out / "equal.json"]
    board.add(Job(name="compare", command=lambda: told, until=end, after=[before]))
    speed = [*worker, work / "speed.json", work / "vllm-speed.said.json", "graphs", *more]
    board.add(Job(name="vllm-speed", command=lambda: speed, until=end, after=["compare"]))
    own = [*cases, "ours", work / "speed.json", *more]
    board.add(Job(name="ours-speed", command=lambda: own, until=end, after=["vllm-speed"]))
    board.run(until=end)
    _tell(board, work)


def _tell(board: Board, work: Path) -> None:
    """A line per measurement, and what was equal."""
    found = {}
    for path in sorted(work.glob("*.said.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            rate = case["questions"] / case["seconds"], case["tokens_said"] / case["seconds"]
            found[f"{path.name.removesuffix('.said.json')} {case['name']}"] = case["seconds"]
            board.tell(
                f"{path.name.removesuffix('.said.json')} {case['name']}: {rate[0]:.2f} questions/s, {rate[1]:.1f} tokens/s"
            )
    write(board.out / "seconds.json", found)
    if (equal := board.out / "equal.json").is_file():
        board.tell(equal.read_text(encoding="utf-8").strip())


if __name__ == "__main__":
    main()
