"""The contents of a state to resume from: trained weights, optimizer and random states."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unspoken.errors import RunError


def state_tensors(trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Trained weights and their optimizer states, as named tensors."""
    tensors: dict[str, Tensor] = {f"weights/{name}": p.detach() for name, p in trained.items()}
    for name, p in trained.items():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    return tensors


def name_of(key: str) -> str:
    """The parameter that an entry of `state_tensors` is of; "" for others."""
    kind, _, rest = key.partition("/")
    return {"weights": rest, "optimizer": rest.rpartition("/")[0]}.get(kind, "")


def random_states(process: int, device: torch.device) -> dict[str, Tensor]:
    """The random states of a process."""
    random = {f"rng/{process}/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random[f"rng/{process}/cuda"] = torch.cuda.get_rng_state()
    return random


def restore(
    tensors: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    fused: bool,
    where: object,
) -> None:
    """Restore weights and optimizer.

    Args:
        tensors: what `state_tensors` gave.
        trained: the parameters that train.
        optimizer: their optimizer.
        fused: a fused optimizer counts its steps on the device, the plain one on the host.
        where: the run directory, for messages.

    Raises:
        RunError: the state is for other parameters.
    """
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    if set(weights) != set(trained):
        odd = sorted(set(weights) ^ set(trained))[0]
        raise RunError(f"the state in {where} does not fit the method: {odd!r} differs; was the code changed?")
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(weights[name])
    for name, p in trained.items():
        prefix = f"optimizer/{name}/"
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            stays = () if fused else ("step",)
            # Averages are of the weights' type, which was the base model's in states of earlier versions.
            kinds = {k: v.dtype if k == "step" else p.dtype for k, v in state.items()}
            optimizer.state[p] = {k: v if k in stays else v.to(p.device, kinds[k]) for k, v in state.items()}


def restore_random(tensors: Mapping[str, Tensor], process: int, device: torch.device) -> bool:
    """Restore the random states of a process; False if the state has none of it."""
    me = f"rng/{process}"
    if f"{me}/cpu" in tensors:
        torch.set_rng_state(tensors[f"{me}/cpu"])
    if f"{me}/cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"{me}/cuda"])
    return f"{me}/cpu" in tensors
