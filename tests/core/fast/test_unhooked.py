"""A model is tried without its user's hooks, and with those of libraries; afterwards all are where they were."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from support import backbones
from transformers import AutoConfig, AutoModelForCausalLM

from unspoken.core.engine.kv_slots import supports_kv_slots
from unspoken.core.fast.unhooked import has_hooks, without_hooks
from unspoken.core.lm.backbone import Backbone
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.loop.self_check import check_branches
from unspoken.methods import make_method
from unspoken.runs.model import Model

EOS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def lm(family: str) -> Any:
    """A random causal LM that nobody has tried yet."""
    arch = {**backbones.ARCHS[family]}
    config = AutoConfig.for_model(arch.pop("model_type"), vocab_size=len(backbones.tokenizer()), **EOS, **arch)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_check_of_ours_calls_a_hook(family: str) -> None:
    """Of all that is asked when a model is built and answers for the first time, a hook sees the answer's passes only."""
    body, calls = lm(family), []
    layer = (body.transformer.h if family == "gpt2" else body.model.layers)[0]
    layer.register_forward_hook(lambda module, args, out: calls.append("after"))
    layer.register_forward_pre_hook(functools.partial(lambda kind, module, args: calls.append(kind), "before"))
    made = Backbone(body, backbones.tokenizer())
    check_branches(made)
    assert supports_kv_slots(made, 64)
    assert calls == []
    it = Model(make_method({"name": "coconut", "max_stage": 3}, made).eval(), SamplingParams(max_new_tokens=4))
    (answer,) = it.answer(["Ann has 3 pens."])
    assert calls == ["before", "after"] * answer.passes


def test_hooks_come_back_in_their_order() -> None:
    body, order = lm("llama"), []
    layer = body.model.layers[0]
    first = layer.register_forward_hook(lambda *_: order.append(1))
    body(torch.tensor([[1, 2]]), output_hidden_states=True)  # transformers puts its own behind it
    layer.register_forward_hook(lambda *_: order.append(2))
    assert has_hooks(body)
    order.clear()
    with without_hooks(body):
        assert not has_hooks(body)
        states = body(torch.tensor([[1, 2]]), output_hidden_states=True).hidden_states
        layer.register_forward_hook(lambda *_: order.append(3))
    assert len(states) == 3, "what transformers collects by hooks is still collected"
    assert order == []
    body(torch.tensor([[1, 2]]))
    assert order == [1, 2, 3]
    first.remove()
    order.clear()
    body(torch.tensor([[1, 2]]))
    assert order == [2, 3]


def test_hooks_come_back_after_an_error() -> None:
    body = lm("llama")
    body.register_forward_hook(lambda *_: None)
    with pytest.raises(ZeroDivisionError), without_hooks(body):
        raise ZeroDivisionError
    assert has_hooks(body)
