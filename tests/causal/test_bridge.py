"""Hook points by TransformerLens' names, and a module that answers, against traces and edits."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from contract import cases as cases

from unspoken.causal.bridge import AnsweringModule, HookPoint, run_with_cache, run_with_hooks
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError
from unspoken.runs.model import Model

QUESTIONS = [e.question for e in cases.EXAMPLES]


def model(name: str = "coconut", family: str = "llama") -> Model:
    """A random model of a case of the contract."""
    return Model(cases.shared(name, family), SamplingParams(max_new_tokens=6))


def test_the_cache_has_every_block() -> None:
    it = model()
    traced, cache = run_with_cache(it, QUESTIONS, latents=3)
    assert list(cache) == [f"blocks.{block}.hook_resid_{end}" for block in (0, 1) for end in ("pre", "post")]
    torch.testing.assert_close(cache["blocks.1.hook_resid_post"], traced.states_LBTD[2])
    assert cache["blocks.0.hook_resid_post"] is not cache["blocks.1.hook_resid_pre"]
    torch.testing.assert_close(cache["blocks.0.hook_resid_post"], cache["blocks.1.hook_resid_pre"])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("point", "layer"), [("blocks.0.hook_resid_pre", 0), ("blocks.1.hook_resid_post", 2)])
def test_hooks_change_what_goes_on(family: str, point: str, layer: int) -> None:
    it, places = model(family=family), []
    shift = 30 * torch.randn(it.method.backbone.width, generator=torch.Generator().manual_seed(2))

    def hook(states: torch.Tensor, where: HookPoint) -> torch.Tensor:
        places.append((where.name, where.layer))
        return states + shift * where.columns.at("latent", 1)[:, :, None]

    answers = run_with_hooks(it, QUESTIONS, [(point, hook), (point, lambda states, where: None)], latents=3)
    edited = it.trace(
        QUESTIONS,
        latents=3,
        edit_layers=lambda at, s, c: s + shift * c.at("latent", 1)[:, :, None] if at == layer else s,
    )
    assert [a.tokens for a in answers] == [a.tokens for a in edited.answers]
    assert [a.tokens for a in answers] != [a.tokens for a in it.answer(QUESTIONS, latents=3)]
    assert set(places) == {(point, layer)}


@pytest.mark.parametrize("name", ["blocks.2.hook_resid_pre", "blocks.0.hook_z", "hook_embed", "blocks.-1.hook_resid_pre"])
def test_unknown_hook_points(name: str) -> None:
    with pytest.raises(ConfigError, match=r"known: blocks\.0\.hook_resid_pre to blocks\.1\.hook_resid_post"):
        run_with_hooks(model(), QUESTIONS, [(name, lambda states, where: None)])


def test_a_module_that_answers() -> None:
    """A plain torch hook on one of its parts is called once per pass, in order: the questions, then latent by latent."""
    it = model("coconut", "gpt2")
    answering = AnsweringModule(it)
    assert {id(p) for p in answering.parameters()} == {id(p) for p in it.method.backbone.lm.parameters()}
    kinds: list[list[list[int]]] = []

    def note(*_: object) -> None:
        assert answering.watch.columns is not None
        kinds.append(answering.watch.columns.numbers("latent").tolist())

    handle = answering.lm.transformer.h[1].register_forward_hook(note)
    (answer,) = answering(QUESTIONS[:1], latents=3)
    handle.remove()
    assert answer.tokens == it.answer(QUESTIONS[:1], latents=3)[0].tokens
    assert len(kinds) == answer.passes
    assert set(kinds[0][0]) == {-1}
    assert [columns[0][0] for columns in kinds[1:4]] == [0, 1, 2]


@pytest.mark.skipif(importlib.util.find_spec("nnsight") is None, reason="nnsight is not installed")
def test_nnsight_traces_it() -> None:
    """States that nnsight saves pass by pass are those of a trace, and what it sets is what an edit sets."""
    from nnsight import NNsight

    it = model("coconut", "gpt2")
    question, how = QUESTIONS[:1], dict[str, Any](latents=3)
    want = it.trace(question, **how)
    answering: Any = NNsight(AnsweringModule(it))
    with answering.trace(question, **how) as tracer:
        empty: Any = list()  # noqa: C408 - nnsight gives it a method
        kept = empty.save()
        for _ in tracer.iter[0:4]:
            out = answering.lm.transformer.h[0].output
            kept.append((out[0] if isinstance(out, tuple) else out).clone())
    states_TD = torch.cat([part.reshape(-1, part.shape[-1]) for part in kept])
    n = want.positions("latent", 0).stop
    torch.testing.assert_close(states_TD[:n], want.states_LBTD[1, 0, :n])
    with answering.trace(question, **how) as tracer:
        for step in tracer.iter[0:3]:
            if step == 2:  # the second latent
                answering.lm.transformer.h[0].output[:] = 0
        answers = answering.output.save()
    edited = it.trace(question, edit_layers=lambda at, s, c: s * ~c.at("latent", 1)[:, :, None] if at == 1 else s, **how)
    assert [a.tokens for a in answers] == [a.tokens for a in edited.answers]
