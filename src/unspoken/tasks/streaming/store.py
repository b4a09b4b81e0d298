"""Checked rows on the disk, one file per source, from which any row is read by its number.

    FOLDER/<hash of source and settings>.rows      rows as JSON, one after another; where each one begins; what they are

A file is written under a temporary name, renamed, and never changed. Processes that need the same sources share the work:
each takes the next one that nobody is at. Shapes: n rows.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from unspoken.core.files import locked, reason, write_file
from unspoken.core.text.example import Example, LazyExamples
from unspoken.errors import DataError

_MAGIC = b"unspoken rows 1\n"
_NUMBER = 8  # bytes of where a row begins
_STUCK = 600.0
"""Seconds without a new row after which another process that reads a source is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a file of rows says of itself.

    Attributes:
        source: where its rows come from.
        rows: how many are kept.
        read: how many the source has; those of a held-out split are not kept.
        bare: how many of the kept ones have no step, and the first of them (its number in the source).
        first_bare: see `bare`.
        longest: bytes of the longest kept row, in UTF-8: no tokenizer makes more tokens of it.
        had_reasoning: some row had reasoning that is one text.
        digest: a hash of question, steps and answer of the kept rows, in order.
    """

    source: str
    rows: int
    read: int
    bare: int
    first_bare: int | None
    longest: int
    had_reasoning: bool
    digest: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of rows.

    Attributes:
        name: a file, a folder or a name on the hub, for messages.
        key: changes whenever the rows may have, or the settings by which they are read.
        open: reads and checks its rows, and says of each whether it had reasoning that is one text.
        keeps: whether a row is kept.
        limit: keep so many rows at most; None = all.
    """

    name: str
    key: str
    open: Callable[[], Iterator[tuple[Example, bool]]]
    keeps: Callable[[Example], bool]
    limit: int | None = None

    def path(self, folder: Path) -> Path:
        """Its file of rows."""
        return folder / f"{sha256(self.key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.rows"


def prepared(sources: Sequence[Source], folder: Path) -> StoredExamples:
    """The rows of some sources, in order; those that are not on the disk yet are read and checked first.

    Args:
        sources: at least one.
        folder: where files of rows are.

    Raises:
        DataError: a row is unusable (names its place), a source is empty, or another process has hung at one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    seen: dict[Path, tuple[float, float]] = {}
    while missing := [source for source in sources if not source.path(folder).is_file()]:
        busy = [source for source in missing if not _made(source, source.path(folder))]
        for source in busy:
            _wait_for(source, source.path(folder).with_suffix(".lock"), seen)
        if len(busy) == len(missing):
            time.sleep(0.1)
    return StoredExamples([Part.of(source.path(folder)) for source in sources])


def _made(source: Source, path: Path) -> bool:
    """Write the rows of a source, unless another process is at it."""
    lock = path.with_suffix(".lock")
    try:
        lock.touch()
        with _alone(lock):
            if not path.is_file():
                then = "or set task.stream_folder to a place with space for all rows"
                write_file(path, lambda new: _write(source, new, lock), error=DataError, then=then)
            lock.unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise _unwritable(path, error) from error
    return True


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """A lock on a file; none where there are no locks, so that two processes may do the same work."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK):
                raise
        yield


def _unwritable(path: Path, error: OSError) -> DataError:
    why, hint = reason(error)
    return DataError(f"cannot write {path}: {why}; {hint}, or set task.stream_folder to a place with space for the rows")


def _wait_for(source: Source, lock: Path, seen: dict[Path, tuple[float, float]]) -> None:
    """Give up when the process at a source has read no row for long. The clock that counts is ours."""
    with contextlib.suppress(OSError):  # it has just ended
        touched, now = lock.stat().st_mtime, time.monotonic()
        known, since = seen.setdefault(lock, (touched, now))
        if touched != known:
            seen[lock] = (touched, now)
        elif now - since > _STUCK:
            raise DataError(
                f"{source.name}: another process holds {lock} and has read no row for {_STUCK / 60:.0f} minutes; end it"
            )


