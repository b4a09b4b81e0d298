"""Allow one training at a time in a run directory. The system releases the lock when the process ends for any reason."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from pathlib import Path

from unspoken.core.files import parse_json
from unspoken.errors import RunError, TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".training"
"""The locked file. It names the training process, but only the lock counts, so a leftover file blocks nothing."""

_HELD = (errno.EAGAIN, errno.EACCES)


class Lock:
    """A lock on a run directory.

    Args:
        folder: the run directory, created if necessary.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / LOCK
        self._handle: int | None = None

    def check(self) -> None:
        """Check before anything is loaded that no process trains here.

        Raises:
            RunError: another process trains here.
        """
        if self.file.exists():
            self.take()
            self.release()

    def take(self) -> None:
        """Take the lock. If locks are not supported, warn and continue without.

        Raises:
            RunError: another process trains here.
            TrainingError: the folder is not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                self._handle = self._open()
        except OSError as error:
            raise TrainingError(f"cannot write {self.file}: {error.strerror or error}; choose another --out") from error

    def release(self) -> None:
        """Release the lock if it is held."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()  # first, so that whoever opens it from now on makes a new one
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int | None:
        """The open, locked file; None if a training that has just ended removed it meanwhile."""
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
            about = parse_json(self.file.read_bytes())
            return f" by process {about['process']} on {about['host']}, since {about['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return " by another process"
