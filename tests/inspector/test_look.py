"""Looking at latents: for every method that has any, and against what the loop itself did."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from contract.cases import CASES, EXAMPLES, shared
from support import backbones
from support.fakes.inspection import Problems, model
from support.families import FAMILIES
from support.families import model as family_model

from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError, DataError
from unspoken.inspector.attention import attention_shares
from unspoken.inspector.look import inspect
from unspoken.inspector.words import nearest, words_of
from unspoken.pages.inspection import page
from unspoken.runs.model import Model


@pytest.mark.parametrize("name", CASES)
def test_every_method_is_looked_into_or_makes_no_latents(name: str) -> None:
    it = Model(shared(name, "llama"), SamplingParams(max_new_tokens=5))
    if not shared(name, "llama").latents_per_group:
        with pytest.raises(ConfigError, match=r"makes no latents while it answers, so there is nothing to inspect; take a"):
            inspect(it, Problems())
        return
    seen = inspect(it, Problems(), limit=3, counts=[1])
    data = json.loads(seen.to_json())
    assert len(data["problems"]) == 3
    assert "".join(p["question"] for p in data["problems"]) == "".join(e.question for e in EXAMPLES[:3])
    for problem in data["problems"]:
        latents = [latent for thought in problem["thoughts"] for latent in thought["latents"]]
        assert [latent["number"] for latent in latents] == list(range(1, len(latents) + 1))
        for latent in latents:
            assert latent["similarity"][latent["number"] - 1] == pytest.approx(1.0, abs=1e-4)
            assert len(latent["nearest"]) == 8
            assert (latent["attention"] is not None) == latent["fed"]
        on = sum(latent["attention"] or 0 for latent in latents)
        assert on + problem["before"] + problem["rest"] == pytest.approx(1.0, abs=1e-3)
        decoded = [thought["decoded"] for thought in problem["thoughts"]]
        assert all((words is not None) == it.explains for words in decoded)
    assert data["figures"]["geometry"]["problems"] == 3
    assert data["counts"][0]["latents"] == 1
    assert page(seen).count("<article") == 3


def test_what_is_said_is_what_the_model_says() -> None:
    """The same answers and the same decoded steps as `answer(explain=True)`."""
    it = model()
    seen = inspect(it, Problems(), counts=[])
    answers = it.answer([e.question for e in EXAMPLES], explain=True)
    assert [p.said for p in seen.problems] == [a.text for a in answers]
    assert [tuple(t.decoded for t in p.thoughts) for p in seen.problems] == [a.thoughts for a in answers]
    assert [t.expected for t in seen.problems[0].thoughts] == ["<<3+4=7>>", "<<7*2=14>>", None]
    assert seen.problems[2].thoughts[2].expected == "<<35+8=43>>\n<<43*1=43>>"  # the last group takes the rest


FAMILY_MODELS = [*((name, "family") for name in FAMILIES), *((name, "ours") for name in backbones.ARCHS)]


@pytest.mark.parametrize(("family", "kind"), FAMILY_MODELS)
def test_the_replayed_row_is_the_spoken_one(family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attention is that of the answer only if its states are: each chosen token follows from the state before it."""
    it = family_model(family) if kind == "family" else model(family=family)
    method: Any = it.method
    method.eval()
    questions = [EXAMPLES[0].question, EXAMPLES[1].question]
    answers = it.answer(questions, max_new_tokens=6)
    trace, backbone = it.think(questions), method.backbone
    rows = [method.prompt(question) for question in questions]
    before = backbone.lm.config._attn_implementation
    forwarded: list[tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]] = []
    attention = backbone.attention

    def noted(embeds: torch.Tensor, **how: torch.Tensor) -> torch.Tensor:
        weights = attention(embeds, **how)
        forwarded.append((embeds, how, weights))
        return weights

    monkeypatch.setattr(backbone, "attention", noted)
    together = attention_shares(backbone, rows, list(trace.latents_BKD), [a.tokens for a in answers])
    places = [(number, b) for number, (embeds, _, _) in enumerate(forwarded) for b in range(len(embeds))]
    for (number, b), row, answer, one in zip(places, rows, answers, together, strict=True):
        embeds, how, weights = forwarded[number]
        chose = slice(len(row.ids) - 1, len(row.ids) - 1 + len(answer.tokens))
        with torch.no_grad():
            chosen = backbone.logits(backbone.step(embeds, **how))[b, chose].argmax(-1)
        assert tuple(chosen.tolist()) == answer.tokens
        assert one is not None
        shares = weights[:, b, :, chose].mean(dim=(0, 1, 2))
        assert one.latents == pytest.approx(shares[row.start : row.start + row.latents].tolist(), abs=1e-6)
        assert one.before == pytest.approx(float(shares[: row.start].sum()), abs=1e-6)
        assert torch.allclose(torch.tensor(one.layers).mean(0), torch.tensor(one.latents), atol=1e-6)
    for b, one in enumerate(together):
        (alone,) = attention_shares(backbone, rows[b : b + 1], [trace.latents_BKD[b]], [answers[b].tokens])
        assert one is not None
        assert alone is not None
        assert one.latents == pytest.approx(alone.latents, abs=1e-5)  # the neighbour's padding gets none of it
    assert backbone.lm.config._attn_implementation == before


