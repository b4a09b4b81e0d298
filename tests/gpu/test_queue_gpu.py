"""Continuous batching on a CUDA device. Skipped without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import backbones

from unspoken.bench import generate, serve_offline
from unspoken.core.engine.answering import sample
from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.loop import generate as by_loop
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.row import IGNORE, Row

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_a_queue_says_what_batches_say(family):
    rng, backbone = np.random.default_rng(0), backbones.backbone(family).cuda()
    rows = []
    for k in range(24):
        text = rng.integers(1, 300, int(rng.integers(3, 60))).tolist()
        ids = (*text[:-1], *(0,) * (k % 7), text[-1])
        rows.append(Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(text) - 1, latents=k % 7))
    assert supports_kv_slots(backbone, 100)
    want = by_loop.generate(backbone, rows, Recurrence(), SamplingParams(max_new_tokens=12))
    for slots in (3, 24):
        got = [one for (one,) in sample(backbone, rows, Recurrence(), SamplingParams(max_new_tokens=12), batch_size=slots)]
        assert [a.tokens for a in got] == [a.tokens for a in want]


def test_benches_run():
    found = generate.run("small-test", batches=(1, 8), explicit_batches=(8,), kinds=("float32", "bfloat16"), rounds=1)
    assert found["sides"]["ours, 8"]["peak_memory"] > 0
    served = serve_offline.run("small-test", requests=32, rows=8, rounds=1)
    assert served["answers_that_differ"] == 0
