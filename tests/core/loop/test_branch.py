"""A branch is forwarded with its row, and neither changes what the other is alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import backbones
from support.families import FAMILIES, model

from unspoken.core.loop.branch import column_layout, visible
from unspoken.core.loop.loop import unroll
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method

OURS = ("gpt2", "llama", "qwen3")


def row(ids: tuple[int, ...], *, start: int | None = None, latents: int = 0, **more) -> Row:
    return Row(ids=ids, labels=(IGNORE,) * len(ids), start=len(ids) if start is None else start, latents=latents, **more)


def forked(question: tuple[int, ...], latents: int, behind: int, branch: int) -> Row:
    """question | bot | latents | behind, and question | branch; the last position of each is watched."""
    ids = (*question, 7, *(8,) * latents, *range(20, 20 + behind))
    other = (*question, *range(40, 40 + branch))
    return row(
        ids,
        start=len(question) + 1,
        latents=latents,
        capture_at=len(ids) - 1,
        branch=row(other, capture_at=len(other) - 1),
        shared=len(question),
    )


ROWS = [forked((1, 2, 3), 3, 4, 5), forked((5, 4, 3, 2, 1, 9), 3, 1, 2), forked((6,), 0, 3, 9), forked((1, 2), 1, 2, 1)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", OURS)
def test_row_and_branch_are_what_each_is_alone(family: str, attention: str):
    """States, latents and watched layers: of rows of any length in one batch, with and without latents."""
    body = backbones.backbone(family)
    body.lm.set_attn_implementation(attention)
    with torch.no_grad():
        together = unroll(body, collate(ROWS), Recurrence())
        assert together.branch is not None
        assert together.captured_LBD is not None
        assert together.branch.captured_LBD is not None
        for b, whole in enumerate(ROWS):
            assert whole.branch is not None
            own = unroll(body, collate([replace(whole, branch=None, shared=0)]), Recurrence())
            other = unroll(body, collate([whole.branch]), None)
            for got, alone, length in ((together, own, len(whole.ids)), (together.branch, other, len(whole.branch.ids))):
                places = np.arange(length)
                states = got.hidden_at(np.full(length, b), places)
                torch.testing.assert_close(states, alone.hidden_at(np.zeros(length, int), places), rtol=1e-4, atol=1e-4)
                assert got.captured_LBD is not None
                assert alone.captured_LBD is not None
                torch.testing.assert_close(got.captured_LBD[:, b], alone.captured_LBD[:, 0], rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(got.captured_LBD[-1, b], states[-1])
            torch.testing.assert_close(together.row(b).latents_BKD, own.latents_BKD, rtol=1e-4, atol=1e-4)
    assert len(together.captured_LBD) == 3  # embeddings and two layers


def test_nothing_shared_is_forwarded_twice():
    """As many passes as without a branch, and every position once."""
    trace = unroll(backbones.backbone("gpt2"), collate(ROWS), Recurrence())
    assert trace.cost.passes == 4
    assert trace.cost.positions == sum(len(r.ids) + len(r.branch.ids) - r.shared for r in ROWS if r.branch)
    assert trace.cost.positions == sum(r.positions for r in ROWS)


def test_gradient_of_a_branch_reaches_the_question_and_not_the_row():
    body = backbones.backbone("llama")
    batch = collate([forked((1, 2, 3), 2, 3, 4)])
    trace = unroll(body, batch, Recurrence())
    assert trace.branch is not None
    trace.branch.hidden_at(np.array([0]), np.array([6])).sum().backward()
    table = body.lm.get_input_embeddings().weight.grad
    assert table is not None
    assert table[[1, 2, 3, 40, 43]].any(dim=1).all()
    assert not table[[7, 20, 21, 22]].any()


def test_rows_with_and_without_a_branch_share_a_batch():
    body = backbones.backbone("qwen3")
    plain = row((1, 2, 3, 4))
    with torch.no_grad():
        trace = unroll(body, collate([ROWS[0], plain]), Recurrence())
        alone = unroll(body, collate([plain]), Recurrence())
    got = trace.hidden_at(np.ones(4, int), np.arange(4))
    torch.testing.assert_close(got, alone.hidden_at(np.zeros(4, int), np.arange(4)), rtol=1e-4, atol=1e-4)


def test_the_longer_of_row_and_branch_must_fit():
    body = backbones.backbone("gpt2")
    with pytest.raises(DataError, match="row 0 is too long: 257 positions, the model's context is 256"):
        unroll(body, collate([forked((1, 2), 1, 1, 255)]), Recurrence())


@pytest.mark.parametrize(
    "broken",
    [
        row((1, 2, 3), branch=row((1, 9, 3)), shared=2),
        row((1, 2, 3), start=1, latents=1, branch=row((1, 2, 3)), shared=2),
        row((1, 2, 3), branch=row((1, 2, 3), start=2, latents=1), shared=1),
    ],
    ids=["another beginning", "shares a latent", "has latents"],
)
def test_a_branch_must_begin_as_its_row(broken: Row):
    with pytest.raises(DataError, match="its branch must begin with the row's first"):
        collate([broken])


def test_attention_that_is_causal_only_is_refused():
    body = backbones.backbone("llama")
    body.lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"a branch needs backbone\.attention=sdpa or eager, got 'flash_attention_2'"):
        unroll(body, collate(ROWS), Recurrence())


@pytest.mark.parametrize("family", FAMILIES)
def test_codi_takes_a_family(family: str):
    """Where a row beside its branch is not what it is alone, they go apart: Bloom makes its bias from a flat mask."""
    body = model(family).method.backbone.eval()
    method = make_method({"name": "codi"}, body)
    batch = collate(ROWS)
    with torch.no_grad():
        together = unroll(body, batch, method.source())
        for b, whole in enumerate(ROWS):
            alone = unroll(body, collate([whole]), method.source())
            torch.testing.assert_close(together.row(b).latents_BKD, alone.latents_BKD, rtol=1e-3, atol=1e-3)
            assert together.branch is not None
            assert together.branch.captured_LBD is not None
            assert alone.branch is not None
            assert alone.branch.captured_LBD is not None
            states = together.branch.captured_LBD[:, b], alone.branch.captured_LBD[:, 0]
            torch.testing.assert_close(*states, rtol=1e-3, atol=1e-3)


def test_who_sees_whom():
    """One row: two shared positions, one own, two of the branch, one of padding."""
    own, branch, positions = column_layout(np.array([3]), np.array([2]), np.array([0]), np.array([2]))
    assert positions.tolist() == [[0, 1, 2, 2, 3]]
    assert own.tolist() == [[True, True, True, False, False]]
    sees = visible(own, branch, positions, np.array([2]))[0, 0].astype(int).tolist()
    assert sees == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
