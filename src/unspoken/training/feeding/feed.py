"""The rows of each step on their way into it. Each process lays out its own, ahead, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from unspoken.core.rows.batch import Batch, collate
from unspoken.core.rows.curriculum import Stage
from unspoken.core.rows.row import Row
from unspoken.core.text.example import Example
from unspoken.errors import DataError
from unspoken.methods.base import Counts, Method, add_counts, layers
from unspoken.runs.config import TrainConfig
from unspoken.training.feeding.schedule import Schedule
from unspoken.training.ranks import Ranks

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """What a process needs to know of a step.

    Attributes:
        parts: its micro-batches.
        spare: where it has fewer than another, the row that it goes along with instead.
        most: micro-batches of the process that has most.
        counts: `Method.counts` of the whole step.
        positions: of all rows of the step.
        names: of all rows of the step.
    """

    parts: list[list[Row]]
    spare: Row | None
    most: int
    counts: Counts
    positions: int
    names: list[str]

    def batches(self, even: bool) -> list[tuple[Batch, float]]:
        """The micro-batches, each with the factor of its loss.

        A process without rows of its own goes along with somebody else's, times 0.

        Args:
            even: as many as on the process that has most, because gradients are exchanged behind every one (in shards).
        """
        idle = max(self.most if even else 1, len(self.parts)) - len(self.parts)
        spare = [] if self.spare is None else [self.spare]
        return [(collate(part), 1.0) for part in self.parts] + [(collate(spare), 0.0) for _ in range(idle)]


@dataclass(frozen=True)
class _Told:
    """What a process tells the others of its rows."""

    parts: int
    counts: Counts | None
    positions: int
    names: list[str]


class Feed:
    """Provides the rows of each step; a thread lays out the next step's rows while a step runs.

    Processes share the rows of a step, and of the window that it was batched in; they exchange lengths and counts.

    Args:
        method: lays rows out.
        examples: the training examples.
        schedule: says which examples are in a step, and its stage.
        config: the seed of the randomness in rows, and the size of micro-batches.
        ranks: the processes, for calls of the thread; None = one.
    """

    def __init__(
        self,
        method: Method,
        examples: Sequence[Example],
        schedule: Schedule,
        config: TrainConfig,
        ranks: Ranks | None = None,
    ) -> None:
        self.method, self.examples, self.schedule, self.config = method, examples, schedule, config
        self.ranks = ranks if ranks is not None and ranks.count > 1 else None
        self._known: dict[int, list[int]] = {}  # batches of the epoch, by step, until they are taken
        self._more: tuple[int, int, Iterator[list[int]]] = (-1, 0, iter(()))  # epoch, the step that comes next, its batches
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._next: tuple[int, Future[StepRows]] | None = None

    def _gather(self, work: Callable[[], T]) -> list[T]:
        return [work()] if self.ranks is None else self.ranks.gather(work)

    def _share(self, items: list[int]) -> list[int]:
        return items if self.ranks is None else self.ranks.share(items)

    def batch(self, step: int) -> list[int]:
        """Example numbers of a step. All processes ask for the same steps, in the same order."""
        per_epoch = self.schedule.steps_per_epoch
        epoch, place = divmod(step, per_epoch)
        if step not in self._known and (self._more[0] != epoch or step < self._more[1]):

            def lengths(examples: list[int], stage: Stage) -> dict[int, int]:
                def mine() -> list[tuple[int, int]]:
                    return [(i, self._lay_out(i, stage, epoch).positions) for i in self._share(examples)]

                return dict(pair for part in self._gather(mine) for pair in part)

            self._known = {}
            self._more = (epoch, step, self.schedule.batches(epoch, lengths, place))
        while step not in self._known:
            epoch, at, batches = self._more
            self._known[at] = next(batches)
            self._more = (epoch, at + 1, batches)
        return self._known[step]

    def rows(self, step: int, stage: Stage | None = None) -> list[Row]:
        """All rows of a step, whosever they are, at its own stage or another."""
        stage, epoch = stage or self.schedule.stage(step), step // self.schedule.steps_per_epoch
        return [self._lay_out(i, stage, epoch) for i in self.batch(step)]

    def take(self, step: int) -> StepRows:
        """The rows of a step, possibly prepared already; starts preparing those of the next step."""
        known, self._next = self._next, None
        made = known[1].result() if known is not None and known[0] == step else self._made(step)
        if step + 1 < self.schedule.total:
            self._next = (step + 1, self._thread.submit(self._made, step + 1))
        return made

    def settle(self) -> None:
        """Wait for the thread: a tokenizer is not thread-safe."""
        if self._next is not None:
            self._next[1].exception()

    def _made(self, step: int) -> StepRows:
        stage, epoch = self.schedule.stage(step), step // self.schedule.steps_per_epoch
        if self.ranks is not None:
            self.ranks.doing = f"laying out rows of step {step + 1}"
        batch = self.batch(step)
        self._known = {at: known for at, known in self._known.items() if at >= step}
        parts: list[list[Row]] = []

        def mine() -> _Told:
            rows = [self._lay_out(i, stage, epoch) for i in self._share(batch)]
            parts[:] = micro_batches(rows, self.config.micro_batch_size, self.config.micro_batch_tokens)
            counts = self.method.counts(collate(rows)) if rows else None
            return _Told(len(parts), counts, sum(row.positions for row in rows), [row.name for row in rows])

        everyone = self._gather(mine)
        names = [""] * len(batch)
        for index, told in enumerate(everyone):
            names[index :: len(everyone)] = told.names
        most = max(told.parts for told in everyone)
        return StepRows(
            parts=parts,
            spare=self._lay_out(batch[0], stage, epoch) if len(parts) < most else None,
            most=most,
            counts=add_counts([told.counts for told in everyone if told.counts is not None]),
            positions=sum(told.positions for told in everyone),
            names=names,
        )

    def _lay_out(self, index: int, stage: Stage, epoch: int) -> Row:
        """The row of a training example; its randomness depends only on seed, epoch and example."""
        return self.method.layout(self.examples[index], stage, Random(f"{self.config.seed}/row/{epoch}/{index}"))


def check_batches(method: Method, feed: Feed, schedule: Schedule, ranks: Ranks) -> None:
    """Let methods that are particular about batches check those of the first epoch; processes share them.

    Raises:
        DataError: from `Method.check`.
    """
    picky = [layer for layer in layers(method) if type(layer).check is not Method.check]
    wrong: DataError | None = None
    for step in range(min(schedule.steps_per_epoch, schedule.total) if picky else 0):
        feed.batch(step)  # which needs all processes, also one that has found something
        if step % ranks.count != ranks.index or wrong is not None:
            continue
        rows = feed.rows(step, schedule.stage(0))  # the stage that writes most
        try:
            for layer in picky:
                layer.check(rows)
        except DataError as error:
            wrong = error
            if ranks.count == 1:
                break

    def tell() -> None:
        if wrong is not None:
            raise wrong

    ranks.gather(tell)


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