def test_attention_is_causal_and_sums_to_one() -> None:
    it = model(family="gpt2")
    backbone = it.method.backbone
    weights = backbone.attention(torch.randn(1, 5, backbone.width), positions_BT=torch.arange(5)[None])
    assert weights is not None
    assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5)
    assert float(weights.triu(1).abs().max()) == 0.0


def test_nearest_words_are_the_heads_choice() -> None:
    it = model()
    backbone = it.method.backbone
    vectors = torch.randn(70, backbone.width)  # more than one call of the head
    found = nearest(backbone, vectors, 3)
    with torch.no_grad():
        shares = backbone.logits(vectors).softmax(-1)
    best = shares.argmax(-1).tolist()
    assert [words[0].text for words in found] == [backbone.tokenizer.decode([token]) for token in best]
    assert [words[0].probability for words in found] == pytest.approx(shares.max(-1).values.tolist(), rel=1e-5)
    assert all(len(words) == 3 for words in found)


def test_before_and_after_the_projection() -> None:
    """CODI's states and latents say different things; Coconut's are one vector."""
    codi, coconut = model({"name": "codi", "latents": 3}), model({"name": "coconut", "latents_per_step": 1})
    (apart,) = words_of(codi.method.backbone, codi.think([EXAMPLES[0].question]))
    assert apart.state is not None
    assert apart.state != apart.latent
    assert apart.read is apart.state
    (one,) = words_of(coconut.method.backbone, coconut.think([EXAMPLES[0].question]))
    assert one.state is one.latent


def test_dropout_is_off_and_put_back() -> None:
    it = model(family="gpt2", resid_pdrop=0.5)
    method: Any = it.method
    method.train()
    first, second = (inspect(it, Problems(), counts=[]).problems for _ in range(2))
    assert first == second
    assert method.training


def test_counts() -> None:
    seen = inspect(model(), Problems(), counts=[3, 1, 1])
    assert [told["latents"] for told in seen.counts] == [1, 3]
    assert [told["latents"] for told in inspect(model(), Problems()).counts] == [1, 2, 3]
    two = model({"name": "coconut", "latents_per_step": 2, "max_stage": 3})
    assert [told["latents"] for told in inspect(two, Problems()).counts] == [2, 4, 6]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"latents": 0}, "with 0 latents there is nothing to inspect"),
        ({"limit": 0}, "must be at least 1, got 0"),
        ({"counts": [2, 0]}, "numbers of latents to compare must be at least 1, got 0"),
    ],
)
def test_what_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        inspect(model(), Problems(), **how)


def test_an_empty_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Problems, "examples", lambda self, split: [])
    with pytest.raises(DataError, match="the validation split has no examples"):
        inspect(model(), Problems(), "validation")
