"""Read the rows of a split from a folder or the hub: files named after their split, `save_to_disk` folders, hub ids.

data/train.jsonl  data/test.csv.gz            a file each
data/train-00000-of-00002.parquet ...         shards, as repositories of the hub have them
MATH/train/algebra/1.json ...                 a folder each
state.json  or  dataset_dict.json             what `datasets` writes with save_to_disk
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unspoken.core.files import expanded
from unspoken.errors import DataError
from unspoken.tasks.base import Split
from unspoken.tasks.reading.layouts import SPLIT_NAMES, split_called
from unspoken.tasks.reading.readers import PACKED, SUFFIXES, Format, read_rows
from unspoken.tasks.reading.rows import RawRow

_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "package.json", "config.json")
_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9])(?::(?P<config>[\w.-]+))?")


def source_rows(place: str, split: Split, format: Format = "auto") -> tuple[Iterable[RawRow], str]:
    """The rows of a split from a file, a folder or the hub, and where they come from.

    Args:
        place: a path, or a name on the hub: "owner/name", or "owner/name:config".
        split: which split to take if there are several.
        format: of a file, see `readers.read_rows`.

    Raises:
        DataError: the place does not exist, or has nothing for this split.
    """
    if not place.strip():
        raise DataError(f"the place of the {split} rows is empty; give a file, a folder or a name on the hub")
    path = expanded(place)
    if path.is_dir():
        return folder_rows(path, split, format), place
    hub = hub_id(place)
    if hub is None:
        return read_rows(place, format, split), place
    name, config = hub
    try:
        return hub_rows(name, config, split)
    except ConnectionError as error:
        raise DataError(f"{place}: no such file (looked from {Path.cwd()}), and as a name on the hub it {error}") from None


def hub_id(place: str) -> tuple[str, str | None] | None:
    """(name, config) if a place is not an existing path but could be a name on the hub; else None."""
    match = _HUB_ID.fullmatch(place)
    if match is None or expanded(place).exists() or Path(place).suffix.lower() in (*SUFFIXES, *PACKED):
        return None
    return match["name"], match["config"]


def hub_rows(
    hub: str, config: str | None, split: Split, called: Mapping[Split, tuple[str, ...]] | None = None, *,
    streaming: bool = False,
) -> tuple[Iterable[RawRow], str]:  # fmt: skip
    """The rows of a split of a data set on the hub, and where they come from.

    Args:
        hub: its name; a folder with a copy of it is read too.
        config: its configuration, if it has several.
        split: the split.
        called: the hub's names of each split, if unusual; several are joined.
        streaming: read row by row over the network (an IterableDataset), instead of downloading the data set first.

    Raises:
        ConnectionError: it cannot be loaded; the message is a clause that says why.
        DataError: it has no such split.
    """
    folder = expanded(hub)
    if folder.is_dir():
        return folder_rows(folder, split, config=config, called=called, named=True), hub
    try:
        from datasets import load_dataset  # slow to import, and of no use with a folder

        how: dict[str, Any] = {"streaming": True} if streaming else {}
        splits: Any = load_dataset(hub, config, **how)
    except Exception as error:  # the hub's client raises dozens of kinds, from no network to no such name
        reason = (str(error).strip().split("\n")[0] or "no message")[:200]
        raise ConnectionError(f"could not be loaded ({type(error).__name__}: {reason})") from error
    names = _names(split, called, splits)
    if not names:
        raise DataError(f"hub {hub!r} has no {split} split; it has: {', '.join(splits)}")
    rows = ((f"{hub}/{name}: item {index}", row) for name in names for index, row in enumerate(splits[name]))
    return rows, f"{hub}/{'+'.join(names)}"


def _names(split: Split, called: Mapping[Split, tuple[str, ...]] | None, there: Iterable[str]) -> list[str]:
    known = list(there)
    if called is not None:
        return [name for name in called.get(split, ()) if name in known]
    return [name for name in SPLIT_NAMES[split] if name in known][:1]


def folder_rows(
    folder: Path, split: Split, format: Format = "auto", *, config: str | None = None,
    called: Mapping[Split, tuple[str, ...]] | None = None, named: bool = False,
) -> Iterable[RawRow]:  # fmt: skip
    """The rows of a split of a folder.

    Args:
        folder: with files, or written by `save_to_disk`.
        split: the split. If no name in the folder mentions splits, every file counts.
        format: of its files.
        config: a subfolder to use if it exists.
        called: see `hub_rows`.
        named: a file whose name mentions no split belongs to none, instead of to each.

    Raises:
        DataError: no file for this split, or files of several kinds.
    """
    if config is not None and (folder / config).is_dir():
        folder = folder / config
    if is_saved(folder):
        return saved_rows(folder, split, called, named)
    files = split_files(folder, split, called, named)
    return (row for file in files for row in read_rows(file, format, split))


def split_files(
    folder: Path, split: Split, called: Mapping[Split, tuple[str, ...]] | None = None, named: bool = False
) -> list[Path]:
    """The files of a split in a folder, in order. Raises DataError, see `folder_rows`."""
    every = sorted((file for file in folder.rglob("*") if _has_rows(file, folder)), key=_natural)
    if not every:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"{folder}: is a folder without a file of rows; expected files named after their split ({kinds})")
    words = called[split] if called is not None and split in called else SPLIT_NAMES[split]
    stated = {file: _split_word(file.relative_to(folder)) for file in every}
    mine = [file for file, word in stated.items() if word is not None and word in words]
    if not mine and not any(stated.values()) and not named:
        mine = every
    if not mine:
        some = ", ".join(str(file.relative_to(folder)) for file in every[:4]) + (", ..." if len(every) > 4 else "")
        raise DataError(f"{folder}: has no {split} file; it has: {some}; name the file itself")
    if len(kinds := sorted({suffix_of(file) for file in mine})) > 1:
        raise DataError(f"{folder}: has {split} files of several kinds ({', '.join(kinds)}); name the file that is meant")
    return mine


def has_splits(place: Path) -> bool:
    """Whether a folder or a JSON file has the rows of several splits."""
    if place.is_dir():
        if (place / "dataset_dict.json").is_file():
            return True
        words = {_split_word(file.relative_to(place)) for file in place.rglob("*") if _has_rows(file, place)}
        return len({split_called(word) for word in words if word}) > 1
    if suffix_of(place) != ".json" or place.suffix.lower() in PACKED:
        return False
    try:
        whole = json.loads(place.read_bytes())
    except (ValueError, RecursionError, OSError):
        return False
    return isinstance(whole, dict) and sum(split_called(key) is not None for key in whole) > 1


def _has_rows(file: Path, folder: Path) -> bool:
    inside = file.relative_to(folder)
    hidden = any(part.startswith((".", "_")) for part in inside.parts)
    return (
        not hidden
        and file.name not in _NOT_ROWS
        and suffix_of(file) in SUFFIXES
        and suffix_of(file) != ".txt"
        and file.is_file()
    )


def suffix_of(file: Path) -> str:
    """A file's suffix, or that inside of a packed one: `.jsonl` of `rows.jsonl.gz`."""
    bare = file.with_suffix("") if file.suffix.lower() in PACKED else file
    return bare.suffix.lower()


