"""Caches of frozen models change what a training step costs, and nothing else."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import EXAMPLES, LORA, settings
from support.backbones import ARCHS, backbone
from torch import Tensor

from unspoken.core.auxiliary.assistant import assistant_batch
from unspoken.core.fast.switch import FastConfig, using
from unspoken.core.lm.prefix_cache import PrefixCache
from unspoken.core.rows.batch import Batch, collate
from unspoken.methods import make_method

FAMILIES = tuple(ARCHS)


def made(name: str, family: str, states: Path | None = None, prefix_gb: float = 0.0, **more: Any) -> Any:
    """A method in training with such caches, its weights the same every time."""
    data = settings(name, family)
    soft = data if data["name"] == "softcot" else data["softcot"]
    soft |= {"texts": {"base": "Solve: {question}\n{thoughts}", "assistant": "Help: {question}"}, **more}
    torch.manual_seed(0)
    with using(FastConfig(states=None if states is None else str(states), prefix_gb=prefix_gb)):
        method: Any = make_method(data, backbone(family))
    torch.manual_seed(1)
    with torch.no_grad():
        for key, value in method.named_parameters():
            if "lora_B" in key:
                value.normal_(std=0.1)
    return method.train()


def batch_of(method: Any, *numbers: int) -> Batch:
    """Some of the examples as training rows."""
    return collate([method.layout(EXAMPLES[i], method.curriculum().last, Random(0)) for i in numbers])


def learnt(method: Any, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients; the dropout of the contrast is the same every time."""
    method.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    total = method(batch, method.counts(batch)).total
    total.backward()
    return float(total.detach()), {key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch):
    """fed(model) -> a list that gets (rows, columns, with gradient) of every forward pass of a model from now on."""

    def watch(model: Any) -> list[tuple[int, int, bool]]:
        passes: list[tuple[int, int, bool]] = []
        step = model.step

        def counted(embeds_BTD: Tensor, **how: Any) -> Tensor:
            passes.append((len(embeds_BTD), embeds_BTD.shape[1], torch.is_grad_enabled()))
            return step(embeds_BTD, **how)

        monkeypatch.setattr(model, "step", counted)
        return passes

    return watch


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["softcot", "softcot_pp"])
def test_the_same_gradients_with_caches_and_without(name: str, family: str, tmp_path: Path):
    """Cold, warm, in other company and alone."""
    bare = made(name, family)
    cached = made(name, family, states=tmp_path, prefix_gb=0.1)
    for numbers in ((0, 1, 2), (0, 1, 2), (2, 3), (1,), (4, 0, 3, 3)):
        batch = batch_of(bare, *numbers)
        want, expected = learnt(bare, batch)
        got, gradients = learnt(cached, batch_of(cached, *numbers))
        assert got == pytest.approx(want, rel=1e-5)
        assert gradients.keys() == expected.keys()
        for key, gradient in expected.items():
            assert (gradients[key] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), key


def test_a_known_prompt_costs_what_trains(tmp_path: Path, fed: Any):
    """SoftCoT's second step: no pass of the assistant, one of the base model, from the first slot on."""
    method = made("softcot", "llama", states=tmp_path, prefix_gb=0.1)
    batch = batch_of(method, 0, 2)
    learnt(method, batch)
    base, assistant = fed(method.backbone), fed(method.assistant.backbone)
    learnt(method, batch)
    assert assistant == []
    assert base == [(2, int((batch.lengths_B - batch.starts_B).max()), True)]


def test_without_caches_everything_is_read_again(fed: Any):
    method = made("softcot", "llama")
    batch = batch_of(method, 0, 2)
    learnt(method, batch)
    base, assistant = fed(method.backbone), fed(method.assistant.backbone)
    learnt(method, batch)
    asked = assistant_batch(batch)
    assert asked is not None
    assert assistant == [(2, asked.ids_BT.shape[1], False)]
    assert base == [(2, int(batch.starts_B.max()), False), (2, int((batch.lengths_B - batch.starts_B).max()), True)]


def test_initial_vectors_that_train_cost_the_slots(tmp_path: Path, fed: Any):
    """SoftCoT++: what the assistant reads before its slots is known too; sets differ only behind it."""
    method = made("softcot_pp", "llama", states=tmp_path, prefix_gb=0.1)
    batch = batch_of(method, 0, 2)
    learnt(method, batch)
    assistant = fed(method.assistant.backbone)
    learnt(method, batch)
    assert assistant == [(3 * 2, method.soft.config.latents, True)]


