"""A causal LM behind few calls: checked when taken, adapted, saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support import backbones
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from unspoken.core.embeddings import input_table
from unspoken.core.fast.attention import pairs_mask
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import Backbone, BackboneConfig
from unspoken.core.lm.loading import load_backbone, resolve
from unspoken.core.lm.markers import add_markers
from unspoken.errors import BackboneError, ConfigError


class Loud(LlamaForCausalLM):
    """A family that does something to its logits which no config says."""

    def forward(self, *args: Any, **more: Any) -> Any:
        out: Any = super().forward(*args, **more)
        out.logits = out.logits * 2
        return out


def logits(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    """Logits of a sequence, through the backbone's own calls."""
    with torch.no_grad():
        return backbone.logits(backbone.step(backbone.embed(torch.tensor([ids])), positions_BT=torch.arange(len(ids))[None]))


def test_a_head_that_changes_logits_is_refused():
    words = backbones.tokenizer()
    torch.manual_seed(0)
    arch = {**backbones.ARCHS["llama"], "vocab_size": len(words), "initializer_range": 0.2}
    del arch["model_type"]
    with pytest.raises(BackboneError, match="Loud: head\\(body\\(x\\)\\) differs from the model's own logits by"):
        Backbone(Loud(LlamaConfig(**arch)), words)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("granite", {"logits_scaling": 7.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}),
        ("cohere", {"logit_scale": 0.3}),
        ("gemma2", {"final_logit_softcapping": 5.0, "head_dim": 8}),
    ],
)
def test_heads_that_scale_their_logits_are_known(kind: str, more: dict[str, Any]):
    words = backbones.tokenizer()
    arch = {**backbones.ARCHS["llama"], "vocab_size": len(words), "initializer_range": 0.2, **more}
    config = AutoConfig.for_model(kind, **{k: v for k, v in arch.items() if k != "model_type"})
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    backbone = Backbone(lm, words)
    with torch.no_grad():
        torch.testing.assert_close(logits(backbone, [3, 4, 5]), lm(input_ids=torch.tensor([[3, 4, 5]])).logits)


def test_what_cannot_be_driven_is_refused():
    class Deaf(LlamaForCausalLM):
        def forward(self, *args: Any, **more: Any) -> Any:
            raise TypeError("no inputs_embeds here")

    arch = {k: v for k, v in backbones.ARCHS["llama"].items() if k != "model_type"}
    with pytest.raises(
        BackboneError, match="cannot drive Deaf: no inputs_embeds here; a causal LM that takes inputs_embeds"
    ):
        Backbone(Deaf(LlamaConfig(vocab_size=300, **arch)), backbones.tokenizer())


def test_a_tokenizer_needs_an_end():
    words = backbones.tokenizer()
    words.eos_token = None
    with pytest.raises(BackboneError, match="the tokenizer has no eos token"):
        Backbone(backbones.backbone().lm, words)


def test_ends_and_padding():
    backbone = backbones.backbone()
    eos = backbone.tokenizer.eos_token_id
    backbone.lm.generation_config.eos_token_id = [9, eos]
    assert backbone.eos_ids == (eos, 9)
    words = backbones.tokenizer()
    words.pad_token = None
    assert Backbone(backbone.lm, words).tokenizer.pad_token_id == eos


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_random_weights_end_where_their_tokenizer_does(family: str, tmp_path: Path):
    """Not at the number that is eos in the family's own vocabulary; the model in the package neither."""
    backbones.tokenizer().save_pretrained(tmp_path)
    backbone = load_backbone(BackboneConfig(arch=backbones.ARCHS[family], tokenizer=str(tmp_path)))
    assert backbone.eos_ids == (backbone.tokenizer.eos_token_id,)
    assert load_backbone(BackboneConfig(path="builtin:tiny")).eos_ids == (0,)


def test_encodings_are_forgotten_when_the_tokenizer_grows():
    backbone = backbones.backbone()
    before = backbone.encode("<|latent|>")
    add_markers(backbone)
    assert len(before) > 1
    assert len(backbone.encode("<|latent|>")) == 1


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_lora_merged_equals_adapted(family: str):
    """Rows of trained tokens included; the model it was made from is not changed by merging."""
    backbone = backbones.backbone(family)
    markers = add_markers(backbone)
    before = logits(backbone, [5, 6, 7])
    backbone.adapt(LoraSettings(r=3), markers.ids)
    trained = {name for name, p in backbone.lm.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name or "trainable_tokens" in name for name in trained)
    torch.testing.assert_close(logits(backbone, [5, 6, 7])[..., : markers.bot], before[..., : markers.bot])
    with torch.no_grad():
        for name, p in backbone.lm.named_parameters():
            if name in trained:
                p.add_(torch.randn_like(p) * 0.1)
    ids = [5, markers.bot, 7, markers.eot, 9]
    adapted = logits(backbone, ids)
    assert not torch.allclose(adapted[:, :1], before[:, :1])
    merged = Backbone(backbone.plain(), backbone.tokenizer)
    torch.testing.assert_close(logits(merged, ids), adapted, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.lm.named_parameters())
    assert torch.equal(logits(backbone, ids), adapted)


@pytest.mark.parametrize("lora", [False, True])
def test_saved_as_an_ordinary_folder(tmp_path: Path, lora: bool):
    """Any tool that knows Hugging Face folders reads it: safetensors, tokenizer with the markers."""
    backbone = backbones.backbone("qwen3")
    markers = add_markers(backbone)
    if lora:
        backbone.adapt(LoraSettings(r=3), markers.ids)
        with torch.no_grad():
            for p in backbone.lm.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p) * 0.1)
    backbone.save(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = load_backbone(BackboneConfig(path=str(tmp_path)))
    ids = [4, markers.bot, 8]
    torch.testing.assert_close(logits(again, ids), logits(backbone, ids), rtol=1e-4, atol=1e-4)
    assert add_markers(again) == markers
    assert again.plain() is again.lm
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor([ids])).logits, logits(again, ids))


