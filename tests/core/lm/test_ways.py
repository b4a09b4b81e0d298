"""Which way a model's rows share passes, and that rows of unlike length then give what each gives alone."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from support.backbones import ARCHS, tokenizer
from support.families import UNPADDED, causal_lm, model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from unspoken.core.fast.unpadded import Unpadded
from unspoken.core.lm import ways
from unspoken.core.lm.backbone import Backbone
from unspoken.core.rows.batch import collate
from unspoken.core.text.example import Example
from unspoken.errors import BackboneError

LONG = "Bob has 9 figs. He eats 2. How many are left? Ann has 3 pens."
EXAMPLES = [
    Example(question="Ann has 3 pens and buys 4 more.", steps=("3+4=7",), answer="7", id="a"),
    Example(question=LONG, steps=("9-2=7", "7+3=10"), answer="10", id="b"),
    Example(question="9", steps=("9-2=7",), answer="7", id="c"),
]
QUESTIONS = [example.question for example in EXAMPLES]
METHODS = {"cot": {"name": "cot"}, "coconut": {"name": "coconut", "max_stage": 1}, "codi": {"name": "codi", "latents": 3}}

_ROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 24}
BEYOND: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "gpt_neo": {"window_size": 8},
    "phi3": {"rope_parameters": {**_ROPE, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}},
}
"""Settings with which the questions outgrow what a padded pass can do. Families as they come are asked and trained in the
same ways for the table of docs/families.md (`tests/bench/test_families.py`)."""


def close(mine: Tensor, whole: Tensor) -> None:
    torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-4 * max(1.0, float(whole.abs().max())))


def gradients(method: Any, rows: list[Any], counts: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss of some rows, and its gradients."""
    method.zero_grad(set_to_none=True)
    total = method(collate(rows), counts).total
    total.backward()
    return float(total.detach()), {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", sorted(ways.PLAIN))
def test_families_said_to_take_padding_do(family: str):
    lm, _ = causal_lm(family)
    lm.eval()
    assert ways.gap(lm, "padded", ways.alone(lm)) == ("", "")


@pytest.mark.parametrize("family", UNPADDED)
def test_families_that_padding_would_change_are_found_out(family: str):
    lm, words = causal_lm(family)
    assert family not in ways.PLAIN
    assert isinstance(Backbone(lm, words).new_cache(), Unpadded)


@pytest.mark.parametrize(("family", "more"), BEYOND.items())
@pytest.mark.parametrize("name", ["cot", "coconut"])
def test_a_batch_answers_as_each_row_alone(name: str, family: str, more: dict[str, Any]):
    it = model(family, METHODS[name], **more)
    it.method.eval()
    if name == "coconut":
        together = it.think(QUESTIONS).latents_BKD
        for b, question in enumerate(QUESTIONS):
            close(together[b], it.think([question]).latents_BKD[0])
    said = [answer.tokens for answer in it.answer(QUESTIONS, max_new_tokens=8)]
    assert said == [it.answer([question], max_new_tokens=8)[0].tokens for question in QUESTIONS]


@pytest.mark.parametrize(("family", "more"), BEYOND.items())
@pytest.mark.parametrize("name", METHODS)
def test_a_batch_trains_as_its_rows_do(name: str, family: str, more: dict[str, Any]):
    """Loss and gradients, at the first stage and at the last."""
    method: Any = model(family, METHODS[name], **more).method
    method.eval()
    for phase in (method.curriculum().phases[0], method.curriculum().phases[-1]):
        rows = [method.layout(example, phase.stage, Random(example.id)) for example in EXAMPLES]
        counts = method.counts(collate(rows))
        loss, whole = gradients(method, rows, counts)
        parts = [gradients(method, [row], counts) for row in rows]
        assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-4)
        for parameter, gradient in whole.items():
            total = sum((g[parameter] for _, g in parts if parameter in g), start=torch.zeros_like(gradient))
            close(total, gradient)


def test_a_family_that_is_right_in_no_way_is_refused(monkeypatch: pytest.MonkeyPatch):
    """States that know how much comes behind them."""
    lm, words = causal_lm("bloom")
    forward = lm.base_model.forward

    def unlike(*args: Any, **named: Any) -> Any:
        out = forward(*args, **named)
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.mean(dim=1, keepdim=True)
        return out

    monkeypatch.setattr(lm.base_model, "forward", unlike)
    with pytest.raises(BackboneError, match=r"BloomForCausalLM: a row in a batch does not give .*docs/families.md"):
        Backbone(lm, words)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("gemma4_text", {"head_dim": 8, "sliding_window": 8}),  # looks up which tokens its input vectors are of
        ("ctrl", {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48}),  # changes them in place
    ],
)
def test_a_family_that_takes_no_latents_is_refused(family: str, more: dict[str, Any]):
    words = tokenizer()
    shape = {k: v for k, v in ARCHS["llama"].items() if k != "model_type"} if "head_dim" in more else {}
    config = AutoConfig.for_model(family, **{**shape, **more, "vocab_size": len(words)})
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with pytest.raises(BackboneError, match="it cannot be fed vectors that are no token's and trained"):
        Backbone(lm, words)
