"""The generator of the task `tiny`: arithmetic word problems that a very small model learns in minutes.

    Ann has 7 figs. She finds 5. She doubles her figs. She sells full tens. How many figs has Ann?
    steps  <<7+5=12>>  <<12*2=24>>  <<24%10=4>>      answer  4

A quantity changes by operations of three kinds: a gain or loss (`+`, `-`), a multiplication (`*`), and the sale of all
full packs of ten, eleven or twelve, which leaves the remainder (`%`). Any three neighbouring operations are of three
different kinds. The kinds do not commute and the remainder is not linear, so a problem of n steps needs n operations
one after the other: without the remainders, a model that answers at once learns to add up the whole story in
parallel. Quantities are integers from 1 to `max_value`, so every single operation is a small table.

A problem belongs to a split by a hash of its *numbers* (its steps), not by chance: the splits are disjoint for every
seed, size and range of steps, and no chain of the test split appears in the training split under other names.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from unspoken.core.config import config_class
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.tasks.base import SPLITS, Score, Split, fingerprint_examples
from unspoken.tasks.scoring.answers import score_number

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

_NAMES = (
    ("Ann", "She", "her"),
    ("Mia", "She", "her"),
    ("Eve", "She", "her"),
    ("Zoe", "She", "her"),
    ("Tom", "He", "his"),
    ("Ben", "He", "his"),
    ("Sam", "He", "his"),
    ("Max", "He", "his"),
)
_OBJECTS = ("figs", "nuts", "pens", "cups", "eggs", "cards", "coins", "beads")
_GAINS = ("finds", "buys", "gets", "wins")
_LOSSES = ("loses", "lends", "mails", "donates")
_SCALINGS = (("doubles", 2), ("triples", 3))
_PACKS = (("tens", 10), ("elevens", 11), ("dozens", 12))
_MAX_CHANGE = 5
# Llama-3's way of cutting text (a number stands apart from the space before it), with `<<`, `>>`, line ends and single
# operators kept apart.
_PIECES = r"<<|>>|\p{N}{1,3}|[^\S\n]?\p{L}+|#+|\n|[^\s\p{L}\p{N}]|[^\S\n]+"


@config_class
class TinyConfig:
    """What to generate.

    Raises:
        ConfigError: a field is out of range, or the fields contradict each other.
    """

    name: Literal["tiny"] = "tiny"
    min_steps: int = 1  # operations in the shortest problem
    max_steps: int = 6  # operations in the longest problem; equal to min_steps for one fixed count
    max_value: int = 24  # start, intermediate results and answer lie in 1..max_value
    train_size: int = 20_000  # examples in the training split
    validation_size: int = 500  # examples in the validation split
    test_size: int = 1_000  # examples in the test split
    seed: int = 0  # another seed draws other examples; the splits stay disjoint across seeds

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= 12:
            raise ConfigError(f"tiny: need 1 <= min_steps <= max_steps <= 12, got {self.min_steps} and {self.max_steps}")
        if not 20 <= self.max_value <= 99:
            raise ConfigError(f"tiny: max_value must be between 20 and 99, got {self.max_value}")
        for split in SPLITS:
            if self.size(split) < 0:
                raise ConfigError(f"tiny: {split}_size must not be negative, got {self.size(split)}")

    def size(self, split: Split) -> int:
        """Number of examples in `split`."""
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}[split]


def generate(config: TinyConfig, split: Split) -> list[Example]:
    """The examples of one split: the same list for the same configuration, on every machine.

    The number of steps is drawn evenly from `min_steps..max_steps`. No question occurs twice in a split.

    Args:
        config: what to generate.
        split: "train", "validation" or "test".

    Returns:
        `config.size(split)` examples in a random but fixed order, with ids "train-0", "train-1", ...

    Raises:
        ConfigError: the split is unknown, or larger than the number of different problems there are.
    """
    if split not in SPLITS:
        raise ConfigError(f"tiny: no split {split!r}; choose from {', '.join(SPLITS)}")
    rng = random.Random(f"tiny/{config.seed}/{split}")
    seen: set[str] = set()
    examples: list[Example] = []
    repeats = 0
    while len(examples) < config.size(split):
        count = rng.randint(config.min_steps, config.max_steps)
        while True:
            chain = _draw_chain(rng, count, config.max_value)
            steps = tuple(_step(*operation) for operation in chain)
            if split_of(steps) == split:
                question = _tell(rng, chain)
                if question not in seen:
                    break
                repeats += 1
                if repeats > 1_000 + 20 * config.size(split):
                    raise ConfigError(
                        f"tiny: found only {len(examples)} different problems for {split}_size={config.size(split)}; "
                        "make the split smaller, or raise max_steps or max_value"
                    )
        seen.add(question)
        answer = str(_result(*chain[-1]))
        examples.append(Example(question=question, steps=steps, answer=answer, id=f"{split}-{len(examples)}"))
    return examples


def split_of(steps: tuple[str, ...]) -> Split:
    """The split that a chain of steps belongs to: 80% train, 10% validation, 10% test, by a stable hash."""
    bucket = int.from_bytes(hashlib.sha256(" ".join(steps).encode()).digest()[:8], "big") % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of the task: byte-level BPE that can encode any text.

    Every integer from 0 to 99, `<<`, `>>`, every operator and every word of the task is one token; a number is the
    same token with and without a space before it, as in Llama-3. End of text and padding are `<|endoftext|>`.

    Returns:
        The same tokenizer on every call, trained on text that this module generates.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000,  # an upper bound: training ends earlier, when every piece of the text is one token
        min_frequency=1,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_tokenizer_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def _tokenizer_text() -> Iterator[str]:
    """All words and numbers of the task, as they occur in training rows."""
    for name, pronoun, _ in _NAMES:
        yield f"{name} {name} {pronoun} has"
    scalings, packs = (tuple(word for word, _ in words) for words in (_SCALINGS, _PACKS))
    for word in ("her", "his", *_OBJECTS, *_GAINS, *_LOSSES, *scalings, "sells", "full", *packs):
        yield f"She {word}"
    yield "She has. How many figs has Ann?\n<<7+5=12>>\n<<12*2=24>>\n<<24-3=21>>\n### 21"
    yield " ".join(str(number) for number in range(100))


_Operation = tuple[int, str, int, str]  # quantity before, operator, operand, the word that tells it


def _draw_chain(rng: random.Random, count: int, max_value: int) -> list[_Operation]:
    """Draw `count` operations, three neighbours of three kinds; start over where none fits."""
    while True:
        value = rng.randint(2, max_value)
        chain: list[_Operation] = []
        recent: list[int] = []
        while len(chain) < count:
            kinds = _possible(rng, value, max_value)
            options = [kind for kind, operations in enumerate(kinds) if operations and kind not in recent[-2:]]
            if not options:
                break
            recent.append(rng.choice(options))
            chain.append(rng.choice(kinds[recent[-1]]))
            value = _result(*chain[-1])
        else:
            return chain


def _possible(rng: random.Random, value: int, max_value: int) -> tuple[list[_Operation], ...]:
    """The changes (one gain and one loss), scalings and sales that keep the quantity in 1..max_value."""
    changes: list[_Operation] = []
    for sign, room, verbs in (("+", max_value - value, _GAINS), ("-", value - 1, _LOSSES)):
        if room > 0:
            changes.append((value, sign, rng.randint(1, min(_MAX_CHANGE, room)), rng.choice(verbs)))
    scalings = [(value, "*", by, verb) for verb, by in _SCALINGS if value * by <= max_value]
    sales = [(value, "%", by, pack) for pack, by in _PACKS if value > by and value % by]
    return changes, scalings, sales


def _result(value: int, sign: str, operand: int, word: str = "") -> int:
    """Carry out one operation."""
    return {"+": value + operand, "-": value - operand, "*": value * operand, "%": value % operand}[sign]


def _step(value: int, sign: str, operand: int, word: str) -> str:
    """One reasoning step as text: `<<7+5=12>>`."""
    return f"<<{value}{sign}{operand}={_result(value, sign, operand)}>>"


def _tell(rng: random.Random, chain: list[_Operation]) -> str:
    """Write a chain as a story."""
    name, pronoun, possessive = rng.choice(_NAMES)
    things = rng.choice(_OBJECTS)
    sentences = [f"{name} has {chain[0][0]} {things}."]
    for _, sign, operand, word in chain:
        told = {"*": f"{word} {possessive} {things}", "%": f"sells full {word}"}.get(sign, f"{word} {operand}")
        sentences.append(f"{pronoun} {told}.")
    sentences.append(f"How many {things} has {name}?")
    return " ".join(sentences)


class Tiny:
    """Chains of small arithmetic that a very small model learns in minutes; see `TinyConfig` for settings."""

    Config = TinyConfig
    name = "tiny"

    def __init__(self, config: TinyConfig) -> None:
        self.config = config
        self._made: dict[Split, list[Example]] = {}

    def examples(self, split: Split) -> list[Example]:
        """See `generate`. Cached, because 20,000 problems take seconds."""
        if split not in self._made:
            self._made[split] = generate(self.config, split)
        return list(self._made[split])

    def score(self, example: Example, text: str) -> Score:
        """Numbers, compared as numbers."""
        return score_number(example, text)

    def fingerprint(self, split: Split) -> str:
        """See `Task.fingerprint`."""
        return fingerprint_examples(self.examples(split))