def test_random_weights_from_an_architecture(tmp_path: Path):
    backbones.tokenizer().save_pretrained(tmp_path)
    config = BackboneConfig(arch=backbones.ARCHS["gpt2"], tokenizer=str(tmp_path), attention="eager")
    torch.manual_seed(1)
    one = load_backbone(config)
    torch.manual_seed(1)
    two = load_backbone(config)
    assert (one.width, one.vocabulary, one.context) == (32, len(backbones.tokenizer()), 256)
    assert torch.equal(logits(one, [1, 2]), logits(two, [1, 2]))


def test_nothing_at_the_path(tmp_path: Path):
    with pytest.raises(BackboneError, match=re.escape(f"{tmp_path} is an empty folder; give a Hugging Face folder")):
        load_backbone(BackboneConfig(path=str(tmp_path)))


def test_run_directories_and_built_in_models(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BackboneError, match="has no model yet: it has not reached a validation"):
        resolve(str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve(str(tmp_path)) == str(tmp_path / "model")
    assert resolve("somewhere/else") == "somewhere/else"
    with pytest.raises(ConfigError, match="no built-in model 'builtin:nothing'; known: "):
        resolve("builtin:nothing")


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "model.embed_tokens"])
def test_lora_on_a_table_that_is_embedding_and_head_is_refused(target: str):
    """Merged, it would be another model than the one that was trained."""
    lora = LoraSettings(r=2, targets=("q_proj", target))
    with pytest.raises(ConfigError, match=f"LoRA cannot be added to '{target}': embedding and head of this model are one"):
        backbones.backbone("llama", tie_word_embeddings=True).adapt(lora)
    apart = backbones.backbone("llama", tie_word_embeddings=False)
    apart.adapt(lora)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in apart.lm.parameters():
            if p.requires_grad:
                p.normal_(std=0.1)
        ids = torch.arange(1, 7)[None]
        torch.testing.assert_close(apart.plain()(ids).logits, apart.lm(ids).logits, rtol=1e-4, atol=1e-4)


def test_freezing():
    backbone = backbones.backbone()
    backbone.freeze()
    assert not any(p.requires_grad for p in backbone.parameters())


def test_a_mask_of_columns_becomes_the_mask_of_pairs_that_transformers_would_make():
    """Also for a second pass, on a cache; a family that counts columns keeps them."""
    backbone = backbones.backbone("llama")
    embeds, places = backbone.embed(torch.arange(12).view(2, 6)), torch.arange(6).expand(2, -1)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    pairs = pairs_mask(backbone.lm, mask, embeds[:, 4:])
    assert pairs is not None
    assert pairs.shape == (2, 1, 2, 6)
    assert pairs[1, 0].tolist() == [[True] * 4 + [False] * 2] * 2
    assert pairs[0, 0].tolist() == [[True] * 5 + [False], [True] * 6]
    want = backbone.body(inputs_embeds=embeds, attention_mask=mask, position_ids=places).last_hidden_state
    got = backbone.step(embeds, positions_BT=places, mask=mask)
    torch.testing.assert_close(got[mask.bool()], want[mask.bool()])
    backbone.lm._takes_pairs = False
    assert pairs_mask(backbone.lm, mask, embeds) is mask


@pytest.mark.parametrize("by", ["lora", "rows"])
@pytest.mark.parametrize("family", ["llama", "phi"])  # phi's head has a bias
def test_new_tokens_leave_a_frozen_head_its_probabilities(family: str, by: str, monkeypatch: pytest.MonkeyPatch):
    """As copies of "<<" that never part from it they would take three quarters of its probability."""
    monkeypatch.setitem(backbones.ARCHS, "phi", {**backbones.ARCHS["llama"], "model_type": "phi"})
    backbone = backbones.backbone(family, tie_word_embeddings=False)
    markers, (opens,) = add_markers(backbone, "<<"), backbone.encode("<<")
    head = backbone.lm.get_output_embeddings()
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    assert torch.equal(head.weight[markers.bot], head.weight[opens])  # as released, where the head trains
    others = head.weight.detach().clone()
    if by == "lora":
        backbone.adapt(LoraSettings(r=3), markers.ids)
    else:
        backbone.train_rows(markers.ids)
    assert torch.equal(head.weight[: markers.bot], others[: markers.bot])
    assert not head.weight.requires_grad
    states = torch.cat([torch.randn(50, 32) * 5, 20 * head.weight[opens][None] / head.weight[opens].norm()])
    with torch.no_grad():
        chance = backbone.logits(states).softmax(dim=1)
    assert float(chance[:, list(markers.ids)].max()) <= 1 / backbone.vocabulary
    assert float(chance[-1, opens]) > 0.9


def test_a_head_that_knows_its_tokens_stays():
    """Rows that are no copies, as of a run that has trained its markers, are left as they are; a tied head trains."""
    backbone = backbones.backbone("llama")
    markers = add_markers(backbone)
    head = backbone.lm.get_output_embeddings().weight
    with torch.no_grad():
        head[list(markers.ids)] += torch.randn(3, 32)
    before = head.detach().clone()
    backbone.adapt(LoraSettings(r=3), markers.ids)
    assert torch.equal(head, before)
    tied = backbones.backbone("qwen3")
    markers = add_markers(tied)
    before = tied.lm.get_input_embeddings().weight.detach().clone()
    tied.adapt(LoraSettings(r=3), markers.ids)
    assert torch.equal(input_table(tied.plain()).weight, before)
