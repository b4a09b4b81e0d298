"""SIM-CoT's decoder: which steps stand for which thoughts, what trains, what is fed."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import backbones

from unspoken.core.auxiliary.step_decoder import StepDecoder, StepDecoderConfig
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.rows.batch import collate
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError
from unspoken.methods import make_method
from unspoken.methods.sim_cot import align

EXAMPLES = [
    Example(question="Ann has 3 pens?", steps=("<<3+4=7>>", "<<7*2=14>>"), answer="14"),
    Example(question="Bob has 9 figs?", steps=("<<9-2=7>>",), answer="7"),
]


def sim_cot(family: str = "llama", **more: Any) -> Any:
    """SIM-CoT on a tiny Coconut whose every stage has all thoughts."""
    inner = {"name": "coconut", "curriculum": "none", "max_stage": 2}
    return make_method({"name": "sim_cot", "inner": inner, **more}, backbones.backbone(family))


def loss(method: Any) -> Any:
    """The report of two examples, differentiated."""
    stage = method.curriculum().last
    batch = collate([method.layout(example, stage, Random(0)) for example in EXAMPLES])
    report = method(batch, method.counts(batch))
    report.total.backward()
    return report


@pytest.mark.parametrize(
    ("steps", "groups", "surplus", "missing", "want"),
    [
        (3, 3, "merge", "nothing", [(0,), (1,), (2,)]),
        (5, 3, "merge", "nothing", [(0,), (1,), (2, 3, 4)]),
        (5, 3, "spread", "nothing", [(0,), (1, 2), (3, 4)]),
        (1, 3, "merge", "nothing", [(0,), (), ()]),
        (1, 3, "merge", "spread", [(), (), (0,)]),
        (2, 5, "merge", "spread", [(), (0,), (), (), (1,)]),
        (0, 2, "merge", "visible", [(), ()]),
        (0, 2, "merge", "spread", [(), ()]),
        (4, 0, "merge", "nothing", []),
        (4, 1, "merge", "nothing", [(0, 1, 2, 3)]),
    ],
)
def test_alignment(steps: int, groups: int, surplus: str, missing: str, want: list[tuple[int, ...]]):
    assert align(steps, groups, surplus, missing) == want


@given(
    st.integers(0, 20),
    st.integers(1, 12),
    st.sampled_from(["merge", "spread"]),
    st.sampled_from(["nothing", "spread", "visible"]),
)
def test_every_step_stands_in_one_group_and_in_order(steps: int, groups: int, surplus: str, missing: str):
    found = align(steps, groups, surplus, missing)
    assert len(found) == groups
    assert [number for numbers in found for number in numbers] == list(range(steps))
    if steps >= groups:
        assert all(found)


def test_only_the_decoder_trains():
    method = sim_cot(trains="decoder")
    report = loss(method)
    assert list(report.terms) == ["explain"]
    assert all(p.grad is None for p in method.method.parameters())
    assert all(p.grad is not None for p in method.decoder.parameters() if p.requires_grad)


def test_only_the_inner_method_trains():
    """The decoder's loss still reaches it, through the latents."""
    method, plain = sim_cot(trains="inner"), sim_cot(trains="inner", weight=0.0)
    loss(method)
    loss(plain)
    assert all(p.grad is None for p in method.decoder.parameters())
    ours, theirs = (next(iter(m.backbone.lm.base_model.layers[0].mlp.parameters())).grad for m in (method, plain))
    assert not torch.allclose(ours, theirs)


@pytest.mark.parametrize("dropout", [False, True])
def test_the_decoder_has_dropout_in_training_only_where_told(dropout: bool):
    """As released on Coconut: its model stays in evaluation mode, whatever the rest does. On CODI it does not."""
    method: Any = make_method(
        {"name": "sim_cot", "inner": "coconut", "decoder": {"dropout": dropout}},
        backbones.backbone("gpt2", resid_pdrop=0.5, attn_pdrop=0.5),
    )
    method.train()
    assert method.backbone.lm.training
    assert {module.training for module in method.decoder.lm.modules()} == {dropout}
    method.eval()
    assert not any(module.training for module in method.decoder.modules())


