"""A JSONL file that grows by whole rows, for work that costs money or hours and may be killed at any time.

A row is on the disk before the next is asked for. Half a row, as a kill or a full disk leaves it, is cut off when the file
is opened again. One process at a time writes to a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from unspoken.core.files import check_file
from unspoken.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None


class RowsFile:
    """The file, open to append. Use it as a context manager.

    Args:
        path: the file; it and its folder are created if there is none.
        needs: the field that each of its rows has.

    Attributes:
        rows: those it had when it was opened.

    Raises:
        DataError: another process writes to it, or what it holds are no such rows.
        RunError: no file can be written there.
    """

    def __init__(self, path: Path, needs: str) -> None:
        check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b")
        try:
            self._lock()
            self.rows = self._read(needs)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, *rows: Mapping[str, object]) -> None:
        """Add rows, and wait until they are on the disk."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._file.write(text.encode("utf-8", errors="backslashreplace"))  # half a surrogate pair, as JSON escapes it
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{self.path} is being written by another process; wait for it, or give another --out") from None
        except OSError:  # a file system without locks
            return

    def _read(self, needs: str) -> list[dict[str, Any]]:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        rows = []
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self.path}:{number}: is no JSON ({error}); give another --out") from error
            if not isinstance(row, dict) or not row.get(needs):
                raise DataError(f"{self.path}:{number}: is no row with {needs!r}; give another --out")
            rows.append(row)
        half = data[len(whole) :]
        if half[: len(_BEGIN)] != _BEGIN[: len(half)]:  # somebody else's file, not to be cut
            raise DataError(f"{self.path}:{len(rows) + 1}: is no row with {needs!r}; give another --out")
        self._file.truncate(len(whole))
        return rows


_BEGIN = b'{"question": '
"""How each row begins."""
