"""Checks of the training rows before the first step; processes share them."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Sequence
from random import Random

from accelerate import PartialState

from unspoken.core.rows.curriculum import Stage
from unspoken.core.text.example import Example, LazyExamples
from unspoken.errors import ConfigError, DataError
from unspoken.methods.base import Method
from unspoken.runs.config import RunConfig
from unspoken.tasks.base import Task
from unspoken.tasks.reading.remarks import looked_at, remarks, without_steps
from unspoken.training.feeding.schedule import Schedule
from unspoken.training.ranks import Ranks


class Share(LazyExamples):
    """Some of the examples, by number. None is read before it is asked for.

    Args:
        examples: all.
        numbers: of those that it has.
    """

    def __init__(self, examples: Sequence[Example], numbers: Sequence[int]) -> None:
        self.examples, self.numbers = examples, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, place: int) -> Example:
        """See `LazyExamples.at`."""
        return self.examples[self.numbers[place]]


def looked_through(
    config: RunConfig, task: Task, method: Method, examples: Sequence[Example], validation: Sequence[Example], ranks: Ranks
) -> tuple[Sequence[Example], int, Schedule]:
    """Leave out rows that are too long, make the schedule, and check what is left.

    Returns:
        The examples to train on; how many were left out; the schedule.

    Raises:
        DataError: data that this method cannot learn from, or that do not fit the model.
        ConfigError: no example is left.
    """
    t, curriculum = config.train, method.curriculum()
    stages = curriculum.extremes()

    def share() -> Share:
        return Share(examples, range(ranks.index, len(examples), ranks.count))

    mine = share()
    found = ranks.gather(lambda: [mine.numbers[place] for place in too_long(method, mine, stages, t.max_positions)])
    long = [number for part in found for number in part]
    examples = without(examples, long, t.max_positions)
    mine = share()

    def written() -> int:
        return max(ranks.gather(lambda: written_tokens(method, mine, stages)))

    schedule = Schedule(t, curriculum, len(examples), written)

    def check() -> None:
        check_steps(method, examples)
        warn_of(task, method, examples, validates=bool(validation))
        if not _all_fit(method, examples, stages):
            check_lengths(method, mine, stages)
        check_prompts(method, validation, config.speaking.max_new_tokens)
        tell_early_end(schedule)

    ranks.gather(check)
    return examples, len(long), schedule


def written_tokens(method: Method, examples: Sequence[Example], stages: Sequence[Stage]) -> int:
    """How many tokens the longest row loses between the first and the last of some stages."""
    first, last = stages[0], stages[-1]
    lost = (len(method.layout(e, first, Random(0)).ids) - len(method.layout(e, last, Random(0)).ids) for e in examples)
    return max(lost, default=0)


def too_long(method: Method, examples: Sequence[Example], stages: Sequence[Stage], most: int | None) -> list[int]:
    """Places of the examples whose row or branch has more positions than this at some stage."""
    if most is None:
        return []
    return [
        place
        for place, e in enumerate(examples)
        if any(method.layout(e, stage, Random(0)).longest > most for stage in stages)
    ]


def without(examples: Sequence[Example], long: Sequence[int], most: int | None) -> Sequence[Example]:
    """The examples without those at some places; 4 bytes for each where they are not in memory.

    Raises:
        ConfigError: none is left.
    """
    if not long:
        return examples
    if len(long) == len(examples):
        raise ConfigError(f"train.max_positions={most} leaves none of {len(examples)} training examples; raise it")
    gone = set(long)
    kept = array("I", (place for place in range(len(examples)) if place not in gone))
    return [examples[place] for place in kept] if isinstance(examples, list) else Share(examples, kept)


def warn_of(task: Task, method: Method, examples: Sequence[Example], validates: bool) -> None:
    """Warn about oddities in the data: rows without steps for a method that needs them, answers of another kind, ...

    Args:
        task: the task.
        method: the method.
        examples: the training examples.
        validates: whether the validation split is used too.
    """
    told = remarks(task, "train") + (remarks(task, "validation") if validates else [])
    if method.uses_steps and (bare := without_steps(looked_at(examples))) is not None:
        told.insert(0, bare)
    for line in told if PartialState().is_main_process else ():
        warnings.warn(line, stacklevel=4)


def tell_early_end(schedule: Schedule) -> None:
    """Warn if training ends before the last stage of the curriculum."""
    if (last := schedule.stage(schedule.total - 1)) != schedule.curriculum.last:
        warnings.warn(
            f"training ends in stage {last.index} of the curriculum, before its last stage "
            f"{schedule.curriculum.last.index}, which begins after {schedule.curriculum.boundaries()[-1]:g} epochs; the "
            f"model will be asked to think as in stage {last.index}; train longer, or shorten the stages, unless you mean "
            "to stop here",
            stacklevel=6,
        )


def check_steps(method: Method, examples: Sequence[Example]) -> None:
    """Refuse data without a single step for a method whose decoder learns from steps.

    Raises:
        DataError: no example has steps.
    """
    if method.explains and examples and not any(example.steps for example in examples):
        raise DataError(
            f"none of {len(examples)} training examples has steps, so the auxiliary decoder has nothing to learn from; look "
            "at them with `unspoken data`, and check the field of the reasoning and the rule that splits it (task.steps)"
        )


def _all_fit(method: Method, examples: Sequence[Example], stages: Sequence[Stage]) -> bool:
    """Whether rows on the disk, whose longest is known, need not be looked at one by one."""
    longest, context = getattr(examples, "longest", None), method.backbone.context
    return longest is not None and context is not None and longest + _beside(method, examples, stages) < context


def _beside(method: Method, examples: Sequence[Example], stages: Sequence[Stage]) -> int:
    """At least the tokens of a row beside its texts (template, marks, latents), by the first one."""
    return 512 + max(method.layout(examples[0], stage, Random(0)).longest for stage in stages) if examples else 0


def check_lengths(method: Method, examples: Sequence[Example], stages: Sequence[Stage]) -> None:
    """Refuse examples that do not fit the model's context before training starts.

    Raises:
        DataError: names the example.
    """
    context = method.backbone.context
    if context is None:
        return
    beside = _beside(method, examples, stages)
    for example in examples:
        if example.bytes + beside < context:  # so most texts are known to fit without encoding them
            continue
        for stage in stages:
            row = method.layout(example, stage, Random(0))
            if row.longest > context:
                raise DataError(
                    f"{example.id or 'an example'} is too long: {row.longest} positions, the model's context is {context}; "
                    "drop it, shorten it, or use a model with a longer context"
                )


def check_prompts(method: Method, examples: Sequence[Example], spoken: int) -> None:
    """Refuse validation questions that leave no room for an answer, before training starts.

    Raises:
        DataError: names the example.
    """
    context = method.backbone.context
    for example in examples if context is not None else ():
        length = len(method.prompt(example.question, name=example.id).ids)
        if length + spoken - 1 > (context or 0):
            raise DataError(
                f"{example.id or 'a validation question'} is too long: {length} positions + {spoken} answer tokens, the "
                f"model's context is {context}; drop it, or lower speaking.max_new_tokens"
            )
