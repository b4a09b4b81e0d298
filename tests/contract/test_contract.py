"""What every method keeps to, whatever paper it comes from (docs/design.md)."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import CASES, EXAMPLES, OLD_WORDS, Case, prompts, recurrent, settings, training_rows
from torch import Tensor

from unspoken.core.config import dump
from unspoken.core.loop.edits import edited
from unspoken.core.loop.generate import generate
from unspoken.core.loop.loop import Loop
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Iterated, Jacobi, Looped, PrecomputedThoughts
from unspoken.core.loop.trace import Answer, Trace
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, LatentKey, Row
from unspoken.methods import method_config
from unspoken.methods.base import Method, add_counts
from unspoken.methods.sim_cot import STEP_TARGETS

GREEDY = SamplingParams(max_new_tokens=8)
SAMPLED = SamplingParams(max_new_tokens=8, temperature=1.3, top_p=0.9, top_k=50, seed=7)


def close(got: Tensor, want: Tensor) -> None:
    """Equal but for float32 rounding, held against the largest entry."""
    if want.numel():
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5 * max(1.0, float(want.detach().abs().max())))


def loss_and_gradients(method: Any, rows: list[Row], counts: dict[str, np.ndarray]) -> tuple[float, dict[str, Tensor]]:
    """Total loss of some rows, and its gradients."""
    method.zero_grad(set_to_none=True)
    report = method(collate(rows), counts)
    report.total.backward()
    return float(report.total.detach()), {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}


def hidden_of(trace: Trace, b: int, length: int) -> Tensor:
    """Hidden states [T, D] of a row's given positions."""
    return trace.hidden_at(np.full(length, b), np.arange(length))


@functools.lru_cache(maxsize=1)
def greedily(method: Any) -> tuple[list[Row], list[Answer]]:
    """The case's questions and their answers, for the tests of a cell that look at them."""
    rows = prompts(method)
    return rows, generate(method.backbone, rows, method.source(), GREEDY)


@pytest.mark.parametrize("name", CASES)
def test_config_round_trips_through_json(name: str):
    config = method_config(settings(name))
    assert method_config(json.loads(json.dumps(dump(config)))) == config


def test_protocol(method: Any):
    assert isinstance(method, Method)
    assert method.backbone is method.at_inference.backbone
    assert method.at_inference.at_inference is method.at_inference
    batch = collate(training_rows(method))
    with torch.no_grad():
        trace = method(batch, method.counts(batch)).trace
    words = method.explain(trace)
    groups = trace.counts_B // method.latents_per_group if method.explains else np.zeros(len(trace.counts_B))
    assert [len(steps) for steps in words] == groups.tolist()


