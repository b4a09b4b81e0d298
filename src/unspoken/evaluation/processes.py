"""The processes of an evaluation: one, or those started by torchrun or `accelerate launch`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from unspoken.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process, among those that share the work.

    Attributes:
        index: its number, from 0.
        count: how many there are.
        state: accelerate's state, if there are several.
    """

    index: int = 0
    count: int = 1
    state: Any = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    @property
    def device(self) -> Any:
        """The device for this process's model; None = as in a single process."""
        return None if self.state is None else self.state.device

    def wait(self) -> None:
        """Wait for all processes."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group; torch warns otherwise."""
        if self.state is not None:
            self.state.destroy_process_group()


_OTHERS = (("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpirun"), ("SLURM_STEP_NUM_TASKS", "srun"))
"""Variables in which launchers say how many processes they have started, where they do not set torch's WORLD_SIZE."""


def started() -> int:
    """How many processes do this work together, as torchrun or `accelerate launch` tells each of them.

    Raises:
        ConfigError: another launcher has started several, none of which knows of the others: all would do the whole work.
    """
    if said := os.environ.get("WORLD_SIZE"):
        try:
            return max(int(said), 1)
        except ValueError:
            raise ConfigError(f"the variable WORLD_SIZE must be a number, got {said!r}; unset it") from None
    for name, launcher in _OTHERS:
        if (count := os.environ.get(name, "")).isdecimal() and int(count) > 1:
            raise ConfigError(
                f"{launcher} has started {count} processes ({name}), but WORLD_SIZE is not set, so that each would do the "
                "whole work; let it start one torchrun or `accelerate launch` per machine, or unset the variable"
            )
    return 1


def processes() -> Processes:
    """The processes of this run, from the launcher's environment variables.

    Raises:
        ConfigError: the launcher started several, but they cannot find each other.
    """
    count = started()
    if count < 2:
        return Processes()
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    # At the end processes wait for the slowest, which may have a long answer to finish.
    state = PartialState(cpu=cpu, timeout=timedelta(days=1))
    if state.num_processes != count:
        raise ConfigError(
            f"WORLD_SIZE is {count}, but accelerate sees {state.num_processes} processes; start them with torchrun, or "
            "unset WORLD_SIZE"
        )
    return Processes(state.process_index, state.num_processes, state)
