"""The processes that share an evaluation: one, or those that torchrun or `accelerate launch` started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from unspoken.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Attributes:
        index: its number, from 0.
        count: how many there are.
        state: accelerate's, where there are several.
    """

    index: int = 0
    count: int = 1
    state: Any = None

    @property
    def main(self) -> bool:
        """The one that writes and prints."""
        return self.index == 0

    @property
    def device(self) -> Any:
        """Where this process puts its model; None = as in a single process."""
        return None if self.state is None else self.state.device

    def wait(self) -> None:
        """Go on when all are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def close(self) -> None:
        """Leave the group in peace; without this the library warns."""
        if self.state is not None:
            self.state.destroy_process_group()


def processes() -> Processes:
    """The processes of this run, as the launcher's environment tells.

    Raises:
        ConfigError: the launcher started several, but they cannot find each other.
    """
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if started < 2:
        return Processes()
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    # A process waits for the slowest at the end, which may have a long answer to finish.
    state = PartialState(cpu=cpu, timeout=timedelta(days=1))
    if state.num_processes != started:
        raise ConfigError(
            f"WORLD_SIZE is {started}, but accelerate sees {state.num_processes} processes; start them with torchrun, or "
            "unset WORLD_SIZE"
        )
    return Processes(state.process_index, state.num_processes, state)
