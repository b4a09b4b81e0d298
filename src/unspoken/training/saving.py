"""Write the states of a training, while it waits or, with `train.async_save`, while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from unspoken.runs.directory import RunDir
from unspoken.training.ranks import Ranks
from unspoken.training.sharding.states import save_state
from unspoken.training.sharding.whole import Placed
from unspoken.training.state import state_tensors


class Saver:
    """Writes states.

    Args:
        run: where.
        ranks: all processes call it together.
        placed: the parameters; whole, if in a thread.
        behind: copy what is saved to the memory of the main process, and let a thread of it write the copy. One at a time:
            the next save waits for it. A state takes its place when it is whole, so a kill meanwhile leaves the one before.
    """

    def __init__(self, run: RunDir, ranks: Ranks, placed: Placed, behind: bool) -> None:
        self.run, self.ranks, self.placed, self.behind = run, ranks, placed, behind
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        self._last: tuple[Future[None], Callable[[], None]] | None = None

    def save(
        self,
        optimizer: torch.optim.Optimizer,
        step: int,
        random: Mapping[str, Tensor],
        info: Mapping[str, object],
        then: Callable[[], None],
    ) -> None:
        """Write a state.

        Args:
            random, info: see `save_state`.
            then: called on the main process when it is on the disk.

        Raises:
            TrainingError: it cannot be written; or the one before could not.
        """
        if not self.behind:
            save_state(self.run, self.ranks, self.placed, optimizer, step, random, info)
            self.ranks.alone(then)
            return
        self.wait()

        def begin() -> None:
            tensors = state_tensors(self.placed.trained, optimizer)
            copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in {**tensors, **random}.items()}
            self._last = (self._thread.submit(self.run.save_state, step, copies, info), then)

        self.ranks.alone(begin)

    def wait(self) -> None:
        """Wait until everything is on the disk; all processes.

        Raises:
            TrainingError: it cannot be written.
        """

        def settle() -> None:
            last, self._last = self._last, None
            if last is not None:
                last[0].result()
                last[1]()

        if self.behind:
            self.ranks.alone(settle)

    def close(self) -> None:
        """Wait for the thread, whatever comes of it."""
        self._thread.shutdown()
