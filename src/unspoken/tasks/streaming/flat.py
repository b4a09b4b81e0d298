"""Read the rows of large files one by one: JSONL, also packed, Parquet and Arrow. Memory does not grow with the file."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from unspoken.errors import DataError
from unspoken.tasks.reading import tables
from unspoken.tasks.reading.folders import suffix_of
from unspoken.tasks.reading.readers import ROW_A_LINE, SUFFIXES, Format, opened, parse_value, refuse_foreign
from unspoken.tasks.reading.rows import RawRow

_UNPACK: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"]\x00\x00", lzma.open),
)
_BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


def flat_rows(path: Path, format: Format = "auto") -> Iterator[RawRow]:
    """The rows of one file, unchecked, each with its place.

    Args:
        path: the file.
        format: "auto" goes by what the file begins with, then by the suffix.

    Raises:
        DataError: the file cannot be read or parsed (names the line), or is of a kind that is only read whole.
    """
    with opened(path) as file:
        head = file.read(64)
    refuse_foreign(head, path)
    kind = SUFFIXES.get(suffix_of(path)) if format == "auto" else format
    if kind == "parquet" or (format == "auto" and head[:4] == b"PAR1"):
        return tables.parquet_rows(path)
    if kind == "arrow" or (format == "auto" and head[:6] == b"ARROW1"):
        return tables.arrow_rows(path)
    unpack = next((unpack for start, unpack in _UNPACK if head.startswith(start)), None)
    if kind != "jsonl" or head.startswith(b"PK\x03\x04"):
        raise DataError(
            f"{path}: is not read row by row; expected JSONL (also .gz, .bz2, .xz; whatever its name: task.format=jsonl), "
            "Parquet or Arrow; save its rows as one of these, or set task.stream=false to read it into memory"
        )
    return _lines(path, unpack)


def _lines(path: Path, unpack: Callable[[Any], Any] | None) -> Iterator[RawRow]:
    with opened(path) as file:
        for number, line in enumerate(_unpacked(path, file if unpack is None else unpack(file)), start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise DataError(f"{path}:{number}: is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None
            if number == 1 and text.startswith("version https://git-lfs"):
                raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` where it came from")
            if text.strip():
                yield f"{path}:{number}", parse_value(text.strip(), str(path), number, ROW_A_LINE)


def _unpacked(path: Path, file: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a file; what goes wrong while it is unpacked is said."""
    lines = iter(file)
    while True:
        try:
            line = next(lines, None)
        except _BROKEN as error:
            raise DataError(f"{path}: cannot be unpacked ({error}); is it complete?") from None
        if line is None:
            return
        yield line
