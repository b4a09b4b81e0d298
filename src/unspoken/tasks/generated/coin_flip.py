"""Coin flips (Wei et al. 2022): people flip a coin or do not; is it still heads up? A task of tracking one bit.

    A coin is heads up. Ann flips the coin. Ben does not flip the coin. Is the coin still heads up? Note that "flip" ...

    test        coin_flip.json: 500 rows of four people each (Kojima et al. 2022), in `root` or UNSPOKEN_DATA/coin_flip
    train       generated, in the same words; so is validation

With `min_people` = `max_people` = 2 the model learns on two people and is tested on four, as in the length generalisation
of Wei et al. and SemCoT. With `source="generated"` the test split is generated too (`test_people` each). The steps follow
from the question by rule, for every row: who did what, and how the coin lies then.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from typing import Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.tasks.base import Split
from unspoken.tasks.generated.generated import GeneratedConfig, Problem, generated_examples, words
from unspoken.tasks.reading.readers import listed_rows
from unspoken.tasks.reading.rows import question_key, text_field
from unspoken.tasks.reading.source import DataSource, Splits, SplitTask, converted
from unspoken.tasks.scoring.rules import score_coin

_NAMES = words(
    "Aaron Abby Adam Agnes Alan Alice Amir Amy Andre Anita Ann Anton Arthur Astrid Ava Barbara Basil Bea Ben Beth "
    "Bill Bjorn Brenda Brian Bruno Camila Carl Carmen Cecil Celia Chen Chloe Clara Claude Colin Cora Cyrus Daisy Dan "
    "Daria Dave Dawn Dennis Diana Diego Dora Doris Doug Edgar Edith Elena Eli Elsa Emil Emma Eric Esther Ethan Eve "
    "Felix Fiona Flora Frank Frida Fritz Gail George Gina Gloria Grace Greg Greta Gus Hana Hank Harry Hazel Heidi "
    "Helen Henry Hugo Ian Ida Igor Ines Ingrid Irene Iris Isaac Ivan Ivy Jade Jan Jane Jasper Jean Jill Joan Joel "
    "John Jonas Joy Judith Julia June Kai Karen Karl Kate Keith Ken Kim Kira Kurt Lara Lars Laura Leah Lee Lena Leo "
    "Liam Lily Linda Lisa Lois Lola Louis Lucy Luis Luke Lydia Mabel Marc Maria Mark Marta Mary Matt Maya Mei Mia "
    "Mike Mila Mina Mona Nadia Nancy Nate Neil Nell Nick Nina Noah Nora Olaf Olga Omar Oscar Otto Owen Paul Pearl "
    "Pete Petra Phil Rachel Ralph Raul Ray Rita Rob Rosa Ross Roy Ruby Ruth Ryan Sara Saul Scott Sean Sonia Stan Sue "
    "Sven Tara Ted Tess Theo Tim Tina Toby Todd Tony Uma Ursula Vera Vic Victor Viola Walt Wanda Wendy Will Xenia "
    "Yara Yusuf Yves Zack Zara Zoe"
)
_ACT = re.compile(r"(?<=\.)\s+(?P<who>[^.]+?) (?P<act>flips|does not flip) the coin(?=\.)")
_FORM = 'A coin is heads up. {acts} Is the coin still heads up? Note that "flip" here means "reverse".'


@config_class
class CoinFlipConfig(GeneratedConfig):
    """Settings of the generator, and the place of the test file.

    Attributes:
        root: a folder with coin_flip.json; None for UNSPOKEN_DATA/coin_flip.
        source: "files" tests on the published rows, "generated" makes every split.
        min_people, max_people: how many people a generated train or validation row has, drawn evenly.
        test_people: how many a generated test row has.
        train_size, validation_size, test_size: rows of generated splits. Ours.
    """

    name: Literal["coin_flip"] = "coin_flip"
    source: Literal["files", "generated"] = "files"
    min_people: int = 4
    max_people: int = 4
    test_people: int = 4
    train_size: int = 4_000
    validation_size: int = 500
    test_size: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        people = (self.min_people, self.max_people)
        if not 1 <= people[0] <= people[1] <= len(_NAMES) or not 1 <= self.test_people <= len(_NAMES):
            raise ConfigError(
                f"coin_flip: need 1 <= min_people <= max_people <= {len(_NAMES)} and test_people within them, "
                f"got {people[0]}, {people[1]} and {self.test_people}"
            )


class CoinFlip(SplitTask[CoinFlipConfig]):
    """Is a coin, flipped or not by several people, still heads up? (Wei et al. 2022)."""

    def __init__(self, config: CoinFlipConfig) -> None:
        instead = "set source=generated to make every split"
        self._source = DataSource.of(config, {"test": ("coin_flip.json",)}, instead=instead)
        super().__init__(Splits(config=config, read=self._read), score_coin)

    def _read(self, split: Split) -> list[Example]:
        config = self.config
        if split == "test" and config.source == "files":
            path = self._source.path("test")
            return converted(listed_rows(path), _row, split, str(path))
        people = (config.test_people,) * 2 if split == "test" else (config.min_people, config.max_people)
        held_out = self._read("test") if config.source == "files" else ()
        return generated_examples(config, split, generate(f"{config.seed}/{split}", *people), question_key, held_out)


def generate(seed: str, min_people: int, max_people: int) -> Iterator[Problem]:
    """An endless stream of rows: different people, each of whom flips the coin with probability 1/2."""
    rng = random.Random(f"coin_flip/{seed}")
    while True:
        people = rng.sample(_NAMES, rng.randint(min_people, max_people))
        acts = [f"{who} {rng.choice(('flips', 'does not flip'))} the coin." for who in people]
        question = _FORM.format(acts=" ".join(acts))
        steps, heads = followed(question)
        yield {"question": question, "steps": steps, "answer": "yes" if heads else "no"}


def followed(question: str) -> tuple[list[str], bool]:
    """The steps, one per person, and whether the coin is heads up in the end."""
    steps: list[str] = []
    heads = True
    for match in _ACT.finditer(question):
        heads = heads is not (match["act"] == "flips")
        steps.append(f"{match['who']} {match['act']} the coin: {'heads' if heads else 'tails'} up.")
    return steps, heads


def _row(row: Mapping[str, object], where: str) -> Mapping[str, object]:
    question = text_field(row, "question", where)
    return {"question": question, "steps": followed(question)[0], "answer": text_field(row, "answer", where)}
