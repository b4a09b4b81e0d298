"""Answer many rows: with the scheduler, or with the loop for what the scheduler cannot do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack

import torch

from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.engine.requests import ActiveRequest, Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.engine.stopping import StopDecider
from unspoken.core.fast.switch import is_on
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.edits import Edit, edited
from unspoken.core.loop.generate import OnTrace, SampleOptions
from unspoken.core.loop.generate import sample as sample_batches
from unspoken.core.loop.loop import OnToken
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.soft import SoftPlan
from unspoken.core.loop.sources import Iterated, PrecomputedThoughts, Source, at_once
from unspoken.core.loop.trace import Answer, Trace, clock
from unspoken.core.rows.row import Row
from unspoken.errors import ConfigError


@torch.inference_mode()
def sample(
    backbone: Backbone,
    rows: Sequence[Row],
    source: Source | PrecomputedThoughts | None,
    speaking: SamplingParams,
    *,
    decider: StopDecider | None = None,
    expected: tuple[int, ...] = (),
    stops: tuple[str, ...] = (),
    **how: Unpack[SampleOptions],
) -> list[tuple[Answer, ...]]:
    """Think and speak for any number of prompts.

    The scheduler serves them, except for several answers per question, latents made in parallel passes, watched layers,
    models with non-standard attention, and the plain path (`core/fast/switch.py`); those go batch by batch through the
    loop.

    Args:
        decider: says when a row has thought enough.
        expected, stops: see `Request`. The loop cannot stop at a text: there the answer is cut afterwards.
        how: other arguments of `core/loop/generate.py:sample`, where they, the first four and the result are documented.

    Raises:
        ConfigError: a decider in a case that only the loop can serve.
    """
    columns = max((len(row.ids) for row in rows), default=0) + speaking.max_new_tokens
    if not isinstance(source, PrecomputedThoughts):
        source = at_once(source, backbone.parallel)
    single = how.get("chains", 1) * how.get("samples", 1) == 1 and how.get("watch") is None
    if rows and single and not isinstance(source, Iterated) and is_on() and supports_kv_slots(backbone, columns):
        return [(answer,) for answer in _scheduled(backbone, rows, source, speaking, decider, expected, stops, **how)]
    if decider is not None and rows:
        raise ConfigError(
            "a stop rule needs one answer per question, a model with standard attention, and the shortcuts turned on "
            "(fast.enabled); leave --stop away, or ask for a single answer"
        )
    found = sample_batches(backbone, rows, source, speaking, **how)
    return [tuple(_cut(answer, stops) for answer in answers) for answers in found] if stops else found


def _cut(answer: Answer, stops: tuple[str, ...]) -> Answer:
    """An answer that ends before the first stop text in it."""
    end = min((at for stop in stops if (at := answer.text.find(stop)) >= 0), default=None)
    return answer if end is None else replace(answer, text=answer.text[:end], finished=True)


def _scheduled(
    backbone: Backbone,
    rows: Sequence[Row],
    source: Source | PrecomputedThoughts | None,
    speaking: SamplingParams,
    decider: StopDecider | None,
    expected: tuple[int, ...],
    stops: tuple[str, ...],
    *,
    batch_size: int = 32,
    numbers: Sequence[int] | None = None,
    explain: Callable[[Trace], list[tuple[str, ...]]] | None = None,
    edit: Edit | None = None,
    on_token: OnToken | None = None,
    on_trace: OnTrace | None = None,
    soft: SoftPlan | None = None,
    **_: object,
) -> list[Answer]:
    """One answer per row, in their order; see `sample`."""
    keys = [(row.name, 0) for row in rows]
    if edit is not None and source is not None:
        source = edited(source, edit, keys)  # the scheduler counts rows as they are here
    keep = explain is not None or on_trace is not None
    scheduler = Scheduler(backbone, source, slots=min(batch_size, len(rows)), decider=decider, keep=keep, on_token=on_token)
    began = clock(backbone.device)
    seeds = range(len(rows)) if numbers is None else numbers
    places = scheduler.run(
        [
            Request(row=row, speaking=speaking, number=seed, expected=expected, stops=stops, soft=soft)
            for row, seed in zip(rows, seeds, strict=True)
        ]
    )
    seconds = (clock(backbone.device) - began) / len(rows)
    thoughts: list[tuple[str, ...] | None] = [None] * len(rows)
    for first in range(0, len(rows) if keep else 0, batch_size):
        part = slice(first, first + batch_size)
        trace = scheduler.trace(places[part])
        if on_trace is not None:
            on_trace(trace, keys[part])
        if explain is not None:
            thoughts[part] = explain(trace)
    return [_answer(backbone, scheduler.done[n], seconds, said) for n, said in zip(places, thoughts, strict=True)]


def _answer(backbone: Backbone, active: ActiveRequest, seconds: float, thoughts: tuple[str, ...] | None) -> Answer:
    finished, tokens, spoken = active.finish_reason == "stop", tuple(active.tokens), tuple(active.spoken)
    return Answer(
        text=backbone.decode(spoken) if active.text is None else active.text.whole(spoken),
        tokens=tokens,
        finished=finished,
        latents=active.latents_made,
        soft=active.soft_steps,
        passes=active.passes,
        positions=active.positions,
        seconds=seconds,
        thoughts=thoughts,
        passed=sum(token in backbone.eos_ids for token in spoken),
        assistant_positions=active.row.positions_elsewhere(0, 0),
    )
