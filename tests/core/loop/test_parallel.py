"""Latents made in parallel passes: T >= K passes are the sequential ones, in training and speaking; fewer are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import training_rows
from support import backbones
from torch import nn

from unspoken.core.loop.edits import Edited, edited
from unspoken.core.loop.generate import generate
from unspoken.core.loop.loop import Loop, unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Jacobi, Looped, PrecomputedThoughts, Recurrence, at_once, parallel
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.errors import ConfigError
from unspoken.methods import make_method
from unspoken.runs.model import Model

SAMPLED = SamplingParams(max_new_tokens=12, temperature=1.0, seed=3)

METHODS: dict[str, dict[str, Any]] = {
    "coconut": {"name": "coconut", "first_stage": 0},
    "codi": {"name": "codi", "latents": 4},
    "codi trailing": {"name": "codi", "latents": 5, "trailing": True},
    "sim_cot": {"name": "sim_cot", "inner": {"name": "coconut", "first_stage": 0}},
    "sim_cot codi": {"name": "sim_cot", "inner": {"name": "codi", "latents": 4, "trailing": True}, "normalisation": "group"},
}


def rows_of(latents: list[int]) -> list[Row]:
    """Prompts of random tokens with so many latents, some text behind them."""
    rng, words = np.random.default_rng(1), len(backbones.tokenizer())
    rows = []
    for i, k in enumerate(latents):
        before, behind = int(rng.integers(2, 30)), int(rng.integers(0, 9))
        ids = rng.integers(1, words, before + k + behind).tolist()
        labels = (IGNORE,) * len(ids)
        rows.append(Row(ids=tuple(ids), labels=labels, start=before if k else len(ids), latents=k, name=f"row {i}"))
    return rows


def method_of(settings: dict[str, Any], family: str, passes: int | None) -> Any:
    """A method on random weights, the same whatever the passes."""
    base = backbones.backbone(family)
    torch.manual_seed(1)
    base.parallel = passes
    return make_method(settings, base)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("more", [0, 2])
def test_as_many_passes_as_latents_train_as_one_latent_after_the_other(name: str, family: str, more: int):
    """The loss, every latent and every gradient."""
    seen = []
    most = 0
    for passes in (None, 1):
        method = method_of(METHODS[name], family, passes if passes is None else most + more)
        rows = training_rows(method)
        most = max(row.latents for row in rows)
        batch = collate(rows)
        report = method(batch, method.counts(batch))
        report.total.backward()
        grads = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
        seen.append((report, grads))
    (want, want_grads), (got, got_grads) = seen
    assert float(got.total.detach()) == pytest.approx(float(want.total.detach()), rel=1e-5)
    torch.testing.assert_close(got.trace.latents_BKD, want.trace.latents_BKD, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.trace.states_BKD, want.trace.states_BKD, rtol=1e-4, atol=1e-4)
    for key, grad in want_grads.items():
        torch.testing.assert_close(got_grads[key], grad, rtol=1e-3, atol=1e-4 * max(1.0, float(grad.abs().max())), msg=key)
    assert got.trace.cost.passes == want.trace.cost.passes


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_as_many_passes_as_latents_speak_as_one_latent_after_the_other(family: str):
    """Tokens, for rows with 0 to 9 latents in one batch; copies of rows included."""
    backbone, rows = backbones.backbone(family), rows_of([0, 3, 9, 1, 5, 0, 2])
    want = generate(backbone, rows, Recurrence(), SAMPLED)
    assert [a.tokens for a in generate(backbone, rows, Jacobi(Recurrence(), 9), SAMPLED)] == [a.tokens for a in want]
    assert [a.tokens for a in generate(backbone, rows, Jacobi(Recurrence(), 12), SAMPLED)] == [a.tokens for a in want]
    assert [a.tokens for a in generate(backbone, rows, Jacobi(Recurrence(), 2), SAMPLED)] != [a.tokens for a in want]


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_row_in_a_batch_is_the_row_alone(passes: int):
    backbone, rows = backbones.backbone("llama"), rows_of([0, 3, 6, 1, 5])
    with torch.no_grad():
        together = unroll(backbone, collate(rows), Jacobi(Recurrence(), passes))
        for b, row in enumerate(rows):
            alone = unroll(backbone, collate([row]), Jacobi(Recurrence(), passes))
            torch.testing.assert_close(together.row(b).latents_BKD, alone.latents_BKD, rtol=1e-4, atol=1e-4)
            places = np.arange(len(row.ids))
            got, want = together.hidden_at(np.full(len(places), b), places), alone.hidden_at(0 * places, places)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("passes", [1, 2, 3, 6])
def test_passes_and_positions_are_those_that_are_asked_for(passes: int):
    """One for the prompt, T - 1 over all slots but the last, one that carries the text behind them; no row makes more than
    one per latent."""
    backbone, rows = backbones.backbone("llama"), rows_of([6, 6, 4])
    with torch.no_grad():
        cost = unroll(backbone, collate(rows), Jacobi(Recurrence(), passes)).cost
    assert cost.passes == 1 + passes
    again = (passes - 1) * (5 + 5) + (min(passes, 4) - 1) * 3
    assert cost.positions == sum(len(row.ids) for row in rows) + again


def test_slots_whose_tokens_are_read_first():
    """Every pass by hand, without a cache: the tokens, then twice all latents; rows with 0 to 6 of them in one batch."""
    backbone, rows = backbones.backbone("llama"), rows_of([6, 0, 3, 2, 1])
    source = Jacobi(Recurrence(), 2, tokens_first=True)
    assert [source.passes_for(row.latents) for row in rows] == [3, 0, 3, 2, 1]
    with torch.no_grad():
        trace = unroll(backbone, collate(rows), source)
        for b, row in enumerate(rows):
            embeds = backbone.embed(torch.tensor(row.ids)).clone()
            slots, at = slice(row.start, row.start + row.latents), torch.arange(len(row.ids))[None]
            for _ in range(2):  # with two latents or one, that is exact
                hidden = backbone.step(embeds[None], positions_BT=at)[0]
                embeds[slots] = hidden[row.start - 1 : row.start - 1 + row.latents]
            torch.testing.assert_close(trace.row(b).latents_BKD[0], embeds[slots], rtol=1e-4, atol=1e-4)
            alone = unroll(backbone, collate([row]), source)
            torch.testing.assert_close(trace.row(b).states_BKD, alone.states_BKD, rtol=1e-4, atol=1e-4)
    assert trace.cost.passes == 1 + 3
    other = edited(source, lambda latents, *_: latents, [("", 0)])
    assert isinstance(other, Jacobi)
    assert other.tokens_first


def test_slots_are_exact_from_the_front():
    """After t passes the first t latents are the sequential ones, and the next is not."""
    backbone, rows = backbones.backbone("qwen3"), rows_of([6])
    with torch.no_grad():
        want = unroll(backbone, collate(rows), Recurrence()).latents_BKD[0]
        for passes in (1, 2, 4):
            got = unroll(backbone, collate(rows), Jacobi(Recurrence(), passes)).latents_BKD[0]
            gaps = (got - want).abs().amax(dim=1)
            assert gaps[:passes].max() < 1e-4 < gaps[passes:].min()


def test_a_slot_that_no_pass_has_made_holds_its_token():
    backbone, rows = backbones.backbone("llama"), rows_of([4])
    with torch.no_grad():
        got = unroll(backbone, collate(rows), Jacobi(Recurrence(), 1)).latents_BKD[0]
    start = rows[0].start
    tokens = backbone.embed(torch.tensor(rows[0].ids[start + 1 : start + 4]))
    torch.testing.assert_close(got[1:], tokens)


def test_an_edit_stands_in_the_way_of_every_latent():
    """Edited and parallel, in either order."""
    backbone, rows = backbones.backbone("llama"), rows_of([5, 2])
    keys = collate(rows).keys()
    edit = lambda latents, *_: latents * 0.5  # noqa: E731
    with torch.no_grad():
        want = unroll(backbone, collate(rows), Edited(Recurrence(), edit, keys)).latents_BKD
        for source in (edited(Jacobi(Recurrence(), 5), edit, keys), Jacobi(Edited(Recurrence(), edit, keys), 5)):
            got = unroll(backbone, collate(rows), source).latents_BKD
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_gradient_of_few_passes_reaches_projection_and_slot_tokens():
    backbone, rows = backbones.backbone("gpt2"), rows_of([4, 4])
    project = nn.Linear(32, 32)
    trace = Loop(backbone, collate(rows), Jacobi(Recurrence(project), 2), keep_hidden=True).run()[0]
    trace.latents_BKD[:, 3].sum().backward()
    assert project.weight.grad is not None
    assert float(project.weight.grad.abs().sum()) > 0
    table = backbone.lm.get_input_embeddings().weight.grad
    start = rows[0].start
    assert float(table[rows[0].ids[start + 2]].abs().sum()) > 0


def test_what_cannot_be_made_in_parallel_says_so():
    class Known:
        chains = 1

        def vectors(self, batch: Any, chains: int = 1) -> Any: ...

    assert isinstance(Known(), PrecomputedThoughts)
    with pytest.raises(ConfigError, match="are known before"):
        parallel(Known(), 2)
    with pytest.raises(ConfigError, match="are known before"):
        parallel(None, 2)
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        parallel(Recurrence(), 0)
    assert parallel(None, None) is None
    again = parallel(parallel(Recurrence(), 2), 3)
    assert isinstance(again, Jacobi)
    assert again.passes == 3
    assert isinstance(again.inner, Recurrence)


def test_a_model_can_be_told_how_many_passes_to_think_in():
    """As trained unless told; as many as latents is the same thought, fewer is another."""
    method = method_of(METHODS["coconut"], "llama", None)
    model, asked = Model(method), ["How many pens?", "Ann has 3 pens. How many?"]
    want = model.think(asked)
    model.parallel = 6
    torch.testing.assert_close(model.think(asked).latents_BKD, want.latents_BKD, rtol=1e-4, atol=1e-4)
    model.parallel = 2
    few = model.think(asked)
    assert few.cost.passes == 3 < want.cost.passes == 7
    assert not torch.allclose(few.latents_BKD, want.latents_BKD, atol=1e-3)
    assert model.answer(asked, max_new_tokens=3)[0].passes == 1 + 2 + 3 - 1
    pause = Model(make_method({"name": "pause", "marker_init": "pens"}, backbones.backbone("llama")))
    pause.parallel = 2
    with pytest.raises(ConfigError, match="are known before"):
        pause.answer(asked)


def test_slots_that_are_looped_over_are_fed_their_own_states():
    """Each loop by hand, one row at a time, without a cache; rows with 0 to 7 slots and up to three loops in one batch."""
    backbone, rows, source = backbones.backbone("llama"), rows_of([0, 3, 7, 4, 1]), Looped(Recurrence(), 3)
    with torch.no_grad():
        trace = unroll(backbone, collate(rows), source)
        for b, row in enumerate(rows):
            loops = source.passes_for(row.latents) - 1 if row.latents else 0
            assert loops == -(-row.latents // 3)
            embeds = backbone.embed(torch.tensor(row.ids)).clone()
            slots, at = slice(row.start, row.start + row.latents), torch.arange(len(row.ids))[None]
            for number in range(loops):
                hidden = backbone.step(embeds[None], positions_BT=at)[0]
                before = hidden[row.start - 1 : row.start - 1 + row.latents]
                torch.testing.assert_close(trace.rounds[number][b, : row.latents], before, rtol=1e-4, atol=1e-4)
                embeds[slots] = hidden[slots]
            torch.testing.assert_close(trace.row(b).latents_BKD[0], embeds[slots], rtol=1e-4, atol=1e-4)
            hidden = backbone.step(embeds[None], positions_BT=at)[0]
            got = trace.hidden_at(np.full(len(row.ids), b), np.arange(len(row.ids)))
            torch.testing.assert_close(got, hidden, rtol=1e-4, atol=1e-4)
            assert len(trace.row(b).rounds) == 3
    positions = sum(len(row.ids) for row in rows) + 3 * 1 + 7 * 3 + 4 * 2 + 1 * 1
    assert (trace.cost.passes, trace.cost.positions) == (1 + 3 + 1, positions)


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_looped_slots_speak_alone_as_in_a_batch(family: str):
    backbone, rows, source = backbones.backbone(family), rows_of([0, 3, 7, 4, 1]), Looped(Recurrence(), 3)
    together = generate(backbone, rows, source, SAMPLED)
    alone = generate(backbone, rows, source, SAMPLED, batch_size=1)
    for row, a, b in zip(rows, together, alone, strict=True):
        assert (a.tokens, a.passes, a.positions) == (b.tokens, b.passes, b.positions)
        assert a.passes == -(-row.latents // 3) + (row.latents > 0) + len(a.tokens)


def test_looped_slots_have_passes_of_their_own():
    """Neither an edit nor a model that is told to think in parallel changes how often they are looped over."""
    source = Looped(Recurrence(), 3)
    assert at_once(source, 2) is source
    with pytest.raises(ConfigError, match="in loops"):
        parallel(source, 2)
    assert parallel(source, None) is source
    other = edited(source, lambda latents, *_: latents * 0, [("row 0", 0)])
    assert isinstance(other, Looped)
    assert other.passes_for(7) == 4
    backbone, rows = backbones.backbone("llama"), rows_of([4])
    with torch.no_grad():
        made = unroll(backbone, collate(rows), other).latents_BKD
    assert not made.any()