def _split_word(inside: Path) -> str | None:
    """The split named in a path: in the file's name, else in the nearest folder's."""
    for part in (inside.name.partition(".")[0], *reversed(inside.parts[:-1])):
        words = [word.lower() for word in re.split(r"[^A-Za-z]+", part) if split_called(word)]
        if words:
            return words[-1]
    return None


def _natural(file: Path) -> list[Any]:
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", str(file))]


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def saved_rows(
    folder: Path, split: Split, called: Mapping[Split, tuple[str, ...]] | None = None, named: bool = False
) -> Iterable[RawRow]:
    """The rows of a folder written by `save_to_disk`, which are mapped into memory; see `folder_rows`."""
    from datasets import load_from_disk

    try:
        saved: Any = load_from_disk(str(folder))
    except Exception as error:  # what a damaged folder raises depends on what is missing
        reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
        raise DataError(f"{folder}: is no whole folder of save_to_disk ({reason}); save it again") from None
    if not isinstance(saved, Mapping) and named:
        raise DataError(f"{folder}: is one data set without splits; task 'files' reads it: train={folder}")
    if not isinstance(saved, Mapping):
        return ((f"{folder}: row {index}", row) for index, row in enumerate(saved))
    names = _names(split, called, saved)
    if not names:
        raise DataError(f"{folder}: has no {split} split; it has: {', '.join(saved)}")
    return ((f"{folder}/{name}: row {index}", row) for name in names for index, row in enumerate(saved[name]))
