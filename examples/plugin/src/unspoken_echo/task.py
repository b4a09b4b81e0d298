"""Hops: follow arrows between letters. A task of its own, generated, with an answer rule of its own."""

from __future__ import annotations

import itertools
from random import Random
from typing import ClassVar

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.tasks.base import Score, Split, fingerprint_examples
from unspoken.tasks.generated.generated import side_of

LETTERS = "abcdefghij"


@config_class
class HopsConfig:
    """Settings of `Hops`."""

    name: str = "unspoken_echo.task:Hops"
    hops: int = 3  # arrows to follow; as many lead astray
    train_size: int = 2000
    validation_size: int = 200
    test_size: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= 2 * self.hops + 2 <= len(LETTERS):
            raise ConfigError(f"hops must be in 1..{len(LETTERS) // 2 - 1}, got {self.hops}")
        if min(self.train_size, self.validation_size, self.test_size) < 1:
            raise ConfigError("train_size, validation_size and test_size must be at least 1")


class Hops:
    """Where do the arrows lead? `c>a. f>c. b>e. d>b. From f:` -> c, a: a."""

    Config = HopsConfig
    name: ClassVar[str] = "unspoken_echo.task:Hops"

    def __init__(self, config: HopsConfig) -> None:
        self.config = config

    def examples(self, split: Split) -> list[Example]:
        """So many different problems of a split; a problem's side is a hash of its question, whatever the seed."""
        c = self.config
        wanted = {"train": c.train_size, "validation": c.validation_size, "test": c.test_size}[split]
        rng, found = Random(f"{c.seed}/{split}"), {}
        while len(found) < wanted:
            question, steps = self._problem(rng)
            if side_of(question) == split and question not in found:
                found[question] = Example(
                    id=f"hops/{split}/{len(found)}", question=question, steps=steps, answer=steps[-1][-1]
                )
        return list(found.values())

    def _problem(self, rng: Random) -> tuple[str, tuple[str, ...]]:
        letters, hops = rng.sample(LETTERS, 2 * self.config.hops + 2), self.config.hops
        way, astray = letters[: hops + 1], letters[hops + 1 :]
        steps = tuple(f"{a}>{b}" for a, b in itertools.pairwise(way))
        arrows = [*steps, *(f"{a}>{b}" for a, b in itertools.pairwise(astray))]
        rng.shuffle(arrows)
        return f"{'. '.join(arrows)}. From {way[0]}:", steps

    def score(self, example: Example, text: str) -> Score:
        """Strict: the first letter behind the last ###; flexible: the last letter of the text that stands alone."""
        _, mark, behind = text.rpartition("###")
        said = behind.strip()[:1] if mark else ""
        alone = [word for word in text.replace(".", " ").split() if word in LETTERS and len(word) == 1]
        extracted = alone[-1] if alone else None
        return Score(strict=said == example.answer, flexible=extracted == example.answer, extracted=extracted)

    def fingerprint(self, split: Split) -> str:
        """See `Task.fingerprint`."""
        return fingerprint_examples(self.examples(split))
