"""What a call brings back: logs, metrics, reports and cards in a few archives, never weights."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

MOST = 15 * 2**20
"""Bytes of one archive."""

LARGEST = 24 * 2**20
"""Bytes of a file that is still worth bringing back, before it is compressed."""

_SKIPPED = {"model", "models", "state", "site", "site-liger", "data", "shape", "base", "random"}
_KEPT = {".json", ".jsonl", ".log", ".out", ".err", ".command", ".xml", ".md", ".txt", ".csv"}


def files(work: Path) -> Iterator[Path]:
    """The files under a folder that are worth bringing back, small ones first."""
    found = []
    for folder, names, there in os.walk(work):
        names[:] = [name for name in names if name not in _SKIPPED and not name.startswith(".")]
        found += [Path(folder) / name for name in there if Path(name).suffix in _KEPT]
    sizes = {path: path.stat().st_size for path in found if path.is_file()}
    return iter(sorted((path for path, size in sizes.items() if 0 < size <= LARGEST), key=lambda path: sizes[path]))


def pack(work: Path, out: Path, most: int = MOST) -> list[Path]:
    """Write results-1.tar.gz and so on, each at most about so large; those of an earlier call are replaced one by one.

    A file that is being written is taken as far as it is there.
    """
    waiting, archives = list(files(work)), []
    while waiting:
        target = out / f"results-{len(archives) + 1}.tar.gz"
        new = target.with_suffix(".new")
        with new.open("wb") as raw, tarfile.open(fileobj=raw, mode="w:gz", compresslevel=6) as archive:
            _add(archive, waiting.pop(0), work)
            while waiting and raw.tell() < most:
                _add(archive, waiting.pop(0), work)
        os.replace(new, target)
        archives.append(target)
    return archives


def _add(archive: tarfile.TarFile, path: Path, work: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError:  # gone since it was listed
        return
    entry = tarfile.TarInfo(str(path.relative_to(work)))
    entry.size, entry.mtime = len(data), int(path.stat().st_mtime) if path.exists() else 0
    archive.addfile(entry, io.BytesIO(data))
