"""Multiplication of numbers with many digits, digit by digit (Deng et al. 2023, 2024: implicit CoT).

    5 6 3 2 * 7 4 3 4         2365 * 4347; every number is written least significant digit first
    steps  5 5 5 6 1          one step a digit of the second factor: its shifted partial product, and in brackets the
           + 0 0 6 4 9 0 (..) running sum (not in the first step, and not in the last, where it is the answer)
    answer 5 5 6 0 8 2 0 1    2 n digits, zeros included

    validation  <n>_by_<n>_mult/valid.txt           test  <n>_by_<n>_mult/test_bigbench.txt
    train       generated in the same format; a published train.txt is not read: it has 808,000 rows

The folders are looked for in `root` or UNSPOKEN_DATA/multiplication, for 4, 5, 7, 9 and 11 digits. With
`source="generated"` all splits are generated, for any number of digits, and no file is needed. Factors are drawn evenly
from all numbers of n digits. A pair of factors, in either order, belongs to one split; those of the validation and test
files are never generated while the files are at hand.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.tasks.base import Split
from unspoken.tasks.generated.generated import GeneratedConfig, Problem, generated_examples
from unspoken.tasks.reading.readers import read_rows
from unspoken.tasks.reading.rows import text_field
from unspoken.tasks.reading.source import DataSource, Splits, SplitTask, converted
from unspoken.tasks.scoring.rules import score_digits


@config_class
class MultiplicationConfig(GeneratedConfig):
    """Settings: number of digits, and what is generated.

    Attributes:
        root: a folder with the folders <n>_by_<n>_mult; None for UNSPOKEN_DATA/multiplication.
        digits: of both factors, 1 to 20; 4, 5, 7, 9 or 11 with files.
        source: "files", or "generated" for all splits.
        train_size: generated train rows. Ours; the paper's files have 808,000.
        validation_size, test_size: rows of those splits where they are generated.
    """

    name: Literal["multiplication"] = "multiplication"
    digits: int = 4
    source: Literal["files", "generated"] = "files"
    train_size: int = 50_000
    validation_size: int = 1_000
    test_size: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.digits <= 20:
            raise ConfigError(f"multiplication: digits must be 1 to 20, got {self.digits}")


class Multiplication(SplitTask[MultiplicationConfig]):
    """Numbers with 4 to 11 digits, digit by digit (Deng et al. 2024)."""

    def __init__(self, config: MultiplicationConfig) -> None:
        folder = f"{config.digits}_by_{config.digits}_mult"
        self._source = DataSource.of(
            config,
            {"validation": (f"{folder}/valid.txt",), "test": (f"{folder}/test_bigbench.txt",)},
            instead="set source=generated to make every split",
        )
        splits = Splits(config=config, read=self._read, key=lambda example: pair_key(example.question))
        super().__init__(splits, score_digits)

    def _read(self, split: Split) -> list[Example]:
        config = self.config
        files = config.source == "files"
        if files and split != "train":
            path = self._source.path(split)
            return converted(read_rows(path, "txt"), _split_row, split, str(path))
        held_out = (*self._read("validation"), *self._read("test")) if files else ()
        return generated_examples(config, split, generate(f"{config.seed}/{split}", config.digits), pair_key, held_out)


def generate(seed: str, digits: int) -> Iterator[Problem]:
    """An endless stream of rows, the same for the same seed on every machine."""
    rng = random.Random(f"multiplication/{digits}/{seed}")
    low, high = 10 ** (digits - 1), 10**digits - 1
    while True:
        yield problem(rng.randint(low, high), rng.randint(low, high), digits)


def problem(a: int, b: int, digits: int) -> Problem:
    """One row: question, steps and answer of a * b, as in the module's text."""
    steps: list[str] = []
    total = 0
    for place, digit in enumerate(reversed(f"{b:0{digits}d}")):
        partial = a * int(digit) * 10**place
        total += partial
        width = digits + 1 + place
        step = _reversed(partial, width)
        if place > 0:
            step = f"+ {step}"
        if 0 < place < digits - 1:
            step = f"{step} ( {_reversed(total, width)} )"
        steps.append(step)
    question = f"{_reversed(a, digits)} * {_reversed(b, digits)}"
    return {"question": question, "steps": steps, "answer": _reversed(total, 2 * digits)}


def pair_key(question: str) -> str:
    """The key of a problem: its factors in sorted order, since a * b and b * a are the same problem."""
    return " * ".join(sorted(question.split(" * ")))


def _reversed(number: int, width: int) -> str:
    return " ".join(reversed(f"{number:0{width}d}"))


def _split_row(row: Mapping[str, object], where: str) -> Problem:
    """Split a file's row into steps, each beginning at its plus sign. Joined by spaces they give the file's text."""
    question, steps = text_field(row, "question", where), text_field(row, "cot", where, may_be_empty=True)
    first, *rest = steps.split(" + ")
    if "*" not in question:
        raise DataError(f"{where}: field 'question' must be two factors with '*' between them, got {question!r:.60}")
    return {
        "question": question,
        "steps": [first, *(f"+ {step}" for step in rest)],
        "answer": text_field(row, "answer", where),
    }
