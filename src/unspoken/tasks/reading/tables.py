"""Rows of tables: CSV and TSV, Parquet and Arrow files. Heavy libraries are imported where they are used."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unspoken.core.files import expanded
from unspoken.errors import DataError
from unspoken.tasks.reading.rows import RawRow

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_NESTED = ("[", "{")
_PIECE = 4096
"""Rows of a Parquet file at a time."""
_EXCEL_CUT = re.compile(r"sep=(?P<cut>[,;\t|])\r?\n", re.IGNORECASE)
"""Excel's first line that declares the delimiter."""


def csv_rows(path: str | Path, text: str, delimiter: str | None = None) -> Iterator[RawRow]:
    """Rows of a table with a heading. Values are text, lists and objects in cells are parsed, and "" is a missing value.

    Args:
        path: the file, for messages.
        text: its content.
        delimiter: None = the most frequent one in the heading: comma, semicolon, tab or bar.

    Raises:
        DataError: a row has more cells than the heading, or a quoted cell is not closed.
    """
    if (told := _EXCEL_CUT.match(text)) is not None:
        text, delimiter = text[told.end() :], delimiter or told["cut"]
    heading = text.lstrip().partition("\n")[0]
    cut = delimiter or max(",;\t|", key=heading.count)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # traces of thoughts are longer than the usual 131,072 characters
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=cut, skipinitialspace=True, strict=True)
    try:
        yield from _csv_rows(path, reader)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is no table ({error}); quote cells with commas or line ends") from None


def _csv_rows(path: str | Path, reader: csv.DictReader[str]) -> Iterator[RawRow]:
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}:1: the heading has {twice[0]!r} more than once; rename one of the columns")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row:
            got = len(names) + len(row[None])
            raise DataError(f"{where}: has {got} cells, the heading {len(names)}; quote cells that have commas in them")
        if any(value for value in row.values()):
            yield where, {name: _cell(value) for name, value in row.items() if value not in (None, "")}


def _cell(value: str) -> Any:
    """The value of a cell, parsed if it is JSON or a printed Python list."""
    if not value.startswith(_NESTED):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, (list, dict)):
            return found
    return value


def parquet_rows(path: str | Path, data: bytes | None = None) -> Iterator[RawRow]:
    """Rows of a Parquet file. Raises DataError if it is damaged.

    Args:
        path: the file.
        data: its content; None = it is read piece by piece.
    """
    from pyarrow import ArrowException, BufferReader
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(expanded(path) if data is None else BufferReader(data))
        return _numbered(path, file.iter_batches(batch_size=_PIECE))
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: is no whole Parquet file ({_line(error)}); get it again") from None


def arrow_rows(path: str | Path, data: bytes | None = None) -> Iterator[RawRow]:
    """Rows of an Arrow file, as written by `save_to_disk` and Feather; see `parquet_rows`."""
    from pyarrow import ArrowException, BufferReader, ipc, memory_map

    try:
        source = memory_map(str(expanded(path))) if data is None else BufferReader(data)
        whole = source.read(6) == b"ARROW1"
        source.seek(0)
        if whole:
            file = ipc.open_file(source)
            return _numbered(path, (file.get_batch(number) for number in range(file.num_record_batches)))
        return _numbered(path, ipc.open_stream(source))
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: is no whole Arrow file ({_line(error)}); get it again") from None


def _numbered(path: str | Path, batches: Iterable[RecordBatch]) -> Iterator[RawRow]:
    from pyarrow import ArrowException

    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                yield f"{path}: row {number}", row
                number += 1
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: row {number}: cannot be read ({_line(error)}); get the file again") from None


def _line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
