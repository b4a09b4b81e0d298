"""The sentence encoder: copies of the base's layers, texts and latents in one space, batches, other models instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import backbones
from transformers import BertConfig, BertModel

from unspoken.core.auxiliary.sentence_encoder import EncoderConfig, SentenceEncoder
from unspoken.core.config import build
from unspoken.core.lm.backbone import Backbone
from unspoken.errors import BackboneError, ConfigError, DataError

FAMILIES = tuple(backbones.ARCHS)
TEXTS = ("Ann has 3 pens", "She then doubles them. How many pens?", "7")

every_family = pytest.mark.parametrize("family", FAMILIES)
every_kind = pytest.mark.parametrize(
    "more",
    [{}, {"width": None}, {"attention": "bidirectional"}, {"latents": "states"}, {"first": 0, "last": 0}, {"first": 1}],
    ids=str,
)


def deep(family: str) -> Backbone:
    """A base of four layers."""
    layers = {"n_layer": 4} if family == "gpt2" else {"num_hidden_layers": 4}
    return backbones.backbone(family, **layers)


def encoder(base: Backbone, **more: Any) -> SentenceEncoder:
    """An encoder with a small head."""
    torch.manual_seed(5)
    return SentenceEncoder(build(EncoderConfig, {"width": 20, **more}), base).eval()


@pytest.fixture
def bert(tmp_path: Path) -> str:
    """A tiny random sentence encoder in a folder, as sentence-transformers releases them: without a language head."""
    words = backbones.tokenizer()
    config = BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(3)
    BertModel(config).save_pretrained(tmp_path / "bert")
    words.save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


@every_family
@torch.no_grad()
def test_the_last_layers_are_the_base_models_own(family: str):
    """Layers 2 and 3 of 4, without a head: the mean of the base model's own last states."""
    base = deep(family)
    mine = encoder(base, first=2, last=3, width=None)
    for text in TEXTS:
        ids = torch.tensor([mine.encode(text)])
        states = base.step(base.embed(ids), positions_BT=torch.arange(ids.shape[1])[None])
        torch.testing.assert_close(mine.embed([mine.encode(text)]), states.mean(dim=1), rtol=1e-4, atol=1e-5)


@every_family
@torch.no_grad()
def test_layers_in_the_middle(family: str):
    """Layer 1 of 4: the final norm of what enters layer 2."""
    base = deep(family)
    mine = encoder(base, first=1, last=1, width=None)
    ids = torch.tensor([mine.encode(TEXTS[0])])
    entered = base.below(2, base.embed(ids), positions_BT=torch.arange(ids.shape[1])[None])
    norm = base.lm.base_model.ln_f if family == "gpt2" else base.lm.base_model.norm
    torch.testing.assert_close(mine.embed([mine.encode(TEXTS[0])]), norm(entered).mean(dim=1), rtol=1e-4, atol=1e-5)


@every_family
def test_below_gives_what_enters_a_layer(family: str):
    base = deep(family)
    ids = torch.tensor([[5, 6, 7, 8]])
    positions = torch.arange(4)[None]
    states = base.states(base.embed(ids), positions_BT=positions)
    for layer in range(4):
        torch.testing.assert_close(base.below(layer, base.embed(ids), positions_BT=positions), states[layer])


def test_below_runs_nothing_above():
    base = deep("llama")
    ran = []
    for number, layer in enumerate(base.lm.base_model.layers):
        layer.register_forward_hook(lambda *_, n=number: ran.append(n))
    base.below(2, base.embed(torch.tensor([[5, 6]])), positions_BT=torch.arange(2)[None])
    assert ran == [0, 1]


@every_family
@every_kind
@torch.no_grad()
def test_a_text_in_a_batch_is_the_text_alone(family: str, more: dict[str, Any]):
    """Whatever the attention: padding is masked. The released encoder cannot take two texts."""
    mine = encoder(deep(family), **more)
    ids = [mine.encode(text) for text in TEXTS]
    alone = torch.cat([mine.embed([one]) for one in ids])
    torch.testing.assert_close(mine.embed(ids), alone, rtol=1e-4, atol=1e-5)


@every_family
@every_kind
@torch.no_grad()
def test_latents_in_a_batch_are_those_of_the_row_alone(family: str, more: dict[str, Any]):
    mine = encoder(deep(family), **more)
    torch.manual_seed(0)
    latents, counts = torch.randn(3, 4, 32), np.array([4, 1, 2])
    together = mine.embed_latents(latents, counts)
    for b, n in enumerate(counts):
        alone = mine.embed_latents(latents[b : b + 1, :n], counts[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-4, atol=1e-5)


@every_family
@torch.no_grad()
def test_latents_that_are_a_texts_embeddings_mean_what_the_text_means(family: str):
    """Latents are read as input embeddings are: in the released way, straight into a middle layer, they are not."""
    base = deep(family)
    ids = base.encode(TEXTS[1])
    embeds, counts = base.embed(torch.tensor([ids])), np.array([len(ids)])
    same = encoder(base)
    torch.testing.assert_close(same.embed_latents(embeds, counts), same.embed([same.encode(TEXTS[1])]), rtol=1e-4, atol=1e-5)
    released = encoder(base, latents="states")
    assert not torch.allclose(released.embed_latents(embeds, counts), released.embed([ids]), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_attention_is_causal_unless_asked_otherwise():
    """The last word changes what the encoder says of the first one only where it is bidirectional."""
    base = deep("llama")
    a, b = torch.tensor([[7, 8, 9]]), torch.tensor([[7, 8, 10]])
    for attention, changes in (("causal", False), ("bidirectional", True)):
        mine = encoder(base, attention=attention)
        seen = []
        mine.body.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out.last_hidden_state[0, 0]))
        for ids in (a, b):
            mine.embed([tuple(ids[0].tolist())])
        assert torch.allclose(seen[0], seen[1], atol=1e-6) != changes


