"""The sources of a split that is read row by row: files, the shards of a folder, or a data set on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from unspoken.core.files import expanded
from unspoken.errors import DataError
from unspoken.tasks.base import Split
from unspoken.tasks.reading.folders import hub_id, hub_rows, is_saved, saved_rows, split_files
from unspoken.tasks.reading.readers import Format, opened
from unspoken.tasks.reading.rows import RawRow
from unspoken.tasks.streaming.flat import flat_rows


@dataclass(frozen=True, kw_only=True)
class RawSource:
    """A source of unchecked rows.

    Attributes:
        name: for messages.
        stamp: changes whenever its rows may have: names, sizes and times of files.
        open: reads the rows.
    """

    name: str
    stamp: str
    open: Callable[[], Iterable[RawRow]]


def raw_sources(place: str, split: Split, format: Format = "auto") -> list[RawSource]:
    """The sources of a split, in order: one per file of a folder.

    Args:
        place: a path, or a name on the hub: "owner/name", or "owner/name:config".
        split: which split to take if there are several.
        format: of files.

    Raises:
        DataError: the place does not exist, or has nothing for this split.
    """
    path = expanded(place)
    if path.is_dir() and is_saved(path):
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [RawSource(name=place, stamp=_stamp(files) + split, open=lambda: saved_rows(path, split))]
    if path.is_dir():
        return [_file(file, format) for file in split_files(path, split)]
    hub = hub_id(place)
    if hub is None:
        return [_file(path, format)]
    return [RawSource(name=place, stamp=f"{place} {split}", open=lambda: _streamed(place, *hub, split))]


def _file(path: Path, format: Format) -> RawSource:
    with opened(path):  # it is there, and a regular file
        pass
    return RawSource(name=str(path), stamp=_stamp([path]), open=lambda: flat_rows(path, format))


def _stamp(files: Iterable[Path]) -> str:
    return repr([(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _streamed(place: str, name: str, config: str | None, split: Split) -> Iterable[RawRow]:
    """Rows of the hub, over the network."""
    try:
        yield from hub_rows(name, config, split, streaming=True)[0]
    except ConnectionError as error:
        raise DataError(f"{place}: no such file (looked from {Path.cwd()}), and as a name on the hub it {error}") from None
