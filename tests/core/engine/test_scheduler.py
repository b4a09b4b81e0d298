"""Continuous batching: what rows say does not depend on who sits beside them, and counts do not grow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support import backbones, families
from support.scheduler_cases import GREEDY, MIXED, SAMPLED, ask, many_rows, row, speaker

from unspoken.core.engine.answering import sample
from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.loop import generate
from unspoken.core.loop.loop import Loop, unroll
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.sources import Recurrence
from unspoken.core.rows.batch import collate
from unspoken.core.rows.row import IGNORE, Row
from unspoken.errors import ConfigError
from unspoken.experimental.stopping import RuleDecider, StopConfig
from unspoken.methods import make_method


@pytest.mark.parametrize(("family", "speaking", "slots"), MIXED)
def test_a_queue_says_what_batches_say(family: str, speaking: SamplingParams, slots: int):
    """Token for token, with the same passes and positions for each row, however many slots there are."""
    backbone, rows = speaker(family), many_rows()
    want = generate.generate(backbone, rows, Recurrence(), speaking)
    got = [one for (one,) in sample(backbone, rows, Recurrence(), speaking, batch_size=slots)]
    assert [a.tokens for a in got] == [a.tokens for a in want]
    keys = ("finished", "latents", "passes", "positions", "text", "passed")
    assert [[getattr(a, k) for k in keys] for a in got] == [[getattr(a, k) for k in keys] for a in want]
    assert len({len(a.tokens) for a in got}) > 3


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_answers_as_its_batches_do(family: str):
    """Covered by slots or not."""
    wide: dict[str, Any] = {"sliding_window": 512} if "sliding_window" in families.FAMILIES[family] else {}
    backbone = families.model(family, **wide).method.backbone
    backbone.lm.eval()
    rows = many_rows(9)
    want = generate.generate(backbone, rows, Recurrence(), SamplingParams(max_new_tokens=6))
    got = [one for (one,) in sample(backbone, rows, Recurrence(), SamplingParams(max_new_tokens=6), batch_size=4)]
    assert [a.tokens for a in got] == [a.tokens for a in want]


def test_families_with_attention_of_their_own_are_known():
    """Bloom has a bias by distance, Gemma 2 caps its scores; a window counts only for rows that outgrow it."""
    found = {family: supports_kv_slots(families.model(family).method.backbone, 100) for family in families.FAMILIES}
    assert {family for family, yes in found.items() if not yes} == {"bloom", "gemma2"}
    assert not supports_kv_slots(families.model("mistral", sliding_window=64).method.backbone, 100)
    assert supports_kv_slots(families.model("mistral", sliding_window=128).method.backbone, 100)


def test_counts_do_not_grow():
    """No position twice, no padding, logits for who speaks only, no more passes than the longest row where all have room."""
    backbone, rows, heads = backbones.backbone("llama"), many_rows(12), []
    logits = backbone.logits
    backbone.logits = lambda hidden: (heads.append(len(hidden)), logits(hidden))[1]
    said, queue = ask(backbone, rows, SamplingParams(max_new_tokens=10), slots=12)
    assert (
        queue.cost.positions
        == queue.cost.slots
        == sum(len(r.ids) + len(s.tokens) - 1 for r, s in zip(rows, said, strict=True))
    )
    assert queue.cost.passes == max(s.passes for s in said)
    assert sum(heads) == sum(len(s.tokens) for s in said)


def test_rows_make_room_for_others():
    """Few slots stay full: passes are near what the work of all rows needs, not a sum over batches."""
    backbone, rows = speaker("llama"), many_rows(40)
    said, queue = ask(backbone, rows, GREEDY, slots=8)
    batches = 0
    for first in range(0, 40, 8):
        with torch.no_grad():
            loop = Loop(backbone, collate(rows[first : first + 8]), Recurrence(), speaking=GREEDY)
            batches += loop.run()[0].cost.passes
    assert queue.cost.passes < 0.75 * batches
    assert queue.cost.passes >= sum(s.passes for s in said) / 8


def test_prompts_are_cut_into_chunks():
    """A long prompt is read beside those who speak, a part per pass, and says the same."""
    backbone: Any = speaker("gpt2")
    widths: list[int] = []
    rows = [*many_rows(6), row(np.random.default_rng(5), 200, 3)]
    want, _ = ask(backbone, rows, slots=2)
    step = backbone.step
    backbone.step = lambda embeds, **more: (widths.append(embeds.shape[1]), step(embeds, **more))[1]
    got, _ = ask(backbone, rows, slots=2, chunk=7)
    assert [s.tokens for s in got] == [s.tokens for s in want]
    assert max(widths) <= 4 * 7 + 2
    assert min(max(widths[i : i + 3]) for i in range(5)) >= 7


@pytest.mark.parametrize("slots", [1, 4])
def test_what_prompts_begin_with_is_read_once(slots: int):
    backbone, head = speaker("llama"), tuple(range(5, 45))
    rows = many_rows(10, head=head)
    want = generate.generate(backbone, rows, Recurrence(), GREEDY)
    said, queue = ask(backbone, rows, slots=slots)
    assert [tuple(s.tokens) for s in said] == [a.tokens for a in want]
    alone = sum(len(r.ids) + len(s.tokens) - 1 for r, s in zip(rows, said, strict=True))
    assert queue.cost.positions == alone - 9 * len(queue.prefix)
    assert len(queue.prefix) >= 40
    assert sum(s.positions for s in said) == alone  # each as if alone, so that reports compare


def test_a_request_without_the_common_prefix_may_follow():
    backbone, head = speaker("llama"), tuple(range(5, 45))
    queue = Scheduler(backbone, Recurrence(), slots=2)
    queue.run([Request(row=r, speaking=GREEDY, number=i) for i, r in enumerate(many_rows(4, head=head))])
    assert queue.prefix
    (late,) = queue.run([Request(row=many_rows(4)[3], speaking=GREEDY, number=3)])
    assert not queue.prefix
    assert tuple(queue.done[late].tokens) == generate.generate(backbone, many_rows(4), Recurrence(), GREEDY)[3].tokens


@pytest.mark.parametrize("speaking", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("right", [0, 2, 5])
def test_an_expected_beginning_changes_no_answer(speaking: SamplingParams, right: int):
    """However much of it is what the model says; what is, costs no pass."""
    backbone, rows = speaker("llama"), many_rows(6)
    plain, _ = ask(backbone, rows, speaking)
    longest = max(range(6), key=lambda i: len(plain[i].tokens))
    expected = (*plain[longest].tokens[:right], 1, 1)
    queue = Scheduler(backbone, Recurrence())
    numbers = queue.run([Request(row=r, speaking=speaking, number=i, expected=expected) for i, r in enumerate(rows)])
    got = [queue.done[n] for n in numbers]
    assert [s.tokens for s in got] == [s.tokens for s in plain]
    assert got[longest].passes == plain[longest].passes - right


def test_requests_of_different_kinds_share_passes():
    """Each speaks in its own way and as long as it may."""
    backbone, rows = speaker("llama"), many_rows(8)
    ways = [GREEDY, SAMPLED, SamplingParams(max_new_tokens=3), SamplingParams(max_new_tokens=9, temperature=0.5)] * 2
    queue = Scheduler(backbone, Recurrence(), slots=3)
    numbers = queue.run([Request(row=r, speaking=w, number=i) for i, (r, w) in enumerate(zip(rows, ways, strict=True))])
    for i, (number, way) in enumerate(zip(numbers, ways, strict=True)):
        assert tuple(queue.done[number].tokens) == generate.generate(backbone, rows[: i + 1], Recurrence(), way)[i].tokens


def test_requests_come_while_others_are_under_way():
    backbone, rows = speaker("llama"), many_rows(6)
    want, _ = ask(backbone, rows)
    queue, waiting = Scheduler(backbone, Recurrence(), slots=2), list(enumerate(rows))
    while waiting or not queue.idle:
        if waiting:
            i, r = waiting.pop(0)
            assert queue.submit(Request(row=r, speaking=GREEDY, number=i)) == i
        queue.step()
    assert [queue.done[i].tokens for i in range(6)] == [s.tokens for s in want]


def test_thoughts_are_those_of_the_loop():
    """Latents, the states they come from, and counts, of rows that sat in different places at different times."""
    backbone, rows = speaker("qwen3"), many_rows(14)
    _, queue = ask(backbone, rows, slots=3, keep=True)
    got, want = queue.trace(range(14)), generate.think(backbone, rows, Recurrence())
    torch.testing.assert_close(got.latents_BKD, want.latents_BKD, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.states_BKD, want.states_BKD, rtol=1e-4, atol=1e-4)
    assert got.counts_B.tolist() == want.counts_B.tolist()


def shorter(r: Row, latents: int) -> Row:
    """The same prompt with so many slots."""
    ids = (*r.ids[: r.start], *(0,) * latents, *r.ids[r.start + r.latents :])
    return Row(ids=ids, labels=(IGNORE,) * len(ids), start=r.start, latents=latents, position_gap=r.position_gap)


@pytest.mark.parametrize("rule", ["fixed:3", "convergence:1.3", "confidence:0.12", "head:0.5"])
@pytest.mark.parametrize("slots", [2, 32])
def test_a_row_that_stops_says_what_it_says_with_so_many_slots(rule: str, slots: int):
    backbone, rows = speaker("llama"), many_rows(28)
    torch.manual_seed(1)
    decider = RuleDecider(StopConfig.parse(rule), (torch.randn(32), torch.zeros(1)))
    said, _ = ask(backbone, rows, slots=slots, decider=decider)
    thought = [r.latents - s.skipped for r, s in zip(rows, said, strict=True)]
    assert any(0 < k < r.latents for k, r in zip(thought, rows, strict=True)), thought
    alone = [shorter(r, k) for r, k in zip(rows, thought, strict=True)]
    assert [tuple(s.tokens) for s in said] == [a.tokens for a in generate.generate(backbone, alone, Recurrence(), GREEDY)]
    for s, k, r in zip(said, thought, alone, strict=True):
        assert s.passes == k + len(s.tokens)  # deciding costs no pass
        if rule.startswith("confidence"):
            assert s.positions >= len(r.ids) + len(s.tokens) - 1
        else:
            assert s.positions == len(r.ids) + len(s.tokens) - 1
    if rule == "fixed:3":
        assert thought == [min(r.latents, 3) for r in rows]


def test_confidence_stops_at_the_first_place_that_is_sure():
    """Against the loop: the first number of latents with which the likeliest first token is likely enough."""
    backbone, rows = backbones.backbone("llama"), [r for r in many_rows(28) if r.latents > 2]
    limit = 0.1
    said, _ = ask(
        backbone, rows, SamplingParams(max_new_tokens=1), decider=RuleDecider(StopConfig(rule="confidence", threshold=limit))
    )
    for r, s in zip(rows, said, strict=True):
        sure = []
        for k in range(1, r.latents + 1):
            with torch.no_grad():
                trace = unroll(backbone, collate([shorter(r, k)]), Recurrence())
                last = trace.hidden_at(np.array([0]), np.array([len(r.ids) - r.latents + k - 1]))
                sure.append(float(backbone.logits(last).softmax(-1).max()) >= limit)
        sure[-1] = True  # there are no more slots
        assert r.latents - s.skipped == 1 + sure.index(True)


def test_what_only_batches_do_refuses_a_stop_rule():
    decider = RuleDecider(StopConfig(rule="fixed", threshold=2))
    with pytest.raises(
        ConfigError, match="a stop rule needs one answer per question, a model with standard attention, and the short"
    ):
        sample(families.model("bloom").method.backbone, many_rows(2), Recurrence(), GREEDY, decider=decider)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("often", "a stop rule is written RULE:NUMBER with a rule of fixed, confidence, convergence, head"),
        ("confidence", "a stop rule is written RULE:NUMBER"),
        ("fixed:0.5", "stop rule 'fixed' needs a number of latents, at least 1, got 0.5"),
        ("fixed:nan", "stop rule 'fixed' needs a number of latents, at least 1, got nan"),
        ("confidence:2", "stop rule 'confidence' needs a probability in 0..1, got 2"),
        ("convergence:-1", "stop rule 'convergence' needs a relative change of 0 or more, got -1"),
    ],
)
def test_stop_rules_that_make_no_sense(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        StopConfig.parse(text)


def test_a_rule_without_its_head():
    with pytest.raises(ConfigError, match="needs a trained head, which this model lacks; run `unspoken learn-stop RUN`"):
        RuleDecider(StopConfig.parse("head:0.5"))


@pytest.mark.parametrize("rule", [None, "fixed:3", "confidence:0.12"])
def test_a_latent_after_the_last_is_made_where_a_row_asks_for_it(rule: str | None):
    """Also behind the one at which a row stops; a step decoder reads it."""
    backbone = speaker("llama")
    rows = [replace(r, unfed_latent=True) for r in many_rows(14) if r.latents]
    decider = None if rule is None else RuleDecider(StopConfig.parse(rule))
    said, queue = ask(backbone, rows, slots=4, keep=True, decider=decider)
    alone = [replace(shorter(r, r.latents - s.skipped), unfed_latent=True) for r, s in zip(rows, said, strict=True)]
    got, want = queue.trace(range(len(rows))), generate.think(backbone, alone, Recurrence())
    assert got.counts_B.tolist() == want.counts_B.tolist() == [r.latents + 1 for r in alone]
    torch.testing.assert_close(got.latents_BKD, want.latents_BKD, rtol=1e-4, atol=1e-4)


def test_a_prompt_that_is_the_common_prefix_itself_is_read():
    backbone, head = speaker("llama"), tuple(range(5, 45))
    queue = Scheduler(backbone, None, slots=2)
    queue.run([Request(row=r, speaking=GREEDY) for r in many_rows(4, head=head)])
    bare = Row(ids=queue.prefix, labels=(IGNORE,) * len(queue.prefix), start=len(queue.prefix), latents=0)
    (number,) = queue.run([Request(row=bare, speaking=GREEDY)])
    assert tuple(queue.done[number].tokens) == generate.generate(backbone, [bare], None, GREEDY)[0].tokens


def test_prompted_thoughts_are_made_for_many_at_once():
    """Not once for every row that comes in."""
    asked: list[int] = []

    class Known:
        chains = 1

        def vectors(self, batch: Any, chains: int = 1) -> torch.Tensor:
            asked.append(len(batch))
            seeds = batch.ids_BT[:, :1].float()
            return torch.sin(seeds[:, :, None] + torch.arange(13 * 32).view(1, 13, 32))

    backbone, rows = speaker("llama"), [r for r in many_rows(24) if r.latents and r.start]
    want = generate.generate(backbone, rows, Known(), GREEDY, batch_size=8)
    asked.clear()
    got = [one for (one,) in sample(backbone, rows, Known(), GREEDY, batch_size=8)]
    assert [a.tokens for a in got] == [a.tokens for a in want]
    assert [a.passes for a in got] == [a.passes for a in want]
    assert sum(asked) == len(rows)
    assert len(asked) <= len(rows) // 8 + 1


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("graphs", [None, True])
def test_what_a_slot_held_is_gone(bad: str, graphs: bool | None):
    """A request whose numbers overflowed leaves nothing behind: a masked NaN is one still, times a weight of 0."""
    base = backbones.backbone("llama")
    method: Any = make_method("cot", base).eval()
    with torch.no_grad():
        base.lm.get_input_embeddings().weight[base.encode("9")[0]] = float(bad)
    ill = method.prompt("9 pens Ann has 3 pens and buys 4 more. She then doubles")
    well = [method.prompt(text) for text in ("Ann has", "Ann has 3 pens and buys 4", "Bob has 2 figs. How many?")]
    speaking = SamplingParams(max_new_tokens=8)
    alone = Scheduler(base, None, slots=1)
    want = [alone.done[n].tokens for n in alone.run([Request(row=row, speaking=speaking) for row in well])]
    queue = Scheduler(base, None, slots=2, graphs=graphs)
    queue.submit(Request(row=ill, speaking=SamplingParams(max_new_tokens=2)))
    while not queue.idle:
        queue.step()
    several = [queue.submit(Request(row=row, speaking=speaking)) for row in well]
    ills = queue.submit(Request(row=ill, speaking=SamplingParams(max_new_tokens=3)))  # beside and between them, too
    several += [queue.submit(Request(row=row, speaking=speaking)) for row in well]
    while not queue.idle:
        queue.step()
    assert ills in queue.done
    assert [queue.done[n].tokens for n in several] == want * 2