def test_gradient_reaches_latents_and_not_a_constant_encoder():
    base = deep("llama")
    base.freeze()
    mine = encoder(base)
    latents = torch.randn(2, 3, 32, requires_grad=True)
    with mine.constant():
        out = mine.embed_latents(latents, np.array([3, 2]))
    out.sum().backward()
    assert latents.grad is not None
    assert latents.grad[0].any(dim=1).all()
    assert not latents.grad[1, 2].any()
    assert all(p.grad is None for p in mine.parameters())
    assert any(p.requires_grad for p in mine.parameters())


def test_the_base_model_stays_as_it_is():
    """The copies train; what they were copied from does not move."""
    base = deep("llama")
    base.freeze()
    before = {name: p.clone() for name, p in base.lm.named_parameters()}
    mine = encoder(base)
    mine.embed([mine.encode(text) for text in TEXTS]).sum().backward()
    torch.optim.SGD([p for p in mine.parameters() if p.requires_grad], lr=0.1).step()
    assert all(torch.equal(before[name], p) for name, p in base.lm.named_parameters())


def test_lora_of_the_base_is_merged_into_the_copies():
    from unspoken.core.lm.adapters import LoraSettings

    base = deep("llama")
    base.adapt(LoraSettings(r=2, alpha=4.0))
    mine = encoder(base, first=2, last=3)
    assert not any("lora" in name for name, _ in mine.named_parameters())


@torch.no_grad()
def test_any_sentence_encoder(bert: str):
    """Its own tokens, the mean of its states, batches."""
    base = deep("llama")
    mine = encoder(base, kind="model", path=bert, width=None)
    ids = [mine.encode(text) for text in TEXTS]
    model = BertModel.from_pretrained(bert)
    for text, one in zip(TEXTS, ids, strict=True):
        want = model(input_ids=torch.tensor([backbones.tokenizer()(text)["input_ids"]])).last_hidden_state.mean(dim=1)
        torch.testing.assert_close(mine.embed([one]), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.embed(ids), torch.cat([mine.embed([one]) for one in ids]), rtol=1e-4, atol=1e-5)
    assert mine.embed_latents(torch.randn(2, 3, 32), np.array([3, 1])).shape == (2, 24)


def test_the_way_into_a_sentence_encoder_trains_while_it_is_constant(bert: str):
    mine = encoder(deep("llama"), kind="model", path=bert)
    with mine.constant():
        mine.embed_latents(torch.randn(2, 3, 32), np.array([3, 1])).sum().backward()
    assert {name for name, p in mine.named_parameters() if p.grad is not None} == {"bridge.weight", "bridge.bias"}


@pytest.mark.parametrize(("depth", "want"), [(32, (16, 20)), (28, (14, 18)), (3, (1, 2)), (2, (1, 1)), (1, (0, 0))])
def test_the_middle(depth: int, want: tuple[int, int]):
    """Of 32 layers the released ones."""
    assert EncoderConfig().range(depth) == want


def test_errors(bert: str, tmp_path: Path):
    base = deep("llama")
    with pytest.raises(ConfigError, match=r"0 <= first <= last < 4, the base model's number, got 2 and 4"):
        encoder(base, first=2, last=4)
    with pytest.raises(ConfigError, match=r"kind 'model' needs 'path'"):
        EncoderConfig(kind="model")
    with pytest.raises(ConfigError, match=r"has no 'first' and 'last'"):
        EncoderConfig(kind="model", path=bert, first=1)
    with pytest.raises(ConfigError, match=r"encoder.width must be at least 1, or null for none, got 0"):
        EncoderConfig(width=0)
    with pytest.raises(BackboneError, match=r"nowhere: no such folder; give a Hugging Face folder"):
        encoder(base, kind="model", path=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"train-1: its reasoning is too long for the encoder: \d+ tokens, the most is 40"):
        encoder(base, kind="model", path=bert).encode("word " * 50, "train-1")


def test_a_family_whose_layers_cannot_stand_alone_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Here: one whose layers' copies lack something that they need."""
    base = deep("gpt2")
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
    with pytest.raises(BackboneError, match=r"its layers, run by themselves, do not give its own states"):
        encoder(base)
