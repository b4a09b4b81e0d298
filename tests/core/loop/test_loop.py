"""The one loop: batches, phases, sampling, streaming, and rows that leave."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support import backbones

from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.edits import Edited
from unspoken.core.loop.generate import generate, think
from unspoken.core.loop.loop import Loop, unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.errors import DataError
from unspoken.methods import make_method

GREEDY = SamplingParams(max_new_tokens=24)
SAMPLED = SamplingParams(max_new_tokens=24, temperature=1.0, seed=3)


def row(rng: np.random.Generator, length: int, latents: int, name: str = "") -> Row:
    """A prompt of random tokens: some, then latents, then an end."""
    words = len(backbones.tokenizer())
    ids = rng.integers(1, words, length).tolist()
    start = len(ids) if latents == 0 else int(rng.integers(1, length))
    ids = (*ids[:start], *(0,) * latents, *ids[start:])
    return Row(ids=ids, labels=(IGNORE,) * len(ids), start=start if latents else len(ids), latents=latents, name=name)


def many_rows(count: int = 32) -> list[Row]:
    """Mixed lengths, 0 to 13 latents."""
    rng = np.random.default_rng(0)
    return [row(rng, int(rng.integers(2, 60)), i % 14, f"row {i}") for i in range(count)]


def speaker(family: str) -> Backbone:
    """A backbone whose answers have many lengths: one token in sixteen ends them."""
    backbone = backbones.backbone(family)
    backbone.lm.generation_config.eos_token_id = list(range(3, backbone.vocabulary, 16))
    return backbone


@pytest.mark.parametrize(
    ("family", "speaking"),
    [("gpt2", SAMPLED), ("llama", GREEDY), ("llama", SAMPLED), ("qwen3", SAMPLED), ("nanochat", GREEDY)],
)
def test_rows_together_say_what_each_says_alone(family: str, speaking: SamplingParams):
    """Token for token, with rows that think 0 to 13 times, leave early, and are compacted away."""
    backbone, rows = speaker(family), many_rows()
    together = generate(backbone, rows, Recurrence(), speaking, batch_size=32)
    some = generate(backbone, rows, Recurrence(), speaking, batch_size=5)
    alone = generate(backbone, rows, Recurrence(), speaking, batch_size=1)
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert [a.tokens for a in some] == [a.tokens for a in alone]
    assert [(a.passes, a.positions) for a in together] == [(a.passes, a.positions) for a in alone]
    lengths = {len(a.tokens) for a in together}
    assert len(lengths) > 3
    assert {a.finished for a in together} == {True, False}
    for a, r in zip(together, rows, strict=True):
        assert a.positions == len(r.ids) + len(a.tokens) - 1
        assert a.passes == r.latents + len(a.tokens)
        assert a.finished == (a.tokens[-1] in backbone.eos_ids)
        assert a.text == backbone.decode(a.tokens[:-1] if a.finished else a.tokens)


def test_a_batch_takes_no_more_passes_than_its_longest_row():
    backbone, rows = speaker("llama"), many_rows()
    with torch.no_grad():
        trace, speech = Loop(backbone, collate(rows), Recurrence(), speaking=GREEDY).run()
    assert trace.cost.passes == speech.passes_B.max()
    assert trace.cost.positions == speech.positions_B.sum()
    assert trace.cost.slots >= trace.cost.positions


def test_rows_that_have_finished_leave_the_batch():
    """Later passes have fewer rows: the cache is compacted, not carried along."""
    backbone, sizes = speaker("gpt2"), []
    step = backbone.step

    def watched(embeds: torch.Tensor, **more: Any) -> torch.Tensor:
        sizes.append(len(embeds))
        return step(embeds, **more)

    backbone.step = watched  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        Loop(backbone, collate(many_rows()), Recurrence(), speaking=GREEDY).run()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] // 2


def test_states_are_kept_for_rows_that_have_left():
    backbone, rows = speaker("llama"), many_rows(12)
    with torch.no_grad():
        trace, speech = Loop(backbone, collate(rows), Recurrence(), speaking=GREEDY, keep_hidden=True).run()
        assert len({len(tokens) for tokens in speech.tokens}) > 1
        for b, r in enumerate(rows):
            alone = unroll(backbone, collate([r]), Recurrence())
            places = np.arange(len(r.ids))
            got = trace.hidden_at(np.full(len(places), b), places)
            torch.testing.assert_close(got, alone.hidden_at(np.zeros(len(places), dtype=int), places), rtol=1e-4, atol=1e-4)


def test_eos_as_the_first_token():
    backbone = backbones.backbone()
    (plain,) = generate(backbone, many_rows(1), None, GREEDY)
    backbone.lm.generation_config.eos_token_id = plain.tokens[0]
    (answer,) = generate(backbone, many_rows(1), None, GREEDY)
    assert (answer.tokens, answer.finished, answer.text) == (plain.tokens[:1], True, "")


def test_tokens_are_streamed_as_they_are_chosen():
    """With the number of the row among those given, whatever the order in which batches run."""
    backbone, rows, heard = speaker("llama"), many_rows(9), {}
    answers = generate(
        backbone, rows, Recurrence(), GREEDY, batch_size=4, on_token=lambda i, token: heard.setdefault(i, []).append(token)
    )
    assert {i: tuple(tokens) for i, tokens in heard.items()} == {i: a.tokens for i, a in enumerate(answers)}


@pytest.mark.parametrize(("length", "latents", "spoken"), [(250, 0, 8), (240, 13, 5), (256, 0, 2)])
def test_a_row_that_does_not_fit_is_named(length: int, latents: int, spoken: int):
    rng = np.random.default_rng(0)
    rows = [row(rng, 5, 0, "small"), row(rng, length, latents, "train-17")]
    message = f"train-17 is too long: {length + latents} positions + {spoken} answer tokens, the model's context is 256"
    with pytest.raises(DataError, match=re.escape(message)):
        generate(backbones.backbone(), rows, Recurrence(), SamplingParams(max_new_tokens=spoken))
    with pytest.raises(DataError, match="row 0 is too long: 257 positions, the model's context is 256; shorten"):
        unroll(backbones.backbone(), collate([row(rng, 257, 0)]), None)


def test_a_row_that_just_fits():
    (answer,) = generate(
        backbones.backbone("gpt2"), [row(np.random.default_rng(0), 243, 9)], Recurrence(), SamplingParams(max_new_tokens=5)
    )
    assert len(answer.tokens) == 5


def test_thinking_without_speaking():
    """The same latents as while speaking, and as in training."""
    backbone, rows = backbones.backbone("qwen3"), many_rows(14)
    thought = think(backbone, rows, Recurrence())
    with torch.no_grad():
        trained = unroll(backbone, collate(rows), Recurrence())
        spoken, _ = Loop(backbone, collate(rows), Recurrence(), speaking=GREEDY).run()
    torch.testing.assert_close(thought.latents_BKD, trained.latents_BKD, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(thought.latents_BKD, spoken.latents_BKD, rtol=1e-4, atol=1e-4)
    assert thought.counts_B.tolist() == [r.latents for r in rows]
    assert thought.row(3).latents_BKD.shape == (1, 3, 32)
    assert not thought.latents_BKD[1, 1:].any()


def test_an_edit_changes_what_is_fed():
    """Latents pass through the edit on their way in, with row and number; the trace shows what was fed."""
    backbone, rows = backbones.backbone(), [replace(row, name=str(b)) for b, row in enumerate(many_rows(14))]
    keys = collate(rows).keys()
    seen: list[tuple[int, int]] = []

    def zero(latents: torch.Tensor, keys_N: Any, index_N: np.ndarray) -> torch.Tensor:
        seen.extend(zip((int(name) for name, _ in keys_N), index_N.tolist(), strict=True))
        return latents * 0

    trace = think(backbone, rows, Edited(Recurrence(), zero, keys))
    assert sorted(seen) == [(b, k) for b, r in enumerate(rows) for k in range(r.latents)]
    assert not trace.latents_BKD.any()
    assert trace.states_BKD is not None
    assert trace.states_BKD[13].any(dim=1).all()
    same = generate(backbone, rows, Edited(Recurrence(), lambda latents, *_: latents, keys), GREEDY)
    assert [a.tokens for a in same] == [a.tokens for a in generate(backbone, rows, Recurrence(), GREEDY)]


def test_a_transform_stands_between_state_and_latent():
    backbone, rows = backbones.backbone(), many_rows(6)
    double = torch.nn.Linear(32, 32, bias=False)
    with torch.no_grad():
        double.weight.copy_(2 * torch.eye(32))
    trace = think(backbone, rows, Recurrence(double))
    assert trace.states_BKD is not None
    torch.testing.assert_close(trace.latents_BKD, 2 * trace.states_BKD)


def test_no_rows():
    assert generate(backbones.backbone(), [], None, GREEDY) == []
    with pytest.raises(DataError, match="cannot make a batch of no rows; give at least one example"):
        collate([])


def test_time_is_taken_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch):
    """Before the batch and behind it; the work of a GPU that is still under way counts."""
    from unspoken.core.loop import generate as by_loop
    from unspoken.core.loop import trace

    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: (time.sleep(0.05), done.append(str(device))))
    began = time.perf_counter()
    assert trace.clock(torch.device("cuda")) >= began + 0.05
    assert done == ["cuda"]
    asked = iter((10.0, 16.0))
    monkeypatch.setattr(by_loop, "clock", lambda device: next(asked))
    base = backbones.backbone()
    rows = [Row(ids=(5, 6, 7), labels=(IGNORE,) * 3, start=3, latents=0)] * 3
    assert [answer.seconds for answer in by_loop.generate(base, rows, None, SamplingParams(max_new_tokens=2))] == [2.0] * 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_holds_no_nan(attention: str):
    """The token that pads has a row that is no number: rows of unlike length answer as alone, and learn."""
    base = backbones.backbone("llama")
    base.lm.set_attn_implementation(attention)
    method: Any = make_method({"name": "coconut"}, base).eval()
    questions = ["Ann has 3 figs.", "Ann has 18 figs. She doubles her figs, then eats 2. How many figs has Ann?"]
    rows = [method.prompt(q) for q in questions]
    assert not any(0 in row.ids for row in rows)
    with torch.no_grad():
        base.lm.get_input_embeddings().weight[0] = float("nan")
    together = think(base, rows, method.source())
    for i, row in enumerate(rows):
        alone = think(base, [row], method.source()).latents_BKD[0]
        torch.testing.assert_close(together.latents_BKD[i], alone, rtol=1e-4, atol=1e-4)
