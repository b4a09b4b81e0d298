"""Traces of layers against a plain forward pass of transformers, and edits against rows that hold the edit themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract import cases as cases
from support import backbones

from unspoken.core.fast.switch import PLAIN, FastConfig
from unspoken.core.loop.layers import Columns, LayerTrace, LayerWatch
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method
from unspoken.runs.model import Model

QUESTIONS = [e.question for e in cases.EXAMPLES]
FAMILIES = ("gpt2", "llama", "qwen3")
METHODS = ("coconut", "codi", "softcot", "pause", "cot")


def model(name: str, family: str = "llama", fast: FastConfig | None = None) -> Model:
    """A random model of a case of the contract."""
    return Model(cases.shared(name, family), SamplingParams(max_new_tokens=6), fast=fast)


def replayed(it: Model, traced: LayerTrace, latents: list[torch.Tensor], row: int) -> tuple[torch.Tensor, ...]:
    """`hidden_states` of one row, forwarded by transformers at once with its latents put in."""
    lm = it.method.backbone.lm
    ids = torch.tensor(traced.tokens[row])
    with torch.inference_mode():
        embeds_TD = lm.get_input_embeddings()(ids).clone()
        start, n = int(traced.starts_B[row]), int(traced.latents_B[row])
        if n:
            embeds_TD[start : start + n] = latents[row][:n]
        return lm.base_model(inputs_embeds=embeds_TD[None], output_hidden_states=True, use_cache=False).hidden_states


def same(got_TD: torch.Tensor, want_TD: torch.Tensor) -> None:
    """Equal to within 1e-5 of the largest entry."""
    torch.testing.assert_close(got_TD, want_TD, atol=1e-5 * float(want_TD.abs().max()), rtol=1e-5)


def fed(it: Model, questions: list[str], **how: Any) -> list[torch.Tensor]:
    """The latents [K, D] of each question."""
    kept: dict[Any, torch.Tensor] = {}

    def keep(trace: Any, keys: Any) -> None:
        kept.update({key[0]: trace.row(b).latents_BKD[0] for b, key in enumerate(keys)})

    it.answer(questions, on_trace=keep, **how)
    return [kept[f"question {i}"] for i in range(len(questions))]


@pytest.mark.parametrize("fast", [FastConfig(), PLAIN], ids=["fast", "plain"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_states_are_those_of_a_plain_pass(name: str, family: str, fast: FastConfig) -> None:
    it = model(name, family, fast)
    traced = it.trace(QUESTIONS, batch_size=3)
    answers, latents = it.answer(QUESTIONS), fed(it, QUESTIONS)
    assert [a.tokens for a in traced.answers] == [a.tokens for a in answers], "the loop answers as the scheduler does"
    L, B, T, _ = traced.states_LBTD.shape
    assert (3, len(QUESTIONS), max(traced.lengths_B)) == (L, B, T)
    assert traced.layers == (0, 1, 2)
    assert len(set(traced.lengths_B.tolist())) > 1, "rows of one length would hide what padding does"
    for b, answer in enumerate(answers):
        n = int(traced.lengths_B[b])
        assert n == traced.prompts_B[b] + len(answer.tokens) - 1
        assert traced.tokens[b][int(traced.prompts_B[b]) :] == answer.tokens[:-1]
        want = replayed(it, traced, latents, b)
        for layer in (0, 1):
            same(traced.states_LBTD[layer, b, :n], want[layer][0])
        same(traced.final_BTD[b, :n], want[-1][0])
        assert not traced.states_LBTD[:, b, n:].any()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_last_layer_is_kept_before_the_final_norm(family: str) -> None:
    it = model("coconut", family)
    lm, traced = it.method.backbone.lm, it.trace(QUESTIONS[:2])
    norm = lm.transformer.ln_f if family == "gpt2" else lm.model.norm
    with torch.inference_mode():
        torch.testing.assert_close(norm(traced.states_LBTD[-1, 0]), traced.final_BTD[0])


def test_parts_of_a_row() -> None:
    it = model("coconut")
    traced = it.trace(QUESTIONS, latents=3)
    ids = it.method.backbone.encode(QUESTIONS[0])
    assert traced.tokens[0][: len(ids)] == ids
    assert traced.positions("question", 0) == range(int(traced.starts_B[0]))
    assert traced.positions("latent", 0) == range(int(traced.starts_B[0]), int(traced.starts_B[0]) + 3)
    spoken = traced.positions("spoken", 0)
    assert [traced.tokens[0][t] for t in spoken] == list(traced.answers[0].tokens[:-1])
    assert traced.at("latent", 0).shape == (3, 3, it.method.backbone.width)
    assert traced.at("question", 0).shape[1] == traced.starts_B[0]
    torch.testing.assert_close(traced.at("latent", 0)[0], fed(it, QUESTIONS, latents=3)[0])  # Llama feeds what it is given
    with pytest.raises(ConfigError, match="row 9 is not there"):
        traced.at("latent", 9)
    with pytest.raises(ConfigError, match="unknown part of a row 'thought'"):
        traced.at("thought", 0)  # pyright: ignore[reportArgumentType]


def test_some_layers_only_and_arrays() -> None:
    it = model("coconut")
    whole, some = it.trace(QUESTIONS), it.trace(QUESTIONS, layers=[-1, 1])
    assert some.layers == (2, 1)
    torch.testing.assert_close(some.states_LBTD, whole.states_LBTD[[2, 1]])
    arrays = whole.arrays()
    assert arrays["states_LBTD"].shape == tuple(whole.states_LBTD.shape)
    assert (arrays["tokens_BT"] >= 0).sum(axis=1).tolist() == whole.lengths_B.tolist()


@pytest.mark.parametrize("parallel", [None, 2])
def test_an_edit_at_a_latent_is_what_a_plain_pass_makes_of_it(parallel: int | None) -> None:
    """Layer 1 at latent 2 is moved; from there on the row is what transformers gives with the same hook."""
    it = model("coconut", "gpt2")
    it.parallel = parallel
    shift = torch.linspace(-3, 3, it.method.backbone.width)

    def edit(layer: int, states_BWD: torch.Tensor, columns: Columns) -> torch.Tensor:
        return states_BWD + shift * columns.at("latent", 2)[:, :, None] if layer == 1 else states_BWD

    how: dict[str, Any] = {"latents": 4, "batch_size": 3}
    before, after = it.trace(QUESTIONS, **how), it.trace(QUESTIONS, edit_layers=edit, **how)
    latents = fed(it, QUESTIONS, latents=4, watch=LayerWatch(edit=edit))
    lm = it.method.backbone.lm
    for b in range(len(QUESTIONS)):
        at, n = int(after.starts_B[b]) + 2, int(after.lengths_B[b])
        torch.testing.assert_close(after.states_LBTD[:, b, :at], before.states_LBTD[:, b, :at])

        def moved(module: Any, args: Any, out: Any, at: int = at) -> Any:
            states = (out[0] if isinstance(out, tuple) else out).clone()
            states[:, at] += shift
            return (states, *out[1:]) if isinstance(out, tuple) else states

        handle = lm.transformer.h[0].register_forward_hook(moved)
        want = replayed(it, after, latents, b)
        handle.remove()
        same(after.final_BTD[b, :n], want[-1][0])
        assert not torch.allclose(after.final_BTD[b, at], before.final_BTD[b, at], atol=1e-2)


@pytest.mark.parametrize("family", ["mistral", "mamba", "bloom"])
def test_families_that_are_fed_otherwise(family: str) -> None:
    """A window that rows outgrow, a recurrent state, positions counted by columns: each row is right by itself."""
    archs: dict[str, dict[str, Any]] = {
        "mistral": {**backbones.ARCHS["llama"], "model_type": "mistral", "sliding_window": 8},
        "mamba": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4},
    }
    backbones.ARCHS.setdefault(family, archs[family])
    made = make_method({"name": "coconut", "latents_per_step": 1, "max_stage": 3}, backbones.backbone(family))
    it = Model(made.eval(), SamplingParams(max_new_tokens=4))
    traced, latents = it.trace(QUESTIONS), fed(it, QUESTIONS)
    assert [a.tokens for a in traced.answers] == [a.tokens for a in it.answer(QUESTIONS)]
    for b in range(len(QUESTIONS)):
        want = replayed(it, traced, latents, b)
        n = int(traced.lengths_B[b])
        first = 0 if family == "mamba" else 1  # transformers' Mamba leaves out what enters the first layer
        same(traced.states_LBTD[1, b, :n], want[first][0])
        same(traced.final_BTD[b, :n], want[-1][0])


def test_a_plain_torch_hook_knows_where_it_is() -> None:
    """A hook of one's own, by the columns of a watch, gives what `edit_layers` gives."""
    it = model("coconut")
    watch, shift = LayerWatch(layers=True), torch.full((it.method.backbone.width,), 2.0)

    def hook(module: Any, args: Any, out: Any) -> Any:
        assert watch.columns is not None
        return out + shift * watch.columns.at("question", -1)[:, :, None]

    handle = it.method.backbone.lm.model.layers[0].register_forward_hook(hook)
    by_hook = it.answer(QUESTIONS, watch=watch)
    handle.remove()
    kept = watch.states(by_hook)  # what is kept is what goes on, other hooks' changes included
    assert watch.columns is None

    def edit(layer: int, states: torch.Tensor, columns: Columns) -> torch.Tensor:
        return states + shift * columns.at("question", -1)[:, :, None] if layer == 1 else states

    edited = it.trace(QUESTIONS, edit_layers=edit)
    assert [a.tokens for a in by_hook] == [a.tokens for a in edited.answers]
    torch.testing.assert_close(kept.states_LBTD, edited.states_LBTD)
    torch.testing.assert_close(kept.final_BTD, edited.final_BTD)


