"""Soft thinking inside vLLM: what our engine says, also where requests lose their place; and what is refused.

The folder is an ordinary model, as `unspoken export --format vllm` writes it for a run that writes its steps: nothing but
`--hf-overrides` makes it think softly.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.vllm_engine import engine, load, preempt_often, questions, state_of
from support.vllm_soft import SOFT, compare_softly, exported, ours_softly, theirs_softly, thinks_softly, until, without_end
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams

from unspoken.runs.model import Model
from unspoken.vllm.soft_checks import check_soft_request


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return exported(tmp_path_factory.mktemp("soft"), "llama")


@pytest.fixture(scope="module")
def folder(made: tuple[Path, Path]) -> Path:
    return made[1]


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with engine(folder, hf_overrides=thinks_softly(folder), max_num_batched_tokens=64, block_size=32) as started:
        yield started


@pytest.fixture(scope="module")
def model(made: tuple[Path, Path]) -> Model:
    return load(made[0])


def differ(one: Sequence[object], other: Sequence[object]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt2"])
def test_other_families_think_softly_as_our_engine_has_it(family: str, tmp_path: Path):
    """Comes first, as the next: an engine ends what engines of one process share."""
    run, folder = exported(tmp_path, family)
    asked = questions(32, seed=1)
    hows = list(itertools.islice(itertools.cycle(SOFT), len(asked)))
    with engine(folder, hf_overrides=thinks_softly(folder), max_num_batched_tokens=64) as llm:
        got = compare_softly(load(run), llm, asked, hows, words=20)
        assert differ(got, theirs_softly(llm, asked, [None] * len(asked), words=20)) > 16


def test_an_engine_may_think_softly_by_itself(folder: Path, model: Model):
    usual = "soft,temperature=3,top_k=5,limit=9"
    asked = questions(6, seed=3)
    with engine(folder, hf_overrides=thinks_softly(folder, unspoken_soft=until(usual) or "")) as llm:
        chats: Any = [[{"role": "user", "content": question}] for question in asked]
        outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=40), use_tqdm=False)
        assert len({*(tuple(o.outputs[0].token_ids) for o in outputs)}) > 1
        want = without_end(model, ours_softly(model, asked, [usual] * 6, 40))
        assert without_end(model, [o.outputs[0].token_ids for o in outputs]) == want
        off = llm.chat(chats, SamplingParams(temperature=0, max_tokens=40, extra_args={"soft_thinking": ""}), use_tqdm=False)
        plain = without_end(model, ours_softly(model, asked, [None] * 6, 40))
        assert without_end(model, [o.outputs[0].token_ids for o in off]) == plain


def test_requests_think_softly_as_our_engine_has_it(llm: LLM, model: Model):
    """All settings beside each other in one batch, beside requests that do not think softly."""
    asked = questions(80)
    hows = list(itertools.islice(itertools.cycle(SOFT), len(asked)))
    got = compare_softly(model, llm, asked, hows, words=30)
    assert differ(got, theirs_softly(llm, asked, [None] * len(asked), words=30)) > 40, (
        "mixtures that change nothing prove nothing"
    )


def test_thinking_ends_where_the_mark_is_written(llm: LLM, model: Model):
    """Here a word that the model says in some answers."""
    asked = questions(16, seed=4)
    said = [word for one in theirs_softly(llm, asked, ["soft,limit=30"] * 16, words=30) for word in one[3:20]]
    word = model.method.backbone.decode([max(set(said), key=said.count)]).strip()
    assert word
    hows = [f"soft,temperature=1,until={word}"] * 16
    got = compare_softly(model, llm, asked, hows, words=30)
    assert differ(got, compare_softly(model, llm, asked, ["soft,temperature=1,limit=30"] * 16, words=30)) > 4


def test_requests_may_be_preempted_while_they_think(llm: LLM, model: Model, monkeypatch: pytest.MonkeyPatch):
    """Every fifth step all of them are: what comes back is fed its mixtures again, or they are in the cache of its own."""
    state, asked = state_of(llm), questions(9, seed=2)
    hows = list(itertools.islice(itertools.cycle(SOFT), len(asked)))
    came = state.returned
    preempt_often(llm, monkeypatch)
    compare_softly(model, llm, asked, hows, words=40)
    assert state.returned > came


def test_a_question_asked_softly_leaves_nothing_in_the_cache_for_others(llm: LLM):
    asked = questions(1, seed=5) * 2
    (plain,) = theirs_softly(llm, asked[:1], [None], words=40)
    for how in ("soft,temperature=3,top_k=5,limit=30", None):
        said = theirs_softly(llm, asked[:1], [how], words=40)
        assert (said == [plain]) == (how is None)


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [("soft", {}, "until=TEXT or limit=N"), ("hard", {}, "unknown kind"), ("soft,limit=x", {}, "whole number"),
     (3, {}, "must be a text"), ("soft,limit=4", {"max_tokens": 1, "logprobs": 5}, "beam search")],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(llm: LLM, given: object, more: dict[str, Any], words: str):
    settings: dict[str, Any] = {"max_tokens": 8, **more, "extra_args": {"soft_thinking": given}}
    with pytest.raises((VLLMValidationError, ValueError), match=words):
        llm.generate(["Ann has 7 figs."], SamplingParams(**settings), use_tqdm=False)
    assert llm.generate(["Ann has 7 figs."], SamplingParams(max_tokens=2), use_tqdm=False)  # it goes on


def test_two_limits_and_a_grammar_inside_the_thoughts_are_refused():
    soft = {"soft_thinking": "soft"}
    budget, grammar = SamplingParams(extra_args=soft), SamplingParams(extra_args=soft)
    budget.thinking_token_budget, grammar.structured_outputs = 5, StructuredOutputsParams(regex="a")
    with pytest.raises(VLLMValidationError, match="limit of its own"):
        check_soft_request({}, budget, None, "</think>", True)
    with pytest.raises(VLLMValidationError, match="no grammar allows"):
        check_soft_request({}, grammar, None, "</think>", False)
    inputs: Any = {}
    check_soft_request(inputs, grammar, None, "</think>", True)
    assert inputs["cache_salt"]
    check_soft_request({}, SamplingParams(), None, "", False)


def test_an_engine_that_cannot_is_refused(folder: Path):
    args = EngineArgs(model=str(folder), hf_overrides=thinks_softly(folder, unspoken_soft="soft,top_p=2"))
    with pytest.raises(ValueError, match="top_p of at most 1"):
        args.create_engine_config()
