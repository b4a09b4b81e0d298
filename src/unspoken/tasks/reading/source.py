"""Sources of rows, and splits: the common part of all tasks that read published data sets.

`DataSource` finds a split's file in a folder (a config's `root`, or a subfolder of UNSPOKEN_DATA), or else loads it from
the hub; the settings are in `DataSetConfig`. `Splits` reads each split once, applies its limit, removes rows that are in a
held-out split, and lists the existing splits when a missing one is requested. `SplitTask` is a task made of these.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from unspoken.core.config import config_class
from unspoken.core.files import expanded
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import SPLITS, Score, ScoringRule, Split, fingerprint_examples
from unspoken.tasks.reading.folders import folder_rows, hub_rows
from unspoken.tasks.reading.readers import read_rows
from unspoken.tasks.reading.rows import RawRow, carve, check_split, converted_examples, question_key
from unspoken.tasks.reading.segment import StepRule

DATA_VARIABLE = "UNSPOKEN_DATA"

_HELD_OUT: Mapping[Split, tuple[Split, ...]] = {"train": ("validation", "test"), "validation": ("test",), "test": ()}
C = TypeVar("C")
Convert = Callable[[Mapping[str, object], str], Mapping[str, object]]
"""(a row of the data set, its place) -> a row with `question`, `answer`, possibly `steps`, and other fields."""


@config_class
class EvaluationSetConfig:
    """Settings of every data set; enough for one that has only a test split.

    Attributes:
        root: a folder with its files; None for UNSPOKEN_DATA/<name> or, if the task has one, the hub.
        limit_test: use the first rows of the split only.
    """

    name: str
    root: str | None = None
    limit_test: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@config_class
class DataSetConfig(EvaluationSetConfig):
    """Settings of a data set with several splits.

    Attributes:
        limit_train, limit_validation: use the first rows of the split only.
    """

    limit_train: int | None = None
    limit_validation: int | None = None


def check_ranges(config: object) -> None:
    """Raise ConfigError if a limit is below 1, or a share of train is not in [0, 1)."""
    for name in ("limit", *(f"limit_{split}" for split in SPLITS)):
        value = getattr(config, name, None)
        if value is not None and value < 1:
            raise ConfigError(f"field '{name}' must be 1 or more, or null for all rows, got {value}")
    for name in ("validation_fraction", "test_fraction"):
        if not 0 <= (fraction := getattr(config, name, 0.0)) < 1:
            raise ConfigError(f"field '{name}' must be at least 0 and below 1, got {fraction}")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Files of a folder, or a data set on the hub.

    Attributes:
        task: the task's name, for messages.
        files: names (glob patterns) of each split's file, preferred first.
        root: the folder; None to look for a subfolder of UNSPOKEN_DATA.
        folders: the subfolders to look for, preferred first; None for one of the task's name.
        hub: a data set on the hub, or a folder with a copy of one, used when there is no folder; None to never ask the
            network.
        hub_config: its configuration, if it has several.
        hub_splits: the hub's names of each split, if unusual; several are joined, as far as they exist.
        instead: an alternative to mention if there are no data.
    """

    task: str
    files: Mapping[Split, tuple[str, ...]]
    root: str | None = None
    folders: tuple[str, ...] | None = None
    hub: str | None = None
    hub_config: str | None = None
    hub_splits: Mapping[Split, tuple[str, ...]] | None = None
    instead: str = "set hub=NAME to a data set that can be loaded"

    @classmethod
    def of(cls, config: EvaluationSetConfig, files: Mapping[Split, tuple[str, ...]], **more: Any) -> DataSource:
        """A source from a task's config: its `root`, `hub` and `hub_config`, unless given in `more`."""
        said: dict[str, Any] = {name: getattr(config, name, None) for name in ("hub", "hub_config")} | more
        return cls(task=config.name, files=files, root=config.root, **said)

    def folder(self) -> Path | None:
        """The folder to read, or None if there is none and the hub is used. A missing `root` is an error."""
        if self.root is not None:
            root = expanded(self.root)
            if not root.is_dir():
                problem = "is no folder; give the folder it is in" if root.exists() else "no such folder"
                raise DataError(f"{root}: {problem} (root of task {self.task!r})")
            return root
        variable = os.environ.get(DATA_VARIABLE)
        places = [expanded(variable) / name for name in self.folders or (self.task,)] if variable else []
        return next((place for place in places if place.is_dir()), None)

    def find(self, split: Split) -> Path | None:
        """The file of a split, or None if folder or file is missing."""
        folder = self.folder()
        if folder is None:
            return None
        return next((path for name in self.files.get(split, ()) for path in sorted(folder.glob(name))), None)

    def path(self, split: Split) -> Path:
        """The file of a split.

        Raises:
            DataError: the folder or the file is missing.
        """
        folder, found = self.folder(), self.find(split)
        if folder is None:
            raise self.no_data("root is not set")
        if found is None:
            names = " or ".join(self.files[split])
            raise DataError(f"{folder}: no {split} file for task {self.task!r}; expected {names}")
        return found

    def rows(self, split: Split) -> tuple[Iterable[RawRow], str]:
        """The rows of a split from its file or the hub, and where they come from."""
        folder = self.folder()
        if folder is None:
            return self.hub_rows(split)
        if self.hub is not None and self.find(split) is None:
            return self._copied_rows(folder, split)
        path = self.path(split)
        return read_rows(path, split=split), str(path)

    def _copied_rows(self, folder: Path, split: Split) -> tuple[Iterable[RawRow], str]:
        """The rows of a folder that is a copy of the hub's data set, or was written by `save_to_disk`."""
        try:
            return folder_rows(folder, split, config=self.hub_config, called=self.hub_splits, named=True), str(folder)
        except DataError as error:
            names = " or ".join(self.files[split])
            reason = str(error).removeprefix(f"{folder}: ")
            copies = f"or a copy of the hub's {self.hub}, whose files are named after their split ({reason})"
            raise DataError(f"{folder}: no {split} file for task {self.task!r}; expected {names}, {copies}") from None

    def examples(self, split: Split, convert: Convert, steps: StepRule = "lines") -> list[Example]:
        """The examples of a split; `convert` brings each row into the form of the task `files`."""
        rows, where = self.rows(split)
        return converted(rows, convert, split, where, steps)

    def hub_rows(self, split: Split) -> tuple[Iterable[RawRow], str]:
        """The rows of a split of the data set on the hub."""
        if self.hub is None:
            raise self.no_data("root and hub are not set" if self.files else "its hub is not set")
        try:
            return hub_rows(self.hub, self.hub_config, split, self.hub_splits)
        except ConnectionError as error:
            problem = f"hub {self.hub!r} {error}"
            raise self.no_data(f"root is not set, and {problem}" if self.files else problem) from error
        except DataError as error:
            raise DataError(f"{error}; {self._ways()}") from None

    def no_data(self, problem: str) -> DataError:
        """An error that says what was looked for, and every way to provide it."""
        return DataError(f"task {self.task!r} has no data: {problem}; {self._ways()}")

    def _ways(self) -> str:
        if not self.files:
            return self.instead
        files = "; ".join(f"{split}: {' or '.join(names)}" for split, names in self.files.items())
        subfolders = " or ".join(self.folders or (self.task,))
        ways = f"set root=FOLDER (or {DATA_VARIABLE}=FOLDER, with a subfolder {subfolders}) to a folder with {files}"
        return f"either {ways}; or {self.instead}"


