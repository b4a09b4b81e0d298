"""Which examples make up which optimizer step: a pure function of seed, epoch and step, so that a resumed run sees the
same batches."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from random import Random

from unspoken.core.rows.batch import windows_by_length
from unspoken.core.rows.curriculum import Curriculum, Stage
from unspoken.errors import DataError
from unspoken.runs.config import TrainConfig


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

    def batches(
        self, epoch: int, lengths: Callable[[list[int], Stage], Mapping[int, int]], first: int = 0
    ) -> Iterator[list[int]]:
        """The batches of an epoch, in order. Rows of similar length are batched together; the order of batches is random.

        Lengths are computed only as batches are taken, so that a large epoch starts at once, also in its middle. Four bytes
        per example are kept.

        Args:
            epoch: which epoch, from 0.
            lengths: (examples, stage) -> positions of their rows.
            first: begin with this batch.
        """
        rng = Random(f"{self.config.seed}/order/{epoch}")
        order = array("L" if self.examples >= 2**32 else "I", range(self.examples))
        rng.shuffle(order)
        size, window = self.config.batch_size, self.config.length_window
        for begin in range(0, len(order), size * window):
            part = order[begin : begin + size * window].tolist()
            behind = begin // size + math.ceil(len(part) / size)
            if behind <= first:
                rng.shuffle([None] * math.ceil(len(part) / size))  # the dice of what follows depend on what was
                continue
            known: Mapping[int, int] = {}
            if window > 1:
                known = lengths(part, self.stage(epoch * self.steps_per_epoch + begin // size))
            group = windows_by_length(known, part, size, window)  # pyright: ignore[reportArgumentType]
            rng.shuffle(group)
            yield from group[max(first - begin // size, 0) :]