def test_weight_scales_the_auxiliary_term():
    one, half = loss(sim_cot()), loss(sim_cot(weight=0.5))
    torch.testing.assert_close(half.terms["explain"], one.terms["explain"] / 2)
    torch.testing.assert_close(half.terms["answer"], one.terms["answer"])


def test_the_steps_loss_by_hand():
    """Sequence: summed over a step's tokens, averaged over rows with a step, then over groups. Token: over all tokens."""
    for normalisation in ("sequence", "token"):
        method = sim_cot(normalisation=normalisation)
        report = loss(method)
        C = method.latents_per_group
        per_group: list[list[torch.Tensor]] = [[], []]
        tokens = 0
        for b, example in enumerate(EXAMPLES):
            for g, step in enumerate(example.steps):
                ids = [*method.backbone.encode(step), method.backbone.tokenizer.eos_token_id]
                latents = report.trace.latents_BKD[b, g * C : (g + 1) * C]
                fed = torch.cat([latents, method.backbone.embed(torch.tensor(ids))])[None]
                positions = torch.arange(1, fed.shape[1] + 1)[None]
                logits = method.decoder.lm(inputs_embeds=fed, position_ids=positions).logits[0, C - 1 : -1]
                per_group[g].append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="sum"))
                tokens += len(ids)
        if normalisation == "sequence":
            want = sum(sum(group) / len(group) for group in per_group) / 2
        else:
            want = sum(sum(group) for group in per_group) / tokens
        torch.testing.assert_close(report.terms["explain"], torch.as_tensor(want), rtol=1e-5, atol=1e-5)


def test_words_in_a_batch_are_those_of_each_group_alone():
    method = sim_cot()
    latents = torch.randn(9, 2, 32)
    together = method.decoder.speak(latents, 12)
    assert together == [method.decoder.speak(latents[i : i + 1], 12)[0] for i in range(9)]
    assert together == method.decoder.speak(latents, 12, batch_size=4)
    assert method.decoder.explain(latents, 12) == [method.backbone.decode(tokens).strip() for tokens in together]


def test_first_layers_of_the_base():
    method = sim_cot(decoder={"kind": "layers", "layers": 1})
    base, decoder = method.backbone.lm.state_dict(), method.decoder.lm.state_dict()
    assert set(decoder) == {key for key in base if ".layers.1." not in key}
    assert all(torch.equal(value, base[key]) for key, value in decoder.items())


def test_a_decoder_scales_its_logits_as_its_family_does():
    base = backbones.backbone("llama")
    decoder = StepDecoder(StepDecoderConfig(), base)
    states = torch.randn(3, 32)
    plain = decoder.logits(states)
    decoder.lm.config.logits_scaling = 4.0
    torch.testing.assert_close(decoder.logits(states), plain / 4)


def test_another_model_as_decoder(tmp_path):
    """Its own width, with a projection of latents, and of embeddings that are the base's; its tokens must be the base's."""
    small = backbones.backbone("llama", hidden_size=16, num_attention_heads=2)
    small.save(tmp_path)
    assert load_backbone(BackboneConfig(path=str(tmp_path))).width == 16
    for embeddings in ("own", "base"):
        method = sim_cot(decoder={"kind": "model", "path": str(tmp_path), "embeddings": embeddings})
        loss(method)
        assert all(p.grad is not None and p.grad.any() for p in method.decoder.parameters() if p.requires_grad)
        ids = torch.tensor([[1, 2]])
        table = method.decoder.lm if embeddings == "own" else method.backbone.lm
        fed = table.get_input_embeddings()(ids)
        assert torch.equal(method.decoder.embed(ids), fed if embeddings == "own" else method.decoder.project(fed))
        assert method.decoder.explain(torch.randn(2, 2, 32), 3)
    other = copy.deepcopy(small)
    other.tokenizer.add_tokens(["<|other|>"])
    other.lm.resize_token_embeddings(len(other.tokenizer), mean_resizing=False)
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"another tokenizer than the base model: 1 of \d+ tokens differ"):
        sim_cot(decoder={"kind": "model", "path": str(tmp_path / "other"), "embeddings": "own"})
