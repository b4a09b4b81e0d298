"""Rows whose positions jump, and rows that speak past an eos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import backbones

from unspoken.core.loop.generate import generate
from unspoken.core.loop.loop import Loop, unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.errors import DataError

GREEDY = SamplingParams(max_new_tokens=24)


def row(ids: tuple[int, ...], latents: int = 0, start: int | None = None, **more) -> Row:
    return Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(ids) if start is None else start, latents=latents, **more)


GAPPED = [
    row(tuple(range(5, 25)), position_gap=(4, 7)),
    row(tuple(range(9, 21)), position_gap=(0, 3)),
    row(tuple(range(30, 50)), latents=2, start=6, position_gap=(7, 40)),
    row(tuple(range(60, 75))),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", backbones.ARCHS)
def test_a_gap_moves_positions_and_nothing_else(family: str, attention: str):
    """The states are those of one masked pass with these position ids, in a batch and alone. (Without a mask, transformers
    would take the jump for the border of two packed sequences.)"""
    backbone = backbones.backbone(family)
    backbone.lm.set_attn_implementation(attention)
    with torch.no_grad():
        together = unroll(backbone, collate(GAPPED), Recurrence())
        for b, gapped in enumerate(GAPPED):
            n, (place, size) = len(gapped.ids), gapped.position_gap
            embeds = backbone.embed(torch.tensor([gapped.ids])).clone()
            embeds[0, gapped.start : gapped.start + gapped.latents] = together.row(b).latents_BKD[0]
            positions = torch.tensor([[t + size * (t >= place) for t in range(n)]])
            want = backbone.step(embeds, positions_BT=positions, mask=torch.ones(1, n, dtype=torch.long))[0]
            alone = unroll(backbone, collate([gapped]), Recurrence())
            for trace, index in ((together, b), (alone, 0)):
                got = trace.hidden_at(np.full(n, index), np.arange(n))
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
            if size:
                plain = unroll(backbone, collate([replace(gapped, position_gap=(0, 0))]), Recurrence())
                moved = plain.hidden_at(np.zeros(n, int), np.arange(n))
                assert not torch.allclose(moved[place:], want[place:], rtol=1e-2, atol=1e-2) or (
                    place == 0 and family != "gpt2"
                )


def test_a_gap_of_a_branch():
    """Its columns have its own gap, the row's have none."""
    backbone = backbones.backbone("gpt2")
    other = row((1, 2, 3, 40, 41, 42), position_gap=(4, 9))
    with torch.no_grad():
        both = unroll(backbone, collate([row((1, 2, 3, 7, 8), branch=other, shared=3)]), None)
        assert both.branch is not None
        for trace, alone in ((both, row((1, 2, 3, 7, 8))), (both.branch, other)):
            places, zeros = np.arange(len(alone.ids)), np.zeros(len(alone.ids), int)
            want = unroll(backbone, collate([alone]), None).hidden_at(zeros, places)
            torch.testing.assert_close(trace.hidden_at(zeros, places), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_speaking_goes_on_behind_the_gap(family: str):
    """As one pass over prompt and words with the same jump chooses them."""
    backbone = backbones.backbone(family)
    together = generate(backbone, GAPPED, Recurrence(), SamplingParams(max_new_tokens=6), batch_size=4)
    with torch.no_grad():
        for gapped, answer in zip(GAPPED[:2], together, strict=False):
            ids = (*gapped.ids, *answer.tokens[:-1])
            trace = unroll(backbone, collate([row(ids, position_gap=gapped.position_gap)]), None)
            places = np.arange(len(gapped.ids) - 1, len(ids))
            chosen = backbone.logits(trace.hidden_at(np.zeros(len(places), int), places)).argmax(-1)
            assert tuple(chosen.tolist()) == answer.tokens


def test_a_gap_must_fit_into_the_context():
    backbone = backbones.backbone()
    long = row(tuple(range(1, 201)), position_gap=(3, 57), name="train-3")
    assert long.longest == 257
    with pytest.raises(DataError, match="train-3 is too long: 257 positions, the model's context is 256"):
        unroll(backbone, collate([row((1, 2)), long]), None)
    with pytest.raises(DataError, match="train-4 is too long: 257 positions"):
        unroll(backbone, collate([row((1, 2, 3), name="train-4", branch=long, shared=3)]), None)
    unroll(backbone, collate([replace(long, position_gap=(3, 56))]), None)


@pytest.mark.parametrize("size", [1, 3, 12])
def test_rows_pass_over_as_many_eos_as_they_are_told(size: int):
    """Each for itself; what they say before is what they would have said, and eos is not counted as seen."""
    backbone = backbones.backbone("llama")
    backbone.lm.generation_config.eos_token_id = list(range(3, backbone.vocabulary, 16))
    ends = [1 + i % 3 for i in range(12)]
    rows = [row(tuple(range(2 + i, 9 + 2 * i)), num_eos=n) for i, n in enumerate(ends)]
    answers = generate(backbone, rows, None, GREEDY, batch_size=size)
    firsts = generate(backbone, [replace(r, num_eos=1) for r in rows], None, GREEDY, batch_size=12)
    assert {a.finished for a in answers} == {True, False}
    for n, a, first in zip(ends, answers, firsts, strict=True):
        places = [i for i, token in enumerate(a.tokens) if token in backbone.eos_ids]
        assert a.finished == (len(places) == n)
        assert len(places) <= n
        assert a.tokens[-1] in backbone.eos_ids if a.finished else len(a.tokens) == GREEDY.max_new_tokens
        assert a.tokens[: len(first.tokens)] == first.tokens
        assert a.visible == len(a.tokens) - len(places)
        assert a.passed == len(places) - a.finished


def test_the_eos_that_are_passed_over_are_not_in_the_text():
    backbone = backbones.backbone()
    eos = backbone.tokenizer.eos_token_id
    words = [*backbone.encode("a b"), eos, *backbone.encode("c"), eos]
    said = iter(words)

    def choose(logits, rows):
        return torch.tensor([next(said)])

    from unspoken.core.loop.sampling import Sampler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "choose", lambda self, logits, rows: choose(logits, rows))
        (answer,) = generate(backbone, [row((1, 2, 3), num_eos=2)], None, GREEDY)
    assert (answer.text, answer.tokens, answer.finished, answer.passed) == ("a bc", tuple(words), True, 1)
    assert answer.visible == len(words) - 2


def test_a_loop_that_stops_early_has_not_finished():
    backbone = backbones.backbone()
    backbone.lm.generation_config.eos_token_id = list(range(backbone.vocabulary))
    _, speech = Loop(backbone, collate([row((1, 2), num_eos=5)]), None, speaking=SamplingParams(max_new_tokens=4)).run()
    assert (len(speech.tokens[0]), bool(speech.finished_B[0])) == (4, False)
    _, speech = Loop(backbone, collate([row((1, 2), num_eos=4)]), None, speaking=SamplingParams(max_new_tokens=4)).run()
    assert (len(speech.tokens[0]), bool(speech.finished_B[0])) == (4, True)
