"""Find oddities in a split, for `data`, `train` and `eval` to print, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from unspoken.core.text.example import Example
from unspoken.tasks.base import Split, Task
from unspoken.tasks.reading.rows import REASONING, question_key, reasoning_field
from unspoken.tasks.scoring.answers import equal
from unspoken.tasks.scoring.numerals import plain_numerals, whole_number

FIRST = 10_000
"""How many rows are looked at where they are on the disk."""
_LONG = 40  # characters of a text that may be reasoning nobody has read
_READ_LATER = ("condensed_reasoning",)  # by the method semcot
_IN_TEXT = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?|(?<![\w.])\.\d+")
_MARKED = re.compile(r"<<[^<>=]+(?:=[^<>=]+)*=(?P<result>[^<>=]+)>>\s*")


def remarks(task: Task, split: Split, *, all_of_it: bool = False) -> list[str]:
    """Oddities of a split, one line each.

    Args:
        task: the task.
        split: the split, which is read if necessary.
        all_of_it: include what is common and harmless: rows dropped for a held-out split, repeated questions.

    Raises:
        DataError: the split cannot be read.
    """
    examples = looked_at(task.examples(split))
    own = hasattr(task, "read_before_dropping")
    told = dropped(task, split) if own or all_of_it else []
    told += repeated(before_dropping(task, split, examples), split, all_of_it=all_of_it)
    if own:
        told += unread(examples, split)
    if getattr(task, "answers", None) == "number":
        told += no_numbers(examples, split, own)
        told += other_ends(examples, split) if own or all_of_it else []
    return told


def looked_at(examples: Sequence[Example]) -> Sequence[Example]:
    """The rows in which oddities are looked for: all, or the first ones of those on the disk."""
    return examples if isinstance(examples, list) else examples[:FIRST]


def before_dropping(task: Task, split: Split, examples: Sequence[Example]) -> Sequence[Example]:
    """All rows of a split, including those dropped for a held-out split, if the task provides them."""
    read = getattr(task, "read_before_dropping", None)
    return (read(split) if read is not None else None) or examples


def dropped(task: Task, split: Split) -> list[str]:
    """How many rows of a split were dropped because their question is in a held-out split."""
    count = getattr(task, "dropped", {}).get(split, 0)
    others = "validation or test" if split == "train" else "test"
    rows = f"{count} {split} row{'s were' if count != 1 else ' was'}"
    return (
        [f"{rows} dropped, because {others} has the same question (case, spaces and Unicode forms aside)"] if count else []
    )


def repeated(examples: Iterable[Example], split: Split, *, all_of_it: bool = True) -> list[str]:
    """Repeated questions, especially those with different answers."""
    first: dict[str, Example] = {}
    again, other = 0, []
    for example in examples:
        known = first.setdefault(question_key(example.question), example)
        if known is not example:
            again += 1
            if not equal(known.answer, example.answer):
                other.append((known, example))
    if other:
        one, two = other[0]
        rows = f"{len(other)} {split} row{'s repeat' if len(other) > 1 else ' repeats'}"
        first_two = f"{one.id} says {_short(one.answer)}, {two.id} says {_short(two.answer)}"
        return [f"{rows} a question with another answer (first: {first_two})"]
    rows = f"{again} {split} row{'s repeat' if again > 1 else ' repeats'}"
    return [f"{rows} a question, with the same answer"] if again and all_of_it else []


def no_numbers(examples: Sequence[Example], split: Split, own: bool = True) -> list[str]:
    """Reference answers that are not numbers although answers are compared as numbers; `own` rows may need another kind."""
    bad = [example for example in examples if _decimal(example.answer) is None]
    if not bad:
        return []
    rows = f"the answer of {len(bad)} of {len(examples)} {split} rows is no number"
    first = f"first {bad[0].id}: {_short(bad[0].answer)}"
    hint = "; for words or letters: task.answer=text or letter" if own else ""
    return [f"{rows} ({first}), and answers are compared as numbers{hint}"]


def other_ends(examples: Sequence[Example], split: Split) -> list[str]:
    """Chains whose last step does not give the reference answer."""
    chains = [example for example in examples if example.steps and _decimal(example.answer) is not None]
    bad = [example for example in chains if not _gives(example.steps[-1], example.answer)]
    if not bad:
        return []
    first = f"first {bad[0].id}: {_short(bad[0].steps[-1])}, answer {_short(bad[0].answer)}"
    return [f"the last step of {len(bad)} of {len(chains)} {split} rows does not give the answer ({first})"]


def unread(examples: Sequence[Example], split: Split) -> list[str]:
    """Long unused texts in rows without steps, and reasoning in fields that were not used."""
    found: dict[str, int] = {}
    for example in examples:
        for name, value in example.meta.items() if not example.steps else ():
            if name not in _READ_LATER and _is_long(value):
                found[name] = found.get(name, 0) + 1
    names = ", ".join(REASONING)
    return [
        f"field {name!r} is not read, and {count} {split} row{'s have' if count != 1 else ' has'} text there and no step; "
        f'reasoning is read from {names}; to read it: task.fields=\'{{"reasoning": "{name}"}}\''
        for name, count in found.items()
    ]


def without_steps(examples: Sequence[Example]) -> str | None:
    """How many training rows have no steps, and what to do; None if all have some."""
    bare = [example for example in examples if not example.steps]
    if not bare:
        return None
    also = sorted({key for example in bare if (key := reasoning_field(example.meta)) is not None})
    hint = f" (they have {', '.join(map(repr, also))})" if also else ""
    return (
        f"{len(bare)} of {len(examples)} training rows have no step (first {bare[0].id}){hint}, and this method learns from "
        "steps; look at them with `unspoken data`, check the field of the reasoning and the rule that splits it (task.steps)"
    )


def _gives(step: str, answer: str) -> bool:
    """Whether a last step contains an answer: as the result of a bare equation, or as any number of other text."""
    marked = _MARKED.fullmatch(step)
    if marked is not None and _decimal(marked["result"]) is not None:
        return equal(marked["result"], answer)
    plain = plain_numerals(step)
    wanted = _decimal(answer)
    values = [value for text in _IN_TEXT.findall(plain) if (value := _decimal(text.rstrip(","))) is not None]
    return not values or any(abs(value) == abs(wanted or 0) for value in values)


def _decimal(text: str) -> Decimal | None:
    return whole_number(" ".join(plain_numerals(text).split()).rstrip(" ."))


def _is_long(value: object) -> bool:
    if isinstance(value, Mapping):
        return False
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(part, str) for part in value) and _is_long(" ".join(value))
    return isinstance(value, str) and len(value) >= _LONG and len(value.split()) >= 5


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
