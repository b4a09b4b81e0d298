"""Token ids of texts, made once and read through a memory map.

    FOLDER/<hash of the tokenizer>/<random name>.ids     sorted hashes of texts, where each one's ids end, and all ids

A corpus is tokenized again in every epoch and by every process of a machine. As Python objects, ids take a hundred times
their four bytes; here they are read from shared files, a slice at a time. A file is written under a temporary name,
renamed, and never changed; several processes may write at the same time.

Shapes: n texts of a file, m ids of all of them.
"""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from unspoken.core.files import expanded, homeless, sweep, write_file
from unspoken.errors import RunError

LEAST, MOST = 2**14, 2**18
"""Fewest and most texts per file. Fewer stay in memory; once there are more, a file is written."""

_MAGIC = b"unspoken ids 2\n"


@dataclass(frozen=True)
class _Part:
    """A memory-mapped file."""

    first_n: np.ndarray  # uint64, sorted: half of each text's hash
    second_n: np.ndarray  # the other half
    ends_n: np.ndarray  # int64
    ids_m: np.ndarray  # int32

    def find(self, first: int, second: int) -> np.ndarray | None:
        """The ids of a text, by its hash."""
        at = int(np.searchsorted(self.first_n, np.uint64(first)))
        while at < len(self.first_n) and self.first_n[at] == first:
            if self.second_n[at] == second:
                return self.ids_m[self.ends_n[at - 1] if at else 0 : self.ends_n[at]]
            at += 1
        return None


class Encodings:
    """Token ids by text.

    Args:
        folder: where the files of all tokenizers are; "~" is the user's home.
        tokenizer: a fast tokenizer of transformers; each has files of its own.
        writes: write files; one process of those that tokenize the same texts is enough.
    """

    def __init__(self, folder: str | Path, tokenizer: PreTrainedTokenizerFast, *, writes: bool = True) -> None:
        folder = expanded(folder)
        self.folder = folder / tokenizer_hash(tokenizer)
        self._parts: list[_Part] = []
        self._read: set[str] = set()
        self._waiting: dict[bytes, bytes] = {}
        self._writes = writes and not homeless(folder)
        self._look()

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(part.ends_n) for part in self._parts)

    @property
    def mapped(self) -> int:
        """Number of texts in files."""
        return len(self) - len(self._waiting)

    def find(self, text: str, special: bool) -> tuple[int, ...] | None:
        """The ids of a text; None if unknown."""
        digest = _digest(text, special)
        if (waiting := self._waiting.get(digest)) is not None:
            return tuple(np.frombuffer(waiting, dtype=np.int32).tolist())
        return None if (ids := self._mapped(digest)) is None else tuple(ids.tolist())

    def _mapped(self, digest: bytes) -> np.ndarray | None:
        """The ids of a text from the files."""
        first, second = struct.unpack("<QQ", digest)
        found = (part.find(first, second) for part in reversed(self._parts))  # the largest are the youngest
        return next((ids for ids in found if ids is not None), None)

    def put(self, text: str, special: bool, ids: tuple[int, ...]) -> None:
        """Add the ids of a text. If the folder cannot be written, they stay in memory."""
        self._waiting[_digest(text, special)] = np.array(ids, dtype=np.int32).tobytes()
        if len(self._waiting) >= min(max(LEAST, self.mapped), MOST):  # few files, however large the corpus is
            self.flush()

    def flush(self) -> None:
        """Write new ids if they are enough for a file, and open files of other processes."""
        if len(self._waiting) < LEAST:
            return
        self._look()
        self._waiting = {digest: ids for digest, ids in self._waiting.items() if self._mapped(digest) is None}
        if len(self._waiting) < LEAST or not self._writes:
            return
        try:
            _write(self.folder, self._waiting)
        except RunError:  # the folder cannot be written: what waits stays in memory
            self._writes = False
            return
        self._waiting = {}
        self._look()

    def _look(self) -> None:
        """Map new files; damaged ones are ignored."""
        for path in sorted(self.folder.glob("*.ids")):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            try:
                self._parts.append(_open(path))
            except (OSError, ValueError, KeyError, TypeError):
                continue


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """32 hex digits of a hash of everything that determines a fast tokenizer's output."""
    return hashlib.blake2b(tokenizer.backend_tokenizer.to_str().encode(), digest_size=16).hexdigest()


def _digest(text: str, special: bool) -> bytes:
    kind = b"special" if special else b""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=kind).digest()


def _write(folder: Path, waiting: dict[bytes, bytes]) -> None:
    """Ids of texts as one file."""
    pairs = sorted((struct.unpack("<QQ", digest), ids) for digest, ids in waiting.items())
    columns = {
        "first": np.array([first for (first, _), _ in pairs], dtype="<u8"),
        "second": np.array([second for (_, second), _ in pairs], dtype="<u8"),
        "ends": np.cumsum([len(ids) // 4 for _, ids in pairs], dtype="<i8"),
        "ids": np.frombuffer(b"".join(ids for _, ids in pairs), dtype="<i4"),
    }
    sizes = {name: len(column) for name, column in columns.items()}
    sum_ = hashlib.blake2b(digest_size=16)
    for column in columns.values():
        sum_.update(column.tobytes())
    header = json.dumps({**sizes, "blake2b": sum_.hexdigest()}).encode() + b"\n"
    header = header.rjust(-(-(len(header) + len(_MAGIC)) // 8) * 8 - len(_MAGIC))  # columns begin at a multiple of 8

    def write(new: Path) -> None:
        with new.open("wb") as file:
            file.write(_MAGIC + header)
            for column in columns.values():
                file.write(column.tobytes())

    sweep(folder)
    write_file(folder / f"{uuid.uuid4().hex}.ids", write)


def _open(path: Path) -> _Part:
    """Map a file.

    Raises:
        ValueError: not a file of this format, truncated, or damaged.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not a file of ids")
        sizes, at = json.loads(file.readline()), file.tell()
    columns, seen = [], hashlib.blake2b(digest_size=16)
    for name, kind in (("first", "<u8"), ("second", "<u8"), ("ends", "<i8"), ("ids", "<i4")):
        column = np.memmap(path, dtype=kind, mode="r", offset=at, shape=(int(sizes[name]),))
        columns.append(column.view(np.ndarray))  # slices of a memmap are slow to make
        at += column.nbytes
        seen.update(column.data)
    if len({len(column) for column in columns[:3]}) != 1 or int(columns[2][-1]) != len(columns[3]):
        raise ValueError("its columns do not fit each other")
    if seen.hexdigest() != sizes["blake2b"]:
        raise ValueError("its checksum differs")
    return _Part(*columns)
