"""Soft thinking against sums done by hand, against a forward without a cache, and in the scheduler as in the loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import backbones
from support.scheduler_cases import GREEDY, SAMPLED, many_rows, speaker

from unspoken.core.engine.answering import sample
from unspoken.core.engine.requests import Request
from unspoken.core.engine.scheduler import Scheduler
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop import generate
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.soft import ColdStop, SoftChain, SoftPlan, SoftThinking, Switch, entropies, mixtures
from unspoken.core.loop.trace import Answer
from unspoken.core.rows.row import Row, unlabelled
from unspoken.errors import ConfigError

P = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])


class Four:
    """Four words, and an embedding of each that shows its share in a mixture."""

    @staticmethod
    def embed(ids: torch.Tensor) -> torch.Tensor:
        return torch.eye(4)[ids]


@pytest.mark.parametrize(
    ("mixed", "want"),
    [
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 0}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 1.0, "top_p": 0.6, "top_k": 0}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 1.0, "top_p": 0.75, "top_k": 3}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 0.5, "top_p": 1.0, "top_k": 0}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 1}, [0, 1.0, 0, 0]),
    ],
)
def test_a_mixture_by_hand(mixed: dict[str, Any], want: list[float]):
    backbone: Any = Four()
    torch.testing.assert_close(mixtures(backbone, P[:1].log(), **mixed), torch.tensor([want]))


def test_a_mixture_of_one_word_is_its_embedding():
    backbone = backbones.backbone("llama")
    logits = torch.randn(3, backbone.vocabulary)
    got = mixtures(backbone, logits, temperature=0.6, top_p=0.95, top_k=1)
    assert torch.equal(got, backbone.embed(logits.argmax(dim=-1)))


def test_entropy_by_hand():
    want = -sum(p * math.log(p) for p in P[0].tolist())
    torch.testing.assert_close(entropies(P.log()), torch.tensor([want, math.log(4)]))
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert entropies(certain).tolist() == [0.0]


def test_the_cold_stop_counts_steps_in_a_row():
    rule = ColdStop(entropy=0.5, steps=2)
    assert [rule.ends(e) for e in (0.4, 0.5, 0.4, 0.3, 0.2)] == [False, False, False, True, True]
    never = ColdStop(entropy=0.0, steps=1)
    assert not never.ends(0.0)


def test_the_switch_follows_the_trend():
    """Soft until the entropy falls below that of the first step; back where it is above that of the change, but not before
    two tokens."""
    rule = Switch(window=2, switches=2)
    seen = []
    for entropy in (1.0, 1.2, 0.8, 2.0, 0.9, 0.9, 0.8, 0.7):
        rule.step(entropy)
        seen.append((rule.soft, rule.turned, rule.over))
    assert seen == [
        (True, False, False),  # the reference: 1.0
        (True, False, False),
        (False, True, False),  # 0.8 is below
        (False, False, False),  # 2.0 is above, but the window is not over
        (True, True, False),  # 0.9 is above 0.8
        (True, False, False),  # as high as the reference is not below
        (False, True, True),
        (False, False, True),
    ]


def chain(text: str, *, end: tuple[int, ...] = (8, 9), closed: int | None = None, most: int = 10) -> SoftChain:
    """A chain over words that read as their own number."""
    plan = SoftPlan(
        how=SoftThinking.parse(text), until="<9>", end=end, opened=7, closed=closed,
        decode=lambda ids: "".join(f"<{i}>" for i in ids),
    )  # fmt: skip
    return SoftChain(plan, most)


def test_thinking_is_ended_by_its_limit_and_its_mark_is_fed():
    one = chain("soft,limit=2,entropy=0")
    steps = [one.step(1.0, likeliest=5, chosen=6) for _ in range(2)]
    assert [(s.token, s.soft) for s in steps] == [(5, True), (5, True)]
    ending = [one.step(1.0, likeliest=5, chosen=6) for _ in range(2)]
    assert [(s.token, s.soft) for s in ending] == [(8, False), (9, False)]
    assert one.over
    assert one.soft == 2


def test_thinking_ends_where_the_mark_is_the_likeliest():
    one = chain("soft,entropy=0", end=(9,))
    assert one.step(1.0, likeliest=5, chosen=9).soft  # what would have been drawn does not count
    last = one.step(1.0, likeliest=9, chosen=5)
    assert (last.token, last.soft, one.over) == (9, False, True)


def test_thinking_without_a_mark_goes_on_in_tokens():
    one = chain("soft,limit=1", end=())
    one.step(1.0, likeliest=5, chosen=6)
    last = one.step(1.0, likeliest=5, chosen=6)
    assert (last.token, last.soft, one.over) == (6, False, True)


def test_marks_are_mixed_in_where_a_switch_turns():
    one = chain("switch,window=1,open_share=0.5", closed=4)
    steps = [one.step(e, likeliest=5, chosen=6) for e in (1.0, 0.5, 0.6, 0.1)]
    assert [(s.token, s.soft) for s in steps] == [(5, True), (6, True), (5, True), (6, True)]
    want = [None, (4, 0.3 * 0.9), (7, 0.5 * 0.8), (4, 0.3 * 0.7)]
    assert [s.blend and (s.blend[0], pytest.approx(s.blend[1])) for s in steps] == want
    bare = chain("switch,window=1")  # no such token: the first step in words feeds its word
    bare.step(1.0, likeliest=5, chosen=6)
    assert not bare.step(0.5, likeliest=5, chosen=6).soft


def test_settings_are_read_from_text_and_written_as_text():
    how = SoftThinking.parse("switch, window=64, top_k=30,until=So, the answer is")
    assert how == SoftThinking(kind="switch", window=64, top_k=30, until="So, the answer is")
    assert (how.temperature, how.top_p, how.entropy) == (1.0, 1.0, 0.0)
    assert SoftThinking.parse(how.spelt) == how
    assert SoftThinking().spelt == "soft"


NONE = """
|sofd|soft,|soft,window|soft,depth=1|soft,kind=switch|soft,top_k=1.5|soft,top_k=-1|soft,top_p=0|soft,top_p=nan|soft,limit=0
|soft,entropy=inf|soft,steps=0|soft,until= |soft,steps=1,steps=2|switch,close_share=2|soft,temperature=0|switch,switches=0
|soft,temperature=²|soft,feed=word|token"""


@pytest.mark.parametrize("text", [*NONE.replace("\n", "").split("|"), f"soft,top_k=-{'9' * 400}"])
def test_settings_that_are_none_are_refused(text: str):
    with pytest.raises(ConfigError):
        SoftThinking.parse(text)


def plan(backbone: Backbone, text: str, until: str = "7>>") -> SoftPlan:
    return SoftPlan.of(backbone, SoftThinking.parse(text), until)


def prompts(count: int = 12) -> list[Row]:
    """Prompts without latents."""
    return [unlabelled(row.ids[: row.start] or row.ids, name=row.name) for row in many_rows(count)]


def without_a_cache(backbone: Backbone, row: Row, how: SoftThinking, words: int) -> list[int]:
    """The likeliest tokens of soft thinking: the whole sequence forwarded anew for each, mixed in words of our own."""
    table = backbone.embed(torch.arange(backbone.vocabulary))
    embeds = backbone.embed(torch.tensor(row.ids))
    found: list[int] = []
    for _ in range(words):
        logits = backbone.lm(inputs_embeds=embeds[None]).logits[0, -1]
        found.append(int(logits.argmax()))
        if found[-1] in backbone.eos_ids:
            break
        assert how.temperature is not None
        p, best = (logits / how.temperature).softmax(0).topk(how.top_k or len(logits))
        kept = p.cumsum(0) - p < (how.top_p or 1.0) * p.sum()
        p = p * kept / (p * kept).sum()
        embeds = torch.cat([embeds, (p[:, None] * table[best]).sum(0)[None]])
    return found


@pytest.mark.parametrize("text", ["soft,entropy=0", "soft,entropy=0,top_k=0,top_p=0.9,temperature=2"])
@torch.inference_mode()
def test_it_is_what_a_model_thinks_without_a_cache(text: str):
    backbone = speaker("qwen3")
    rows = prompts(6)
    found = generate.generate(backbone, rows, None, GREEDY, soft=plan(backbone, text, until="no such text"))
    want = [without_a_cache(backbone, row, SoftThinking.parse(text), GREEDY.max_new_tokens) for row in rows]
    assert [list(a.tokens) for a in found] == want
    assert all(a.latents == a.soft == len(a.tokens) - a.finished and a.visible == 0 for a in found)
    ordinary = generate.generate(backbone, rows, None, GREEDY)
    assert [a.tokens for a in found] != [a.tokens for a in ordinary]


CASES = [
    ("llama", "soft,entropy=5,steps=3", GREEDY, 3),
    ("gpt2", "switch,window=2,switches=2,close_share=0", SAMPLED, 5),
    ("qwen3", "switch,window=1,open_share=0.4", GREEDY, 32),
    ("llama", "soft,limit=6", SAMPLED, 1),
    ("llama", "soft,feed=token,limit=6", SAMPLED, 4),
]


@pytest.mark.parametrize(("family", "text", "speaking", "slots"), CASES)
def test_the_scheduler_thinks_as_the_loop_does(family: str, text: str, speaking: SamplingParams, slots: int):
    backbone, rows = speaker(family), prompts()
    soft = plan(backbone, text)
    want = generate.generate(backbone, rows, None, speaking, soft=soft)
    got = [one for (one,) in sample(backbone, rows, None, speaking, batch_size=slots, soft=soft)]
    keys = ("tokens", "latents", "soft", "visible", "passes", "positions", "finished", "text")
    assert [[getattr(a, k) for k in keys] for a in got] == [[getattr(a, k) for k in keys] for a in want]
    assert any(a.soft for a in got) or "token" in text
    assert any(a.visible > 0 for a in got)


def test_requests_of_every_kind_share_a_scheduler():
    """Each answers as if it were alone."""
    backbone, rows = speaker("llama"), prompts(10)
    texts = ["soft,limit=5", "switch,window=1", None, "soft,feed=token,entropy=0", "soft,top_k=0,limit=9"]
    plans = [None if text is None else plan(backbone, text) for text in texts]
    scheduler = Scheduler(backbone, None, slots=4)
    requests = [Request(row=row, speaking=SAMPLED, number=i, soft=plans[i % 5]) for i, row in enumerate(rows)]
    places = scheduler.run(requests)
    for i, place in enumerate(places):
        (alone,) = generate.generate(backbone, [rows[i]], None, SAMPLED, soft=plans[i % 5], numbers=[i])
        assert tuple(scheduler.done[place].tokens) == alone.tokens, texts[i % 5]


def facts(answers: list[Answer]) -> list[tuple[Any, ...]]:
    return [(a.tokens, a.text, a.latents, a.visible, a.passes, a.positions, a.finished) for a in answers]


@pytest.mark.parametrize("text", ["soft,feed=token,entropy=0", "switch,feed=token,window=1", "chain"])
def test_the_embedding_of_the_likeliest_token_is_ordinary_decoding(text: str):
    """Exactly: tokens, text and every count; in the loop and in the scheduler."""
    backbone, rows = speaker("llama"), prompts()
    soft = plan(backbone, text)
    want = generate.generate(backbone, rows, None, GREEDY)
    assert facts(generate.generate(backbone, rows, None, GREEDY, soft=soft)) == facts(want)
    assert facts([one for (one,) in sample(backbone, rows, None, GREEDY, batch_size=4, soft=soft)]) == facts(want)


def test_a_mixture_of_the_likeliest_token_alone_says_what_ordinary_decoding_says():
    backbone, rows = speaker("llama"), prompts()
    soft = plan(backbone, "soft,top_k=1,entropy=0")
    said = [one.tokens for (one,) in sample(backbone, rows, None, GREEDY, soft=soft)]
    assert said == [one.tokens for one in generate.generate(backbone, rows, None, GREEDY)]


def test_an_ordinary_chain_is_drawn_as_ever_and_ends_at_its_limit():
    backbone, rows = speaker("llama"), prompts()
    ordinary = generate.generate(backbone, rows, None, SAMPLED)
    soft = plan(backbone, "chain,limit=4")
    ended = generate.generate(backbone, rows, None, SAMPLED, soft=soft)
    for free, cut in zip(ordinary, ended, strict=True):
        n = min(4, len(free.tokens))
        assert cut.tokens[:n] == free.tokens[:n]
        if len(free.tokens) > 4:
            assert cut.tokens[4 : 4 + len(soft.end)] == soft.end


def test_several_samples_think_alike_and_answer_differently():
    backbone, rows = speaker("gpt2"), prompts(4)
    soft = plan(backbone, "soft,limit=5")
    for answers in generate.sample(backbone, rows, None, SAMPLED, samples=3, soft=soft):
        least = 5 + len(soft.end)
        assert len({a.tokens[:5] for a in answers}) == 1
        assert all(a.soft <= 5 for a in answers)
        if all(len(a.tokens) > least for a in answers):
            assert len({a.tokens for a in answers}) > 1
