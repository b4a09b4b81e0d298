"""The scheduler edits and shows latents as the loop does, and goes to it for nothing that it does itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import settings
from support.backbones import backbone
from torch import Tensor

from unspoken.core.engine import answering
from unspoken.core.fast.switch import PLAIN
from unspoken.core.loop.trace import Trace
from unspoken.core.rows.row import LatentKey
from unspoken.methods import make_method
from unspoken.runs.model import Model

ASKED = ["How many pens?", "Ann has 3 pens and buys 4 more. She doubles them. How many are that?", "Bob has 9 figs."]
METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut"},
    "codi": {"name": "codi", "latents": 4, "trailing": True},
    "pause": {"name": "pause", "marker_init": "pens"},
    "softcot": settings("softcot", "llama"),
}


def push(latents_ND: Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> Tensor:
    """Another change for every question and latent."""
    by_N = [len(name) + 3 * i for (name, _), i in zip(keys_N, index_N.tolist(), strict=True)]
    return latents_ND * (1 + 0.3 * torch.tensor(by_N, dtype=latents_ND.dtype)[:, None].cos())


@pytest.mark.parametrize("edit", [None, push], ids=["seen", "edited"])
@pytest.mark.parametrize("name", METHODS)
def test_latents_are_edited_and_seen_as_by_the_loop(name: str, edit: Any, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    method: Any = make_method(METHODS[name], backbone("llama")).eval()
    names = ["a", "long name", "another"]

    def answers(fast: Any) -> tuple[list[Any], dict[LatentKey, Tensor]]:
        kept: dict[LatentKey, Tensor] = {}

        def keep(trace: Trace, keys: Sequence[LatentKey]) -> None:
            kept.update((key, trace.row(b).latents_BKD[0]) for b, key in enumerate(keys))

        model = Model(method, fast=fast)
        said = model.answer(ASKED, names=names, batch_size=2, edit=edit, on_trace=keep, max_new_tokens=8)
        return [(a.tokens, a.passes, a.positions, a.latents) for a in said], kept

    want, latents = answers(PLAIN)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the loop was asked")

    monkeypatch.setattr(answering, "sample_batches", never)
    got, seen = answers(None)
    assert got == want
    assert seen.keys() == latents.keys() == {(name, 0) for name in names}
    for key, latents_KD in latents.items():
        torch.testing.assert_close(seen[key], latents_KD, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError, match="the loop was asked"):
        Model(method).sample(ASKED, samples=2, temperature=1.0)
