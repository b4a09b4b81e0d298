"""Answer many rows: by the scheduler where the family allows it, else by the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.engine.requests import ActiveRequest, Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.engine.stopping import StopDecider
from unspoken.core.fast.switch import is_on
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.edits import Edit
from unspoken.core.loop.generate import OnTrace
from unspoken.core.loop.generate import sample as sample_batches
from unspoken.core.loop.loop import OnToken
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Jacobi, PrecomputedThoughts, Source, at_once
from unspoken.core.loop.trace import Answer, Trace, clock
from unspoken.core.rows.row import Row
from unspoken.errors import ConfigError


@torch.inference_mode()
def sample(
    backbone: Any,
    rows: Sequence[Row],
    source: Source | PrecomputedThoughts | None,
    speaking: SamplingParams,
    *,
    batch_size: int = 32,
    chains: int = 1,
    samples: int = 1,
    numbers: Sequence[int] | None = None,
    explain: Callable[[Trace], list[tuple[str, ...]]] | None = None,
    edit: Edit | None = None,
    on_token: OnToken | None = None,
    on_trace: OnTrace | None = None,
    judge: StopDecider | None = None,
    expected: tuple[int, ...] = (),
) -> list[tuple[Answer, ...]]:
    """Think and speak for any number of prompts: `core/loop/loop.py:sample`, continuously batched where that is covered.

    Not covered are several answers to a question, edited or observed latents (`on_trace` sees a batch), latents made in
    parallel, and models whose attention is of their own kind; they go through the engine's batches.

    Args:
        judge: says when a row has thought enough.
        expected: what answers may begin with, see `Request`.

    Raises:
        ConfigError: a judge where only batches can serve.
    """
    columns = max((len(row.ids) for row in rows), default=0) + speaking.max_new_tokens
    if not isinstance(source, PrecomputedThoughts):
        source = at_once(source, backbone.parallel)
    plain = chains * samples == 1 and edit is None and on_trace is None and not isinstance(source, Jacobi) and is_on()
    if not rows or not plain or not supports_kv_slots(backbone, columns):
        if judge is not None and rows:
            raise ConfigError(
                "a stop rule needs one answer per question, unedited latents and a model with standard attention; "
                "leave --stop away, or ask for a single answer"
            )
        how: Any = {"batch_size": batch_size, "chains": chains, "samples": samples, "explain": explain}
        how |= {"numbers": numbers, "edit": edit, "on_token": on_token, "on_trace": on_trace}
        return sample_batches(backbone, rows, source, speaking, **how)
    queue = Scheduler(
        backbone, source, slots=min(batch_size, len(rows)), judge=judge, keep=explain is not None, on_token=on_token
    )
    began = clock(backbone.device)
    seeds = range(len(rows)) if numbers is None else numbers
    requests = [
        Request(row=row, speaking=speaking, number=seed, expected=expected) for row, seed in zip(rows, seeds, strict=True)
    ]
    places = queue.run(requests)
    seconds = (clock(backbone.device) - began) / len(rows)
    thoughts: list[tuple[str, ...] | None] = [None] * len(rows)
    if explain is not None:
        for first in range(0, len(rows), batch_size):
            part = places[first : first + batch_size]
            thoughts[first : first + len(part)] = explain(queue.trace(part))
    return [(_answer(backbone, queue.done[n], seconds, said),) for n, said in zip(places, thoughts, strict=True)]


def _answer(backbone: Backbone, active: ActiveRequest, seconds: float, thoughts: tuple[str, ...] | None) -> Answer:
    finished, tokens = active.eos_left == 0, tuple(active.tokens)
    spoken = tokens[:-1] if finished else tokens
    return Answer(
        text=backbone.decode(spoken),
        tokens=tokens,
        finished=finished,
        latents=active.row.latents - active.skipped,
        passes=active.passes,
        positions=active.positions,
        seconds=seconds,
        thoughts=thoughts,
        passed=sum(token in backbone.eos_ids for token in spoken),
        assistant_positions=active.row.positions_elsewhere(0, 0),
    )
