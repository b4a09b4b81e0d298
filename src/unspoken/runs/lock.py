"""One training at a time in a run directory. The system lets go of the lock when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from pathlib import Path

from unspoken.errors import RunError, TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".training"
"""The file that is locked. It says who trains here; only the lock counts, so a file that a kill has left holds nobody up."""

_HELD = (errno.EAGAIN, errno.EACCES)


class Lock:
    """A lock on a run directory.

    Args:
        folder: the run directory; it is made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / LOCK
        self._handle: int | None = None

    def check(self) -> None:
        """See early, before anything is loaded, that nobody trains here.

        Raises:
            RunError: somebody does.
        """
        if self.file.exists():
            self.take()
            self.release()

    def take(self) -> None:
        """Take the lock. Where there are no locks, that is said, and training goes on without.

        Raises:
            RunError: another process trains here.
            TrainingError: nothing can be written here.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                self._handle = self._open()
        except OSError as error:
            raise TrainingError(f"cannot write {self.file}: {error.strerror or error}; choose another --out") from error

    def release(self) -> None:
        """Let go of it, if it is held."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()  # first, so that whoever opens it from now on makes a new one
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int | None:
        """The open, locked file; None where a training that has just ended removed it in between."""
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock(handle)
            about = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            with contextlib.suppress(OSError):  # a full disk is told when something that matters is written
                os.ftruncate(handle, 0)
                os.write(handle, (json.dumps(about) + "\n").encode())
            if self.file.exists() and os.path.samestat(os.fstat(handle), self.file.stat()):
                held, handle = handle, -1
                return held
            return None
        finally:
            if handle >= 0:
                os.close(handle)

    def _lock(self, handle: int) -> None:
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, "this system has no file locks")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise RunError(
                    f"{self.folder} is being trained{self._whose()}; wait until that has ended, or give another --out"
                ) from None
            warnings.warn(
                f"{self.folder} cannot be locked ({error.strerror or error}): see to it that no second training uses it",
                stacklevel=2,
            )

    def _whose(self) -> str:
        """Who holds the lock, as far as the file says."""
        try:
            about = json.loads(self.file.read_text(encoding="utf-8"))
            return f" by process {about['process']} on {about['host']}, since {about['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return " by another process"
