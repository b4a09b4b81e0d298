"""Which examples make up which optimizer step: a pure function of seed, epoch and step, so that a resumed run sees the
same batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from random import Random

from accelerate import PartialState

from unspoken.core.rows.batch import windows_by_length
from unspoken.core.rows.curriculum import Curriculum, Stage
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.methods.base import Method
from unspoken.runs.config import TrainConfig
from unspoken.tasks.base import Task
from unspoken.tasks.reading.remarks import remarks, without_steps


class Schedule:
    """Maps steps of a run to epochs, stages and batches.

    Args:
        config: batch size, length, seed.
        curriculum: the method's curriculum.
        examples: number of training examples.
        written: see `Curriculum.fit`.

    Raises:
        DataError: no examples.
    """

    def __init__(
        self, config: TrainConfig, curriculum: Curriculum, examples: int, written: Callable[[], int] = lambda: 0
    ) -> None:
        if examples == 0:
            raise DataError("the training split is empty; give at least one example")
        self.config, self.examples = config, examples
        self.steps_per_epoch = math.ceil(examples / config.batch_size)
        self.curriculum = curriculum.fit(self.steps_per_epoch, written)
        self.total = config.steps if config.steps is not None else math.ceil((config.epochs or 0) * self.steps_per_epoch)

    def stage(self, step: int) -> Stage:
        """The stage of an optimizer step."""
        return self.curriculum.at(step / self.steps_per_epoch)

    def stage_starts(self, step: int) -> bool:
        """Whether a new stage begins with this step (the first step of a run does not count)."""
        return step > 0 and self.stage(step) != self.stage(step - 1)

    def restarted(self, step: int) -> int | None:
        """The last step up to this one at which the optimizer was reset; None if there is none."""
        # Phases begin at the first step at or after their boundary, so it is enough to check boundaries.
        starts = [math.ceil(b * self.steps_per_epoch - 1e-9) for b in self.curriculum.boundaries()]
        past = (s for s in reversed(starts) if 0 < s <= step and self.stage_starts(s) and self.stage(s).restart)
        return next(past, None)

    def batches(self, epoch: int, length: Callable[[int, Stage], int]) -> Iterator[list[int]]:
        """The batches of an epoch, in order. Rows of similar length are batched together; the order of batches is random.

        Lengths are computed only as batches are taken, so that a large epoch starts at once.

        Args:
            epoch: which epoch, from 0.
            length: (example, stage) -> positions of its row.
        """
        rng = Random(f"{self.config.seed}/order/{epoch}")
        order = list(range(self.examples))
        rng.shuffle(order)
        size, window = self.config.batch_size, self.config.length_window
        lengths: dict[int, int] = {}
        for first in range(0, len(order), size * window):
            part = order[first : first + size * window]
            if window > 1:
                stage = self.stage(epoch * self.steps_per_epoch + first // size)
                lengths = {i: length(i, stage) for i in part}
            group = windows_by_length(lengths, part, size, window)  # pyright: ignore[reportArgumentType]
            rng.shuffle(group)
            yield from group


class Feed:
    """Provides the rows of each step; a thread lays out the next step's rows while a step runs.

    Args:
        method: lays rows out.
        examples: the training examples.
        schedule: says which examples are in a step, and its stage.
        seed: of the randomness in rows.
    """

    def __init__(self, method: Method, examples: Sequence[Example], schedule: Schedule, seed: int) -> None:
        self.method, self.examples, self.schedule, self.seed = method, examples, schedule, seed
        self._known: list[list[int]] = []  # batches of the epoch so far
        self._more: tuple[int, Iterator[list[int]]] = (-1, iter(()))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._next: tuple[int, Future[list[Row]]] | None = None

    def batch(self, step: int) -> list[int]:
        """Example numbers of a step."""
        epoch, place = divmod(step, self.schedule.steps_per_epoch)
        if self._more[0] != epoch:

            def length(index: int, stage: Stage) -> int:
                return lay_out(self.method, self.examples, index, stage, self.seed, epoch).positions

            self._known, self._more = [], (epoch, self.schedule.batches(epoch, length))
        self._known.extend(islice(self._more[1], max(place + 1 - len(self._known), 0)))
        return self._known[place]

    def rows(self, step: int, stage: Stage | None = None) -> list[Row]:
        """The rows of a step, at its own stage or another."""
        stage, epoch = stage or self.schedule.stage(step), step // self.schedule.steps_per_epoch
        return [lay_out(self.method, self.examples, i, stage, self.seed, epoch) for i in self.batch(step)]

    def take(self, step: int) -> list[Row]:
        """The rows of a step, possibly prepared already; starts preparing those of the next step."""
        known, self._next = self._next, None
        made = known[1].result() if known is not None and known[0] == step else self.rows(step)
        if step + 1 < self.schedule.total:
            self._next = (step + 1, self._thread.submit(self.rows, step + 1))
        return made

    def settle(self) -> None:
        """Wait for the thread: a tokenizer is not thread-safe."""
        if self._next is not None:
            self._next[1].exception()


def lay_out(method: Method, examples: Sequence[Example], index: int, stage: Stage, seed: int, epoch: int) -> Row:
    """The row of a training example; its randomness depends only on seed, epoch and example."""
    return method.layout(examples[index], stage, Random(f"{seed}/row/{epoch}/{index}"))


def micro_batches(rows: Sequence[Row], size: int | None, tokens: int | None) -> list[list[Row]]:
    """Split a step's rows into micro-batches.

    Args:
        size: maximum number of rows; None = no limit.
        tokens: maximum number of positions, padding included; rows are sorted by length, the longest first, and a longer
            row goes alone. None = no limit, and the order is kept.
    """
    size = size or max(len(rows), 1)
    if tokens is None:
        return [list(rows[i : i + size]) for i in range(0, len(rows), size)]
    parts: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.positions, reverse=True):
        if not parts or len(parts[-1]) >= min(size, max(tokens // max(parts[-1][0].positions, 1), 1)):
            parts.append([])
        parts[-1].append(row)
    return parts


def written_tokens(method: Method, examples: Sequence[Example], stages: Sequence[Stage]) -> int:
    """How many tokens the longest row loses between the first and the last of some stages."""
    first, last = stages[0], stages[-1]
    lost = (len(method.layout(e, first, Random(0)).ids) - len(method.layout(e, last, Random(0)).ids) for e in examples)
    return max(lost, default=0)


def drop_long(
    method: Method, examples: Sequence[Example], stages: Sequence[Stage], most: int | None
) -> tuple[list[Example], int]:
    """The examples whose rows have at most this many positions at every stage, and how many were left out.

    Raises:
        ConfigError: none is left.
    """
    if most is None:
        return list(examples), 0
    kept = [e for e in examples if all(method.layout(e, stage, Random(0)).longest <= most for stage in stages)]
    if examples and not kept:
        raise ConfigError(f"train.max_positions={most} leaves none of {len(examples)} training examples; raise it")
    return kept, len(examples) - len(kept)


def warn_of(task: Task, method: Method, examples: Sequence[Example], validates: bool) -> None:
    """Warn about oddities in the data: rows without steps for a method that needs them, answers of another kind, ...

    Args:
        task: the task.
        method: the method.
        examples: the training examples.
        validates: whether the validation split is used too.
    """
    told = remarks(task, "train") + (remarks(task, "validation") if validates else [])
    if method.uses_steps and (bare := without_steps(examples)) is not None:
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


def check_lengths(method: Method, examples: Sequence[Example], stages: Sequence[Stage]) -> None:
    """Refuse examples that do not fit the model's context before training starts.

    Raises:
        DataError: names the example.
    """
    context = method.backbone.context
    if context is None:
        return
    for example in examples:
        characters = len(example.question) + len(example.answer) + sum(map(len, example.steps))
        # A token has at least one byte, so most texts are known to fit without encoding them.
        if 4 * characters + 512 < context:
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