def converted(
    rows: Iterable[RawRow], convert: Convert, split: Split, where: str, steps: StepRule = "lines"
) -> list[Example]:
    """Examples from rows with their own fields. Rows that are not objects are an error."""

    def each() -> Iterable[RawRow]:
        for place, row in rows:
            if not isinstance(row, Mapping):
                raise DataError(f"{place}: a row must be an object, got {type(row).__name__}")
            yield place, convert(row, place)

    return converted_examples(each(), split=split, steps=steps, source=where)


@dataclass(kw_only=True)
class Splits:
    """The splits of one task: each read once, in a fixed order, and no question in two of them.

    Attributes:
        config: the task's config, with `name` and optionally `limit_train`, `limit_validation`, `limit_test`.
        read: reads all of a split.
        there: the existing splits.
        absent: for a missing split, why it is missing and what to try; used in the error.
        carved: train and validation are parts of one file, so they are disjoint and need not be compared.
        key: the key by which questions are compared.
        dropped: for each split read so far, how many rows were dropped because a held-out split has their question.
        raw: for each split read so far, all its rows, including dropped ones.
    """

    config: Any
    read: Callable[[Split], list[Example]]
    there: tuple[Split, ...] = SPLITS
    absent: Mapping[Split, str] = field(default_factory=dict)
    carved: bool = False
    key: Callable[[Example], str] = lambda example: question_key(example.question)
    dropped: dict[Split, int] = field(default_factory=dict)
    raw: dict[Split, list[Example]] = field(default_factory=dict)
    _cache: dict[Split, list[Example]] = field(default_factory=dict)

    def examples(self, split: Split) -> list[Example]:
        """The split without rows that are in a held-out split, up to its limit. Returns a new list."""
        check_split(split)
        rows = self._whole(split)
        if not rows and self.raw[split]:
            others = " or ".join(other for other in _HELD_OUT[split] if other in self.there)
            raise DataError(
                f"task {self.config.name!r}: all {len(self.raw[split])} {split} rows are dropped, because {others} has "
                f"their questions, and splits share none; give other {split} rows"
            )
        return rows[: getattr(self.config, f"limit_{split}", None)]

    def _whole(self, split: Split) -> list[Example]:
        if split not in self.there:
            known = ", ".join(self.there)
            reason = self.absent.get(split, "it is not part of the data set")
            raise DataError(f"task {self.config.name!r} has no {split} split; it has: {known}; {reason}")
        if split not in self._cache:
            taken = self.held_out(split)
            rows = self.raw[split] = self.read(split)
            kept = [example for example in rows if self.key(example) not in taken]
            self.dropped[split] = len(rows) - len(kept)
            self._cache[split] = kept
        return self._cache[split]

    def held_out(self, split: Split) -> set[str]:
        """The keys of the questions that a split must not have."""
        others = _HELD_OUT["validation" if self.carved and split == "train" else split]
        return {self.key(example) for other in others if other in self.there for example in self._whole(other)}


