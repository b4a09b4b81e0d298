"""Think and speak batch by batch through the loop, without the scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

import torch

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.edits import Edit, edited
from unspoken.core.loop.layers import LayerWatch, rows_at_a_time
from unspoken.core.loop.loop import Loop, OnToken
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.soft import SoftPlan
from unspoken.core.loop.sources import PrecomputedThoughts, Source
from unspoken.core.loop.trace import Answer, Trace, clock
from unspoken.core.rows.batch import collate, longest_first
from unspoken.core.rows.row import LatentKey, Row

OnTrace = Callable[[Trace, list[LatentKey]], None]
"""Called with the trace of a batch and a key per row of it."""


class SampleOptions(TypedDict, total=False):
    """The arguments of `sample` that may be left out."""

    batch_size: int
    chains: int
    samples: int
    numbers: Sequence[int] | None
    explain: Callable[[Trace], list[tuple[str, ...]]] | None
    edit: Edit | None
    on_token: OnToken | None
    on_trace: OnTrace | None
    watch: LayerWatch | None
    soft: SoftPlan | None


@torch.inference_mode()
def think(backbone: Backbone, rows: Sequence[Row], source: Source | PrecomputedThoughts | None) -> Trace:
    """Read the prompts and think, without speaking. Latents only; no gradients."""
    return Loop(backbone, collate(rows).to(backbone.device), source).run()[0]


def generate(
    backbone: Backbone,
    rows: Sequence[Row],
    source: Source | PrecomputedThoughts | None,
    speaking: SamplingParams,
    **how: Unpack[SampleOptions],
) -> list[Answer]:
    """One answer per row, in the order of `rows`; see `sample` for the other arguments."""
    return [answer for (answer,) in sample(backbone, rows, source, speaking, **how)]


@torch.inference_mode()
def sample(
    backbone: Backbone,
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
    watch: LayerWatch | None = None,
    soft: SoftPlan | None = None,
) -> list[tuple[Answer, ...]]:
    """Think and speak for any number of prompts, longest first in batches of like length.

    Args:
        rows: prompts, as a method's `prompt` makes them.
        source: where latents come from.
        speaking: how to speak. A row's sampling is seeded by its number, its set of thoughts and the number of the sample,
            whatever the batch.
        batch_size: rows per batch, copies included; copies of one row are never split over batches, even if there are more.
        chains: sets of thoughts per row.
        samples: answers per set of thoughts.
        numbers: a number per row; None = its place in `rows`.
        explain: decodes a trace into steps per row, which become `Answer.thoughts`.
        edit: changes latents before they are fed (`core/loop/edits.py:Edit`); keys contain the rows' names.
        on_token: called with (place in `rows`, token id).
        on_trace: called once per batch with its trace (the latents as they were fed) and a key per row.
        watch: sees, and may change, the states of layers; for one answer per row.
        soft: how rows think softly while they speak (`core/loop/soft.py`).

    Returns:
        Per row, in their order, its chains x samples answers: all samples of the first set, then of the next.
    """
    order = longest_first(rows)
    answers: dict[int, list[Answer]] = {}
    size = max(batch_size // (chains * samples), 1)
    if watch is not None:
        watch.clear()
        size = rows_at_a_time(backbone.lm, size)
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        began = clock(backbone.device)
        hook = None if on_token is None else (lambda b, t, c=chosen: on_token(c[b], t))
        batch = collate([rows[i] for i in chosen]).to(backbone.device)
        keys = batch.keys(chains)
        thinker = source if edit is None or source is None else edited(source, edit, keys)
        who = chosen if numbers is None else [numbers[i] for i in chosen]
        loop = Loop(
            backbone,
            batch,
            thinker,
            speaking=speaking,
            numbers=who,
            on_token=hook,
            chains=chains,
            samples=samples,
            watch=watch,
            soft=soft,
        )
        with contextlib.nullcontext() if watch is None else watch.over(backbone.lm, batch, chosen):
            trace, speech = loop.run()
        seconds = (clock(backbone.device) - began) / len(speech.tokens)
        sets = trace.first(chains * len(chosen))  # samples have the same thoughts
        if on_trace is not None:
            on_trace(sets, keys)
        thoughts = explain(sets) if explain is not None else [None] * len(sets.counts_B)
        for b, (i, c, s) in enumerate((i, c, s) for s in range(samples) for c in range(chains) for i in chosen):
            answer = speech.answer(
                b, backbone, latents=int(loop.batch.latents_B[b]), seconds=seconds, thoughts=thoughts[b % len(thoughts)],
                chain=c, sample=s, assistant_positions=rows[i].positions_elsewhere(c, s),
                soft=loop.soft[b].soft if loop.soft else 0,
            )  # fmt: skip
            answers.setdefault(i, []).append(answer)
            if watch is not None:
                watch.spoke(i, answer.tokens)
    return [tuple(sorted(answers[i], key=lambda a: (a.chain, a.sample))) for i in range(len(rows))]