def _write(source: Source, new: Path, lock: Path) -> None:
    """Read, check and write all rows of a source. Only where rows begin is kept in memory: 8 bytes each."""
    ends, digest = array("q", [0]), sha256()
    read = bare = longest = 0
    first_bare, had_reasoning = None, False
    with new.open("wb") as file:
        file.write(_MAGIC)
        for number, (example, reasoning) in enumerate(source.open()):
            read += 1
            had_reasoning = had_reasoning or reasoning
            if number % 5000 == 0:
                lock.touch()  # a sign of life
            if not source.keeps(example):
                continue
            if not example.steps:
                bare, first_bare = bare + 1, number if first_bare is None else first_bare
            longest = max(longest, example.bytes)
            told = json.dumps([example.question, list(example.steps), example.answer])
            digest.update(told.encode("ascii") + b"\n")
            row = f"[{number}, {told[1:-1]}, {json.dumps(dict(example.meta), default=str)}]\n".encode("ascii")
            ends.append(ends[-1] + file.write(row))
            if len(ends) - 1 == source.limit:
                break
        if not read:
            raise DataError(f"{source.name}: is empty; expected at least one row")
        if sys.byteorder == "big":
            ends.byteswap()
        ends.tofile(file)
        about = About(
            source=source.name, rows=len(ends) - 1, read=read, bare=bare, first_bare=first_bare, longest=longest,
            had_reasoning=had_reasoning, digest=digest.hexdigest()[:16],
        )  # fmt: skip
        tail = json.dumps(asdict(about)).encode("ascii")
        file.write(tail + len(tail).to_bytes(_NUMBER, "little"))


@dataclass(frozen=True)
class Part:
    """A file of rows.

    Attributes:
        path: the file.
        about: what it says of itself.
        begins: where the numbers in it begin, in bytes.
    """

    path: Path
    about: About
    begins: int

    @classmethod
    def of(cls, path: Path) -> Part:
        """Look at a file.

        Raises:
            DataError: it is damaged.
        """
        try:
            with path.open("rb") as file:
                magic, size = file.read(len(_MAGIC)), file.seek(-_NUMBER, os.SEEK_END)
                long = int.from_bytes(file.read(_NUMBER), "little")
                file.seek(size - long)
                about = About(**json.loads(file.read(long)))
                begins = size - long - _NUMBER * (about.rows + 1)
                file.seek(begins + _NUMBER * about.rows)
                last = int.from_bytes(file.read(_NUMBER), "little")
            if magic != _MAGIC or last + len(_MAGIC) != begins:
                raise ValueError("its length differs")
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(path, error) from None
        return cls(path, about, begins)

    def row(self, number: int) -> list[Any]:
        """[number in the source, question, steps, answer, meta].

        Raises:
            DataError: the file is damaged, or gone.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.begins + _NUMBER * number)
                at, end = struct.unpack("<qq", file.read(2 * _NUMBER))
                file.seek(len(_MAGIC) + at)
                row = json.loads(file.read(end - at))
            if not isinstance(row, list) or len(row) != 5:
                raise ValueError("a row is none")
            return row
        except (OSError, ValueError, struct.error) as error:
            raise _damaged(self.path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: is no whole file of rows ({error}); delete it, and the next start reads its source again")


class StoredExamples(LazyExamples):
    """Examples on the disk.

    Args:
        parts: files of rows.
        limit: the first so many rows only.
        split: the name that ids begin with.
    """

    def __init__(self, parts: Sequence[Part], limit: int | None = None, split: str = "train") -> None:
        self.parts, self.split = list(parts), split
        self._ends = list(accumulate(part.about.rows for part in self.parts))  # numbers of the rows behind each part
        self._read = [0, *accumulate(part.about.read for part in self.parts)]  # the same, with rows that are not kept
        self._count = self._ends[-1] if limit is None else min(limit, self._ends[-1])

    def __len__(self) -> int:
        return self._count

    def limited(self, limit: int | None) -> StoredExamples:
        """The first rows."""
        return StoredExamples(self.parts, limit, self.split)

    def at(self, place: int) -> Example:
        """See `LazyExamples.at`."""
        part = bisect_right(self._ends, place)
        number, question, steps, answer, meta = self.parts[part].row(place - (self._ends[part - 1] if part else 0))
        id = f"{self.split}-{self._read[part] + number}"
        return Example(question=question, steps=tuple(steps), answer=answer, id=id, meta=meta)

    @property
    def longest(self) -> int:
        """Bytes of the longest row, in UTF-8."""
        return max(part.about.longest for part in self.parts)

    @property
    def dropped(self) -> int:
        """How many rows were dropped because a held-out split has their question."""
        return sum(part.about.read - part.about.rows for part in self.parts)

    def fingerprints(self) -> dict[str, str]:
        """A hash of the rows of each source, by its name, in order."""
        return {part.about.source: part.about.digest for part in self.parts}

    def fingerprint(self) -> str:
        """16 hex digits that change when a row does, or the order of sources."""
        told = [len(self), [part.about.digest for part in self.parts]]
        return sha256(json.dumps(told).encode("ascii")).hexdigest()[:16]