def only_test(config: EvaluationSetConfig, read: Callable[[Split], list[Example]], advice: str) -> Splits:
    """Splits of a data set with only a test split; `advice` says what to train on instead."""
    return Splits(config=config, read=read, there=("test",), absent=dict.fromkeys(SPLITS, advice))


def carved(
    config: DataSetConfig,
    read: Callable[[Split], list[Example]],
    advice: str,
    *,
    key: Callable[[Example], str] = lambda example: question_key(example.question),
) -> Splits:
    """Splits of a data set with train and test, where the share `validation_fraction` of train is used as validation.

    Args:
        config: the task's config, with `validation_fraction`.
        read: reads "train" and "test".
        advice: for the error if validation is requested and the share is 0.
        key: what makes two questions the same.
    """
    fraction: float = getattr(config, "validation_fraction")  # noqa: B009

    def either(split: Split) -> list[Example]:
        return read("test") if split == "test" else carve(read("train"), fraction, split)

    there = SPLITS if fraction else ("train", "test")
    return Splits(config=config, read=either, there=there, absent={"validation": advice}, carved=True, key=key)


class SplitTask(Generic[C]):
    """A task made of splits and one scoring rule. Subclasses say where rows come from.

    `class Aqua(SplitTask[AquaConfig])` takes its name and its `Config` from the class in brackets.

    Attributes:
        config: the task's config.
    """

    name: ClassVar[str]
    Config: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in vars(cls).get("__orig_bases__", ()):
            if get_origin(base) is SplitTask:
                (cls.Config,) = get_args(base)
                cls.name = cls.Config.name

    def __init__(self, splits: Splits, rule: ScoringRule) -> None:
        self.config: C = splits.config
        self._splits = splits
        self._rule = rule

    def __repr__(self) -> str:
        return f"<task {self.name}: {self.config}>"

    @property
    def there(self) -> tuple[Split, ...]:
        """The existing splits."""
        return self._splits.there

    @property
    def dropped(self) -> dict[Split, int]:
        """For each split read so far, how many rows were dropped because a held-out split has their question."""
        return self._splits.dropped

    def examples(self, split: Split) -> Sequence[Example]:
        """The split in file order or as generated, without rows that are in a held-out split, up to its limit."""
        return self._splits.examples(split)

    def score(self, example: Example, text: str) -> Score:
        """By the task's rule, see `Task.score`."""
        return self._rule(example, text)

    def fingerprint(self, split: Split) -> str:
        """16 hex digits that change when an example of the split does."""
        return fingerprint_examples(self.examples(split))