def test_what_all_prompts_begin_with_is_read_once(fed: Any):
    """A question that was never seen is read from where it differs; so it is when memory holds no question at all."""
    for gigabytes in (0.1, 1e-9):
        method = made("softcot", "llama", prefix_gb=gigabytes)
        learnt(method, batch_of(method, 0, 1))
        base = fed(method.backbone)
        batch = batch_of(method, 2)
        learnt(method, batch)
        instruction = len(method.backbone.encode("Solve: "))
        assert base[0] == (1, int(batch.starts_B[0]) - instruction, False)
        assert len(method.backbone.prefixes) == (3 if gigabytes > 1e-3 else 0)


def test_the_least_used_make_room():
    lm = backbone()
    ids = [torch.arange(5, 25), torch.arange(6, 26), torch.arange(7, 27)]
    lengths = np.array([20])
    cache = PrefixCache(lm.lm, 1.0)
    cache.read(lm, ids[0][None], lengths)
    cache = PrefixCache(lm.lm, 2.5 * cache._bytes / 1e9)
    for i in (0, 1, 0, 2):
        cache.read(lm, ids[i][None], lengths)
    assert len(cache) == 2
    forwarded = [(cache.read(lm, ids[i][None], lengths) or (None, -1))[1] for i in (0, 2, 1)]
    assert forwarded == [0, 0, 20]


def test_other_weights_forget(fed: Any):
    method = made("softcot", "llama", prefix_gb=0.1)
    batch = batch_of(method, 0, 1)
    learnt(method, batch)
    with torch.no_grad():
        method.backbone.lm.get_input_embeddings().weight.mul_(1.5)
    bare = made("softcot", "llama")
    with torch.no_grad():
        bare.backbone.lm.get_input_embeddings().weight.mul_(1.5)
    assert learnt(method, batch)[0] == pytest.approx(learnt(bare, batch)[0], rel=1e-6)


def test_a_base_that_trains_is_not_remembered(fed: Any):
    method = made("softcot", "llama", prefix_gb=0.1, base_trains=True)
    batch = batch_of(method, 0, 1)
    learnt(method, batch)
    base = fed(method.backbone)
    learnt(method, batch)
    assert base == [(2, batch.ids_BT.shape[1], True)]


def test_an_assistant_that_trains_is_not_remembered(tmp_path: Path, fed: Any):
    assistant = {**settings("softcot", "llama")["assistant"], **LORA}
    method = made("softcot", "llama", states=tmp_path, assistant=assistant)
    batch = batch_of(method, 0, 1)
    learnt(method, batch)
    assistant = fed(method.assistant.backbone)
    learnt(method, batch)
    assert len(assistant) == 1
    assert assistant[0][2]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_window_is_read_as_ever(fed: Any):
    """A layer that keeps only a window has no whole prefix to remember."""
    lm = backbone("qwen3", sliding_window=64, use_sliding_window=True, layer_types=["sliding_attention", "full_attention"])
    assert PrefixCache(lm.lm, 1.0).read(lm, torch.arange(5, 25)[None], np.array([20])) is None
    method: Any = make_method(settings("softcot", "qwen3"), lm).train()
    assert lm.prefixes is not None
    batch = batch_of(method, 0)
    learnt(method, batch)
    base = fed(method.backbone)
    learnt(method, batch)
    assert base[0] == (1, int(batch.starts_B[0]), False)


def test_nothing_is_remembered_while_it_only_answers(fed: Any):
    method = made("softcot", "llama", prefix_gb=0.1).eval()
    batch = batch_of(method, 0, 1)
    with torch.no_grad():
        method(batch, method.counts(batch))
    assert len(method.backbone.prefixes) == 0


def test_an_earlier_read_state_is_refused():
    """A trace has no state where nothing was forwarded, and says so instead of giving another's."""
    method = made("softcot", "llama", prefix_gb=0.1)
    batch = batch_of(method, 0)
    trace = method(batch, method.counts(batch)).trace
    assert (trace.column_BT[0, : batch.starts_B[0]] == -1).all()
    with pytest.raises(AssertionError, match="was not made"):
        trace.hidden_at(np.array([0]), np.array([1]))
