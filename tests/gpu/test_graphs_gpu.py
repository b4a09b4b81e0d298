"""CUDA graphs of steady passes. Skipped without a CUDA device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import backbones

from unspoken.bench import generate
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.row import IGNORE, Row

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def answers(backbone, rows, graphs: bool, slots: int):
    queue = Scheduler(backbone, Recurrence(), slots=slots, graphs=graphs)
    requests = [Request(row=row, speaking=SamplingParams(max_new_tokens=24), number=i) for i, row in enumerate(rows)]
    return [queue.done[n].tokens for n in queue.run(requests)], queue


@pytest.mark.parametrize("slots", [1, 5, 16])
@pytest.mark.parametrize("family", backbones.ARCHS)
def test_a_recorded_pass_says_what_usual_ones_say(family, slots):
    rng, backbone = np.random.default_rng(0), backbones.backbone(family).cuda()
    rows = []
    for k in range(20):
        text = rng.integers(1, 300, int(rng.integers(3, 60))).tolist()
        ids = (*text[:-1], *(0,) * (k % 7), text[-1])
        rows.append(Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(text) - 1, latents=k % 7))
    want, _ = answers(backbone, rows, False, slots)
    for _ in range(2):  # recorded, then taken over by the next queue
        got, queue = answers(backbone, rows, True, slots)
        assert got == want
        assert queue.slots.steady.made > 0
        assert not queue.slots.steady._fails
        assert any(one.graph is not None for one in queue.slots.steady._passes.values())
        del queue


def test_slots_that_grow_are_recorded_anew():
    """Prompts short enough for the first slots, answers that outgrow them twice."""
    backbone = backbones.backbone("llama").cuda()
    rows = [Row(ids=(5, 6, 7), labels=(IGNORE,) * 3, start=1, latents=1, num_eos=10**9) for _ in range(3)]
    told = []
    for graphs in (False, True):
        queue = Scheduler(backbone, Recurrence(), slots=3, graphs=graphs)
        requests = [Request(row=row, speaking=SamplingParams(max_new_tokens=200), number=i) for i, row in enumerate(rows)]
        told.append([queue.done[n].tokens for n in queue.run(requests)])
    assert told[0] == told[1]
    assert not queue.slots.steady._fails
    assert queue.slots.columns > 128


def test_one_launch_instead_of_hundreds():
    """Latent passes are not launch-bound: most kernels of a question come out of a graph."""
    backbone = generate.backbone_of("smollm2-135m", torch.device("cuda"))
    rows = generate.questions(1, 40, 6, 1000)
    launches = {}
    for graphs in (False, True):
        for _ in range(2):
            answers(backbone, rows, graphs, 1)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            answers(backbone, rows, graphs, 1)
        launches[graphs] = sum(e.count for e in seen.key_averages() if e.key in ("cudaLaunchKernel", "cuLaunchKernel"))
    assert launches[True] * 3 < launches[False]
