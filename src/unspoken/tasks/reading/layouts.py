"""Find the rows in one JSON object: under a split, in its only list, in columns, or the object is itself the row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unspoken.errors import DataError
from unspoken.tasks.base import Split

SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of files, folders and fields for each split."""

_PARTS = ("messages", "conversations", "choices", "options", "generations", "steps", "context", "supporting_facts")
_ASKS = ("question", "problem", "instruction", "prompt", "query", "input", "messages", "conversations")


def split_called(name: str) -> Split | None:
    """The split that a name means, or None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def rows_of_object(whole: Mapping[str, object], path: str, split: Split | None) -> list[Any]:
    """The rows of a JSON object.

    Args:
        whole: {"train": [...], "test": [...]}; {"data": [...]}; {"question": [...], "answer": [...]}; {"0": {...}}; a row.
        path: the file, for messages.
        split: which of several splits; None takes the only one.

    Raises:
        DataError: it has other splits, or several lists.
    """
    splits = {
        kind: (key, value)
        for key, value in whole.items()
        if isinstance(value, (list, Mapping)) and (kind := split_called(key))
    }
    if splits and not any(key in whole for key in _ASKS):
        if split is None or split not in splits:
            raise DataError(
                f"{path}: has no {split or 'named'} rows; it has: {', '.join(name for name, _ in splits.values())}"
            )
        name, rows = splits[split]
        return rows if isinstance(rows, list) else rows_of_object(rows, f"{path}: {name}", split)
    values = list(whole.values())
    lists = {key: value for key, value in whole.items() if isinstance(value, list)}
    if lists and len(lists) == len(values) > 1 and any(key in whole for key in _ASKS):
        lengths = {key: len(value) for key, value in lists.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key}: {length}" for key, length in lengths.items())
            raise DataError(f"{path}: is an object of columns that differ in length ({told}); each needs a value per row")
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    inner = {key: value for key, value in whole.items() if isinstance(value, Mapping)}
    if inner and len(inner) == len(values):
        return _of_objects(inner)
    if any(key in whole for key in _ASKS) and not all(isinstance(whole.get(key), list) for key in _ASKS if key in whole):
        return [whole]
    objects = [key for key, value in lists.items() if key not in _PARTS and value and isinstance(value[0], (Mapping, list))]
    if len(objects) == 1:
        rows = lists[objects[0]]
        paged = [row.get("row") if isinstance(row, Mapping) else None for row in rows]  # as the hub's server does
        return paged if all(isinstance(row, Mapping) for row in paged) else rows
    if len(objects) > 1:
        raise DataError(f"{path}: has several lists ({', '.join(objects)}); save the one that is meant as a file of its own")
    return [whole]


def _of_objects(whole: Mapping[str, Mapping[str, object]]) -> list[Any]:
    """{"question": {"0": ...}, "answer": {"0": ...}}, as pandas writes a table, or rows by their ids."""
    values = list(whole.values())
    if any(key in whole for key in _ASKS) and all(list(value) == list(values[0]) for value in values):
        return [{key: column[index] for key, column in whole.items()} for index in values[0]]
    return values