def test_a_row_in_a_batch_trains_as_the_row_alone(method: Any):
    """States, latents and terms of the loss, for mixed lengths, stages and numbers of latents.

    A trace begins with the rows of the batch; other sets of thoughts on the same rows stand behind them.
    """
    rows = training_rows(method)
    batch = collate(rows)
    counts = method.counts(batch)
    with torch.no_grad():
        together = method(batch, counts)
        sums = dict.fromkeys(together.terms, 0.0)
        for b, row in enumerate(rows):
            alone = method(collate([row]), counts)
            for term, value in alone.terms.items():
                sums[term] = sums[term] + float(value)
            for copy in range(len(alone.trace.counts_B)):
                close(together.trace.row(copy * len(rows) + b).latents_BKD, alone.trace.row(copy).latents_BKD)
            close(hidden_of(together.trace, b, len(row.ids)), hidden_of(alone.trace, 0, len(row.ids)))
    for term, value in together.terms.items():
        assert sums[term] == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("speaking", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_in_a_batch_answers_as_the_row_alone(method: Any, speaking: SamplingParams):
    """Tokens, passes and positions, for mixed lengths and 0 to 13 latents."""
    rows = prompts(method)[:: 1 if speaking is GREEDY else 2]
    together = generate(method.backbone, rows, method.source(), speaking, batch_size=len(rows))
    alone = generate(method.backbone, rows, method.source(), speaking, batch_size=1)
    for a, b in zip(together, alone, strict=True):
        assert (a.tokens, a.finished, a.passes, a.positions) == (b.tokens, b.finished, b.passes, b.positions)


def test_positions_and_passes_are_minimal(method: Any):
    """Nothing is forwarded twice, but slots that are looped over: a pass per latent, or as many as the source says, and one
    per token; the last token is never fed."""
    source = method.source()
    for row, answer in zip(*greedily(method), strict=True):
        passes = row.latents if recurrent(method) else 0
        again = 0
        if isinstance(source, Iterated) and row.latents:
            passes = source.passes_for(row.latents)
            again = (passes - 1) * (row.latents if source.own_slot else row.latents - 1)
        assert answer.latents == row.latents
        assert answer.positions == len(row.ids) + again + len(answer.tokens) - 1
        assert answer.passes == passes + len(answer.tokens)


def test_cached_equals_uncached(method: Any):
    """The loop's states are those of one forward pass, without cache, over each whole sequence, latents included."""
    rows = prompts(method)
    with torch.no_grad():
        loop = Loop(method.backbone, collate(rows), method.source(), speaking=GREEDY, keep_hidden=True)
        trace, speech = loop.run()
        for b, row in enumerate(rows):
            ids = torch.tensor([*row.ids, *speech.tokens[b][:-1]])
            embeds = method.backbone.embed(ids).clone()
            embeds[row.start : row.start + row.latents] = trace.row(b).latents_BKD[0, : row.latents]
            whole = method.backbone.step(embeds[None], positions_BT=torch.arange(len(ids))[None])[0]
            close(hidden_of(trace, b, len(row.ids)), whole[: len(row.ids)])
            assert method.backbone.logits(whole[len(row.ids) - 1 :]).argmax(-1).tolist() == speech.tokens[b]


def test_a_latent_is_made_from_the_state_before_it(method: Any):
    """What the trace calls a latent's state is the state of the position before its slot; prompted thoughts have none. In T
    parallel passes only the first T latents are exact, and those behind were made from states of the pass before."""
    rows = training_rows(method)
    batch = collate(rows)
    with torch.no_grad():
        trace = method(batch, method.counts(batch)).trace
    assert (trace.states_BKD is None) != recurrent(method)
    if trace.states_BKD is not None:
        for b, row in enumerate(rows):
            exact = min(row.latents, method.source().passes) if isinstance(method.source(), Jacobi) else row.latents
            states = hidden_of(trace, b, len(row.ids))[row.start - 1 : row.start - 1 + exact]
            close(trace.states_BKD[b, :exact], states)


def test_exactly_the_declared_parameters_train(method: Any, case: Case):
    """Each gets a gradient, rows of new tokens included; everything else stays bit-identical through a step."""
    rows = training_rows(method)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        words = torch.arange(len(method.backbone.tokenizer))
        embedded = method.backbone.embed(words).clone()
    loss_and_gradients(method, rows, method.counts(collate(rows)))
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    for name, p in method.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == p.requires_grad, name
    try:
        torch.optim.AdamW(trained.values(), lr=1e-2).step()
        after = method.state_dict()
        tied = {value.data_ptr() for value in trained.values()}
        for name, value in before.items():
            assert torch.equal(after[name], value) != (after[name].data_ptr() in tied), name
        with torch.no_grad():
            moved = (method.backbone.embed(words) != embedded).any(dim=1)
        replaced = method.source() is not None
        fed = {i for row in rows for t, i in enumerate(row.ids)
               if not (replaced and row.start <= t < row.start + row.latents)}  # fmt: skip
        new = sorted(i for i in fed if i >= OLD_WORDS)
        assert moved[new].all()
        assert bool(moved[:OLD_WORDS].any()) != (case.lora or case.frozen or case.rows)
    finally:
        method.load_state_dict(before)


def test_gradient_reaches_the_first_latent(method: Any, monkeypatch: pytest.MonkeyPatch):
    """Through all latents after it, back into the state it was made from: where thoughts are tokens, into their slots."""
    rows = training_rows(method)
    if method.source() is None:
        fed: list[Tensor] = []
        embed = method.backbone.embed

        def keep(ids: Tensor) -> Tensor:
            fed.append(embed(ids))
            if fed[-1].requires_grad:  # with LoRA and no new token, nothing that is fed trains
                fed[-1].retain_grad()
            return fed[-1]

        monkeypatch.setattr(method.backbone, "embed", keep)
        loss_and_gradients(method, rows, method.counts(collate(rows)))
        for b, row in enumerate(rows):
            if row.latents:
                assert fed[0].grad is not None
                assert fed[0].grad[b, row.start : row.start + row.latents].any(dim=1).all()
        return
    rows = [replace(row, name=str(b)) for b, row in enumerate([row for row in rows if row.latents >= 2][:3])]
    made: list[Tensor] = []

    def watch(latents_ND: Tensor, keys_N: Sequence[LatentKey], index_N: np.ndarray) -> Tensor:
        places = zip(keys_N, index_N, strict=True)
        if all(number < rows[int(name)].latents for (name, _), number in places):  # fed, not trailing
            latents_ND.retain_grad()
            made.append(latents_ND)
        return latents_ND

    source = method.source()
    monkeypatch.setattr(method.at_inference, "source", lambda: edited(source, watch, collate(rows).keys()))
    loss_and_gradients(method, rows, method.counts(collate(rows)))
    slots = sum(row.latents for row in rows)
    at_once = slots if isinstance(source, Looped) else len(rows)
    assert made[0].shape[0] == (source.chains * slots if isinstance(source, PrecomputedThoughts) else at_once)
    for latent in made:
        assert latent.grad is not None
        assert latent.grad.any(dim=1).all()


def test_terms_sum_to_the_total(method: Any):
    rows = training_rows(method)
    report = method(collate(rows), method.counts(collate(rows)))
    assert report.total.item() == pytest.approx(sum(term.item() for term in report.terms.values()), rel=1e-6)
    assert all(term.requires_grad and term.ndim == 0 and torch.isfinite(term) for term in report.terms.values())


def test_micro_batches_give_the_gradient_of_the_whole(method: Any):
    """Counts of the parts add up; so do losses and gradients, however the rows are split."""
    rows = training_rows(method)
    whole_counts = method.counts(collate(rows))
    whole_loss, whole = loss_and_gradients(method, rows, whole_counts)
    parts = [rows[:1], rows[1:4], rows[4:]]
    counts = add_counts([method.counts(collate(part)) for part in parts])
    assert counts.keys() == whole_counts.keys()
    for term in counts:
        np.testing.assert_array_equal(counts[term], whole_counts[term])
    done = [loss_and_gradients(method, part, counts) for part in parts]
    assert sum(loss for loss, _ in done) == pytest.approx(whole_loss, rel=1e-5)
    for name, gradient in whole.items():
        total = sum((gradients[name] for _, gradients in done if name in gradients), start=torch.zeros_like(gradient))
        close(total, gradient)


def test_a_wrapped_method_answers_as_its_inner_one(method: Any):
    if method.at_inference is method:
        return
    rows, ours = greedily(method)
    assert prompts(method.at_inference) == rows
    inner = generate(method.at_inference.backbone, rows, method.at_inference.source(), GREEDY)
    assert [answer.tokens for answer in ours] == [answer.tokens for answer in inner]


def test_inference_sees_the_question_only(method: Any):
    """`prompt` takes nothing else; and it is what every training row of that question begins with, up to its labels."""
    assert list(inspect.signature(method.prompt).parameters) == ["question", "latents", "name"]
    stages = [phase.stage for phase in method.curriculum().phases]
    rows = training_rows(method)
    assert len(rows) == len(stages) * len(EXAMPLES)
    for row, example in zip(rows, EXAMPLES * len(stages), strict=True):
        given = next(t for t, label in enumerate(row.labels) if label != IGNORE)
        prompt = method.prompt(example.question, row.latents, example.id)
        assert prompt.ids == row.ids[:given]
        assert (prompt.start, prompt.latents, prompt.name) == (min(row.start, given), row.latents, row.name)
        assert set(prompt.labels) == {IGNORE}
        assert STEP_TARGETS not in prompt.extra


def test_as_many_latents_as_training_ended_with(method: Any):
    """The number that inference takes by itself is the most that the last stage has."""
    stage = method.curriculum().last
    most = max(method.layout(example, stage, _Last()).latents for example in EXAMPLES)
    assert method.prompt("How many?").latents == most


class _Last:
    """Dice that always fall on the last option."""

    def random(self) -> float:
        return 0.0

    def choice(self, options: Any) -> Any:
        return options[-1]

    def choices(self, options: Any, weights: Any) -> list[Any]:
        return [options[-1]]
