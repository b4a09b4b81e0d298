"""Read the rows of one file, unchecked: JSON in several layouts, JSONL, CSV, iCoT text, Parquet and Arrow, also compressed.

Anything but a regular file (a pipe, a device) is refused before it is opened, because reading it might never end.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from unspoken.core.files import expanded, kind_of
from unspoken.errors import DataError
from unspoken.tasks.base import Split
from unspoken.tasks.reading import tables
from unspoken.tasks.reading.layouts import rows_of_object
from unspoken.tasks.reading.rows import Number, RawRow

Format = Literal["auto", "jsonl", "json", "txt", "csv", "tsv", "parquet", "arrow"]

SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".txt": "txt", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
ROW_A_LINE = "one object a line"
PACKED = (".gz", ".bz2", ".xz", ".lzma", ".zip", ".zst", ".lz4")

_UNPACK: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", gzip.decompress),
    (b"BZh", bz2.decompress),
    (b"\xfd7zXZ\x00", lzma.decompress),
    (b"]\x00\x00", lzma.decompress),
)
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "is packed with zstd; unpack it first: zstd -d FILE"),
    (b"\x04\x22\x4d\x18", "is packed with lz4; unpack it first: lz4 -d FILE"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (b"Rar!", "is a rar archive; unpack it first"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook; save the sheet as CSV"),
    (b"\x80\x02", "is a pickle, which can run code and is not read; save its rows as JSONL"),
    (b"\x80\x03", "is a pickle, which can run code and is not read; save its rows as JSONL"),
    (b"\x80\x04", "is a pickle, which can run code and is not read; save its rows as JSONL"),
    (b"\x80\x05", "is a pickle, which can run code and is not read; save its rows as JSONL"),
    (b"\x89HDF", "is an HDF5 file, which is not read; save its rows as JSONL, CSV or Parquet"),
    (b"SQLite format 3", "is a database, which is not read; save its rows as JSONL, CSV or Parquet"),
    (b"\x93NUMPY", "is an array of numpy, which is not read; save its rows as JSONL, CSV or Parquet"),
    (b"%PDF", "is a PDF, which is not read; save its rows as JSONL or CSV"),
)


def read_rows(path: str | Path, format: Format = "auto", split: Split | None = None) -> Iterator[RawRow]:
    """The rows of one file, unchecked, each with its place. For tasks whose rows have their own fields.

    Args:
        path: the file.
        format: "auto" looks at the first bytes (Parquet, Arrow, compression), then at the suffix.
        split: which split to take from a JSON object with several.

    Raises:
        DataError: the file cannot be read or parsed.
    """
    data, name = _unpacked(read_bytes(path), path)
    if format == "parquet" or (format == "auto" and data[:4] == b"PAR1"):
        return tables.parquet_rows(path, data)
    suffix = SUFFIXES.get(Path(name).suffix.lower())
    if format == "arrow" or (
        format == "auto" and (data[:6] == b"ARROW1" or (suffix == "arrow" and data[:4] == b"\xff" * 4))
    ):
        return tables.arrow_rows(path, data)
    if data[257:262] == b"ustar":
        raise DataError(f"{path}: is a tar archive; unpack it and give a file or the folder")
    text = decoded(data, path)
    kind = _format_of(suffix, text) if format == "auto" else format
    if format == "auto" and kind == "txt" and suffix != "txt" and "||" not in text:
        known = ", ".join(SUFFIXES)
        raise DataError(f"{path}: neither its name nor its content says what it is; read are {known}, or set task.format")
    if kind == "jsonl":
        return _rows_jsonl(str(path), text)
    if kind == "json":
        return _rows_json(str(path), text, split)
    if kind in ("csv", "tsv"):
        return tables.csv_rows(path, text, "\t" if kind == "tsv" else None)
    return _rows_txt(str(path), text)


def listed_rows(path: str | Path, field: str = "examples") -> Iterator[RawRow]:
    """The unchecked rows of a file that is one JSON object with a list of rows, like BIG-bench's task files.

    Raises:
        DataError: the file cannot be read or parsed, or has no such list.
    """
    whole = parse_value(read_text(path), str(path), 1, f"one object with a list '{field}'")
    rows = whole.get(field) if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path}:1: must be an object with a list '{field}', got {type(whole).__name__}")
    return ((f"{path}: item {index}", row) for index, row in enumerate(rows))


def read_text(path: str | Path) -> str:
    """Read a UTF-8 file. Raises DataError if it is missing, a folder, empty, or a Git LFS pointer."""
    return decoded(_unpacked(read_bytes(path), path)[0], path)


def read_bytes(path: str | Path) -> bytes:
    """Read a regular file. Raises DataError for anything else (a pipe or a device might never end), or if it cannot be
    read."""
    with opened(path) as file:
        return file.read()


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises DataError, also for what goes wrong while it is read; see `read_bytes`."""
    place = expanded(path)
    try:
        kind = place.stat().st_mode
        if stat.S_ISDIR(kind):
            raise DataError(f"{path}: is a folder; give a file")
        if not stat.S_ISREG(kind):
            raise DataError(f"{path}: is {kind_of(kind)}, no regular file; save its rows to a file first")
        with place.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; looked from {Path.cwd()}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def refuse_foreign(data: bytes, path: str | Path) -> None:
    """Raise DataError if a file, by its first bytes, is of a kind that is not read."""
    for start, what in _FOREIGN:
        if data.startswith(start):
            raise DataError(f"{path}: {what}")


