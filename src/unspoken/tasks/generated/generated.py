"""Common code of generated tasks: splits that are disjoint by a hash of the problem, without duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from hashlib import sha256
from typing import TypedDict

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.tasks.base import SPLITS, Split
from unspoken.tasks.reading.rows import RawRow, examples_of
from unspoken.tasks.reading.source import DataSetConfig


class Problem(TypedDict):
    """A generated row."""

    question: str
    steps: list[str]
    answer: str


_PATIENCE = 5_000  # a split holds a tenth of all problems at least, so this many draws in vain mean that few are left


@config_class
class GeneratedConfig(DataSetConfig):
    """Common settings of generated data sets.

    Attributes:
        train_size, validation_size, test_size: rows of each generated split.
        seed: another seed generates other rows.
    """

    train_size: int
    validation_size: int
    test_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in SPLITS:
            if (size := getattr(self, f"{split}_size")) < 1:
                raise ConfigError(f"{self.name}: {split}_size must be 1 or more, got {size}")


def side_of(key: str) -> Split:
    """The split that a generated problem belongs to: 80 % train, 10 % validation, 10 % test, for every seed."""
    bucket = int.from_bytes(sha256(key.encode()).digest()[:8], "big") % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def take(
    problems: Iterator[Problem],
    count: int,
    *,
    task: str,
    split: Split,
    key: Callable[[str], str],
    taken: Set[str] = frozenset(),
) -> list[RawRow]:
    """The first `count` different problems of a split that are not in `taken`, each with its place.

    Args:
        problems: an endless stream of rows with a `question`.
        count: how many.
        task: the task's name, for messages.
        split: the split to fill.
        key: what makes two questions the same problem.
        taken: keys of problems that must not appear, such as those of a published test file.

    Raises:
        ConfigError: there are not that many different problems.
    """
    found: list[RawRow] = []
    seen: set[str] = set()
    vain = 0  # draws since the last new problem
    for row in problems:
        if len(found) >= count:
            break
        if vain > _PATIENCE:
            raise ConfigError(
                f"{task}: found only {len(found)} different problems for {split}_size={count}; make the split smaller"
            )
        vain += 1
        name = key(row["question"])
        if side_of(name) == split and name not in seen and name not in taken:
            vain = 0
            seen.add(name)
            found.append((f"{task}: generated {split} row {len(found)}", row))
    return found


def words(text: str) -> tuple[str, ...]:
    """A pool of words, given as one text."""
    return tuple(text.split())


def generated_examples(
    config: GeneratedConfig,
    split: Split,
    problems: Iterator[Problem],
    key: Callable[[str], str],
    held_out: Iterable[Example] = (),
) -> list[Example]:
    """Generate the examples of a split, as many as the config says.

    Args:
        config: the task's config.
        split: the split to fill.
        problems: an endless stream of rows with `question`, `steps` and `answer`.
        key: what makes two questions the same problem.
        held_out: published examples whose problems must not be generated.
    """
    taken = {key(example.question) for example in held_out}
    rows = take(problems, getattr(config, f"{split}_size"), task=config.name, split=split, key=key, taken=taken)
    return examples_of(rows, split=split, steps="lines", source=f"generated {split} rows of {config.name}")