def test_watching_leaves_nothing_behind() -> None:
    it = model("coconut")

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in it.method.backbone.lm.modules()]

    before = hooks()
    it.trace(QUESTIONS[:2])
    with pytest.raises(ZeroDivisionError):
        it.trace(QUESTIONS[:2], edit_layers=lambda layer, states, columns: states * (1 // 0))
    with pytest.raises(ConfigError, match="must give states of the shape"):
        it.trace(QUESTIONS[:2], edit_layers=lambda layer, states, columns: states[:, :0])
    assert hooks() == before


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"layers": [7]}, ConfigError, "0 is what enters the first of 2 layers"),
        ({"layers": "all"}, ConfigError, "layers must be True or a list of numbers, got 'all'"),
        ({"layers": [True]}, ConfigError, "must be a whole number"),
        ({"layers": []}, ConfigError, "no states were kept"),
        ({"stop": "confidence:0.9"}, ConfigError, "without a stop rule"),
        ({"latents": -1}, ConfigError, "0 or more"),
    ],
)
def test_what_a_trace_refuses(how: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        model("coconut").trace(QUESTIONS[:2], **how)


def test_no_question_to_trace() -> None:
    with pytest.raises(DataError, match="no question to trace"):
        model("coconut").trace([])


def test_spoken_tokens_count_from_the_front() -> None:
    one = np.array([1])
    columns = Columns(
        rows_B=np.array([0]), positions_BW=np.array([[0, 1, 2, 3, -1]]), starts_B=one, latents_B=one, prompts_B=one * 3,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert columns.at("prompt").tolist() == [[True, True, True, False, False]]
    assert columns.at("latent", -1).tolist() == [[False, True, False, False, False]]
    assert columns.at("spoken", 0).tolist() == [[False, False, False, True, False]]
    with pytest.raises(ConfigError, match="counted from 0"):
        columns.at("spoken", -1)
