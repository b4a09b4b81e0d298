"""Allow one evaluation at a time to write to a place: a lock next to the report, released by the system when a process
ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import IO

from unspoken.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: no locks, as before
    fcntl = None

_HELD: dict[Path, IO[str]] = {}  # kept open: closing gives the lock back
_RUNNING: set[Path] = set()
_ONE = threading.Lock()


def claim(file: Path) -> None:
    """Lock a file for this process, or take over a lock from this process's earlier evaluation.

    Raises:
        RunError: an evaluation that is still running holds it, or the file cannot be written.
    """
    file = file.absolute()
    with _ONE:
        if file in _RUNNING:
            raise RunError(_taken(file, f"pid {os.getpid()}, this process"))
        if file not in _HELD:
            _HELD[file] = _locked(file)
        _RUNNING.add(file)


def pause(file: Path) -> None:
    """Mark the evaluation as ended; the process keeps the lock until its report is written."""
    with _ONE:
        _RUNNING.discard(file.absolute())


def release(file: Path) -> None:
    """Release a lock and remove its file."""
    file = file.absolute()
    with _ONE:
        _RUNNING.discard(file)
        if (held := _HELD.pop(file, None)) is not None:
            file.unlink(missing_ok=True)  # while it is held, so that a process that has opened it notices
            held.close()


def _locked(file: Path) -> IO[str]:
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = file.open("a+", encoding="ascii")
        except OSError as error:
            raise RunError(f"could not write {file}: {error.strerror or error}; choose another place with --out") from error
        try:
            if fcntl is not None:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            opened.seek(0)
            who = opened.read().strip()
            opened.close()
            raise RunError(_taken(file, f"pid {who}" if who.isdecimal() else "another process")) from None
        except OSError:  # a file system without locks
            pass
        if _same(opened, file):
            opened.seek(0)
            opened.truncate()
            opened.write(str(os.getpid()))
            opened.flush()
            return opened
        opened.close()  # its owner ended meanwhile and removed it


def _same(opened: IO[str], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except OSError:
        return False


def _taken(file: Path, who: str) -> str:
    report = file.name.removeprefix(".").rpartition(".lock-")[0]
    return (
        f"another evaluation ({who}) is writing {file.parent / report}; wait until it ends, or give this one another place "
        "with --out"
    )