def _unpacked(data: bytes, path: str | Path) -> tuple[bytes, str]:
    """Decompress a file; returns its content and its name without the suffix."""
    name = Path(path).name
    refuse_foreign(data, path)
    unpack = next((unpack for start, unpack in _UNPACK if data.startswith(start)), None)
    try:
        if unpack is not None:
            return unpack(data), Path(name).stem if Path(name).suffix.lower() in PACKED else name
        if data.startswith(b"PK\x03\x04"):
            return _only_member(data, path)
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); is it complete?") from None
    return data, name


def _only_member(data: bytes, path: str | Path) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir() and "__MACOSX" not in info.filename]
        if "[Content_Types].xml" in names:
            raise DataError(f"{path}: is an Excel workbook or another office file; save the sheet as CSV")
        if len(names) != 1:
            raise DataError(f"{path}: is an archive of {len(names)} files; unpack it and give a file or the folder")
        return archive.read(names[0]), names[0]


def decoded(data: bytes, path: str | Path) -> str:
    """Decode UTF-8. Raises DataError that says what is wrong."""
    try:
        text = data.decode("utf-8-sig")  # accepts a byte order mark, and none
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise DataError(f"{path}:{line}: is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None
    if not text.strip():
        raise empty(path)
    if text.startswith("version https://git-lfs"):
        raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` where it came from")
    return text


def empty(path: object) -> DataError:
    """The error about a file without rows."""
    return DataError(f"{path}: is empty; expected at least one row")


def _format_of(suffix: Format | None, text: str) -> Format:
    first = text.lstrip()[:1]
    if suffix == "jsonl" and text.lstrip().partition("\n")[0].strip() in ("[", "{", "[{"):
        return "json"  # one value over several lines, whatever the name says
    if suffix in ("jsonl", "txt", "csv", "tsv"):
        return suffix
    if first == "[":
        return "json"
    if first == "{":
        return "jsonl" if _one_a_line(text) else "json"
    return "json" if suffix == "json" else "txt"


def _one_a_line(text: str) -> bool:
    """Whether a text is one JSON object per line: its first line is a complete object, and more lines follow."""
    first, _, rest = text.strip().partition("\n")
    try:
        json.loads(first)
    except RecursionError:
        return False
    except ValueError:
        return rest.lstrip()[:1] == "{"
    return bool(rest.strip())


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not `splitlines`: GSM8K-Aug has rows with U+2028 inside.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def parse_value(text: str, path: str, first_line: int, expected: str) -> Any:
    """A JSON value that begins at a line of a file. Raises DataError with the line of the fault, and what was expected."""
    try:
        return json.loads(text, parse_float=Number)
    except (ValueError, RecursionError) as error:  # Recursion: brackets nested very deep
        line = first_line + getattr(error, "lineno", 1) - 1
        problem = str(error).split(": line ")[0].split("; use sys.set_int_max")[0]
        raise DataError(f"{path}:{line}: invalid JSON ({problem}); expected {expected}") from None


def _rows_jsonl(path: str, text: str) -> Iterator[RawRow]:
    for number, line in _lines(text):
        yield f"{path}:{number}", parse_value(line, path, number, ROW_A_LINE)


def _rows_json(path: str, text: str, split: Split | None) -> Iterator[RawRow]:
    rows = parse_value(text, path, 1, "a list of rows, or one object")
    if isinstance(rows, Mapping):
        whole, rows = rows, rows_of_object(rows, path, split)
        if len(rows) == 1 and rows[0] is whole:
            return iter([(f"{path}:1", whole)])
    if not isinstance(rows, list):
        raise DataError(f"{path}:1: must be a list of rows, got {type(rows).__name__}; for one object a line: format=jsonl")
    return ((f"{path}: item {index}", row) for index, row in enumerate(rows))


def _rows_txt(path: str, text: str) -> Iterator[RawRow]:
    for number, line in _lines(text):
        where = f"{path}:{number}"
        question, bars, rest = line.partition("||")
        if not bars:
            raise DataError(f"{where}: no '||' after the field 'question'; expected question||steps #### answer")
        steps, mark, answer = rest.rpartition("####")
        if not mark:
            raise DataError(f"{where}: no '####' before the field 'answer'; expected question||steps #### answer")
        yield where, {"question": question, "cot": steps, "answer": answer}
