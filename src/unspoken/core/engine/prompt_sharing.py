"""One prompt asked several times at once, for several answers: one request reads it, the others copy what it has read."""

from __future__ import annotations

from collections.abc import Sequence

from unspoken.core.engine.kv_slots import KVSlots
from unspoken.core.engine.requests import ActiveRequest, common_prefix

SHORTEST_PREFIX = 8
"""Fewer common tokens than this are read again: a pass of their own, or waiting for one, costs more than it saves."""


def share_prompts(running: Sequence[ActiveRequest], slots: KVSlots) -> set[int]:
    """Give requests that have read nothing yet what another has read of the same prompt, up to its first latent.

    The last token before the latents, or before the answer, is read by each, since its state is the request's own.

    Args:
        running: requests that have slots.
        slots: their keys and values.

    Returns:
        Slots of the requests that wait in this pass, for another to get to the end of their prompt.
    """
    waiting: set[int] = set()
    if all(active.passes for active in running):
        return waiting
    readers: dict[tuple[int, ...], ActiveRequest] = {}
    for active in sorted(running, key=lambda one: -one.cursor):  # stable: of several that have not begun, the first reads
        if active.error is not None:
            continue
        reader = readers.setdefault(tuple(active.row.ids[: active.row.start]), active)
        if reader is active or active.passes:
            continue
        length = common_prefix([reader.row, active.row])
        if length - active.cursor < SHORTEST_PREFIX:
            continue
        if reader.cursor < length:
            waiting.add(active.slot)
            continue
        slots.copy(reader.slot, active.slot, length)
        active.positions += length - active.cursor  # counted as if it had read them
        active.cursor = length
    return waiting
