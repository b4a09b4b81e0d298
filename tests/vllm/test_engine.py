"""The shipped SIM-CoT inside vLLM: few blocks, cached prefixes, prompts as vectors, noise, log-probabilities, and what is
refused."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.vllm_engine import answer_of, compare, engine, load, ours, preempt_often, questions, same, state_of
from vllm import LLM, SamplingParams, envs
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError

from unspoken.exporters.vllm_folder import export_vllm
from unspoken.runs.model import Model
from unspoken.vllm.checks import check_request

RUN = "builtin:tiny-sim-cot"
QUESTION = "Ann has 7 figs. She finds 5. How many figs has Ann?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vllm") / "out"
    export_vllm(RUN, out)
    return out


@pytest.fixture(scope="module")
def model() -> Model:
    return load(RUN)


def returns(state: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """For every request that comes back to the worker from now on: tokens said, latents to think in all, tokens behind the
    prompt whose KV was still cached."""
    came: list[tuple[int, int, int]] = []
    before = state.add_request

    def watched(place: int, new: Any) -> None:
        back = new.req_id in state.kept
        before(place, new)
        if back:
            said = len(new.prefill_token_ids) - new.prompt_len
            came.append((said, int(state.count_R[place]), new.num_computed_tokens - new.prompt_len))

    monkeypatch.setattr(state, "add_request", watched)
    return came


def test_requests_that_lose_their_place_go_on(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch):
    """With room for few tokens, vLLM takes the KV of some requests for others'. Comes first: its engine ends what engines of
    one process share."""
    asked = questions(24)
    numbers = list(itertools.islice(itertools.cycle([12, 6, 31, 0]), len(asked)))
    blocks: dict[str, Any] = {"num_gpu_blocks_override": 13, "block_size": 32}
    with engine(folder, max_num_seqs=8, max_num_batched_tokens=32, **blocks) as llm:
        came = returns(state_of(llm), monkeypatch)
        compare(model, llm, asked, numbers, words=24)
    assert came


ASKED = [f"Ann has {7 + n % 12} figs. She finds {2 + n // 12}. How many figs has Ann?" for n in range(200)]
"""Some of the run's own test problems."""


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    settings: dict[str, Any] = {"max_num_batched_tokens": 64, "block_size": 32, "reasoning_parser": "unspoken"}
    with engine(folder, enable_prompt_embeds=True, **settings) as made:
        yield made


def test_every_problem_of_the_task_is_answered_alike(llm: LLM, model: Model):
    compare(model, llm, ASKED, [None] * len(ASKED), words=12)


@pytest.mark.parametrize("stop", [None, "convergence:0.6"])
def test_requests_may_be_preempted_at_any_place(stop: str | None, llm: LLM, model: Model, monkeypatch: pytest.MonkeyPatch):
    """Every fifth step all of them are: before their thoughts, in them, after them; and what comes back is read from the
    cache, latents included. Where a rule has ended thoughts, they stay ended."""
    asked = questions(9, seed=2)
    numbers = list(itertools.islice(itertools.cycle([31, 12]), len(asked)))
    came = returns(state_of(llm), monkeypatch)
    preempt_often(llm, monkeypatch)
    compare(model, llm, asked, numbers, words=12, stop=stop)
    assert [said for said, count, _ in came if 0 < said < count]
    assert [said for said, count, _ in came if said > count]
    if stop is None:  # else too few tokens to fill a block, and to keep others waiting
        assert [said for said, _, _ in came if said == 0]
        assert [cached for _, _, cached in came if cached > 0]


@pytest.mark.parametrize(("stop", "latents"), [("convergence:0.9", None), ("convergence:0.6", 12)])
def test_thoughts_may_end_early(stop: str, latents: int | None, llm: LLM, model: Model):
    """By the rule, and at the latent, at which our engine ends them."""
    asked = ASKED[:24]
    outputs = compare(model, llm, asked, [latents] * len(asked), words=12, stop=stop)
    thought = {list(output.outputs[0].token_ids).count(state_of(llm).slot) for output in outputs}
    assert len(thought) > 1
    assert min(thought) < (latents or state_of(llm).usual)


@pytest.mark.parametrize(
    ("rule", "words"),
    [("confidence:0.9", "takes it back"), ("head:0.5", "no part of the folder"), ("fixed:2", "say latents"),
     ("convergence", "must be"), ("convergence:-1", "must be"), ("convergence:nan", "must be"), ("", "must be"),
     ("other:1", "must be"), (0.5, "must be")],
)  # fmt: skip
def test_rules_that_cannot_be_followed_are_refused(llm: LLM, rule: object, words: str):
    with pytest.raises(VLLMValidationError, match=words):
        one(llm, extra_args={"stop_thinking": rule})


def mask(self: Any, logits: torch.Tensor, batch: Any, ids: list[str], allowed: Any) -> None:
    """What vLLM's kernel does, which Triton's interpreter cannot run: forbid what a grammar does not allow."""
    rows = {request: number for number, request in enumerate(batch.req_ids)}
    for request, bits in zip(ids, torch.from_numpy(allowed), strict=True):
        may = ((bits[:, None] >> torch.arange(32, dtype=torch.int32)) & 1).flatten()[: logits.shape[-1]].bool()
        logits[int(batch.cu_num_logits_np[rows[request]])].masked_fill_(~may, float("-inf"))


def test_structured_output_begins_with_the_answer(llm: LLM, monkeypatch: pytest.MonkeyPatch):
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.worker.gpu.structured_outputs import StructuredOutputsWorker

    monkeypatch.setattr(StructuredOutputsWorker, "apply_grammar_bitmask", mask)
    free, state = one(llm).outputs[0], state_of(llm)
    for latents in (None, 0, 7):
        extra = {} if latents is None else {"latents": latents}
        thoughts = [state.slot] * (state.usual if latents is None else latents) + state.after
        for asked, end in ((StructuredOutputsParams(regex="### [0-9]{3}"), "[0-9]{3}"),
                           (StructuredOutputsParams(choice=["figs", "pens"]), "figs|pens")):  # fmt: skip
            said = one(llm, structured_outputs=asked, extra_args=extra).outputs[0]
            assert list(said.token_ids[: len(thoughts)]) == thoughts
            assert re.fullmatch(f"(### )?({end})", said.text)
            assert said.text != free.text


def test_structured_output_without_our_parser_is_refused(llm: LLM):
    """Its grammar would meet placeholders."""
    from vllm.sampling_params import StructuredOutputsParams

    params = SamplingParams(structured_outputs=StructuredOutputsParams(choice=["7"]))
    latent: Any = llm.llm_engine.model_config.hf_config.unspoken
    with pytest.raises(VLLMValidationError, match="--reasoning-parser unspoken"):
        check_request(latent, {"type": "token", "prompt_token_ids": [1]}, params, apart=False)
    endless: Any = {**latent, "after": []}
    with pytest.raises(VLLMValidationError, match="nothing marks the end"):
        check_request(endless, {"type": "token", "prompt_token_ids": [1]}, params)
    check_request(latent, {"type": "token", "prompt_token_ids": [1]}, params)


def one(llm: LLM, prompt: Any = None, **more: Any) -> Any:
    """The output of one request."""
    params = SamplingParams(**{"temperature": 0, "max_tokens": 20, **more})
    if prompt is None:
        chat: Any = [{"role": "user", "content": QUESTION}]
        return llm.chat(chat, params, use_tqdm=False)[0]
    return llm.generate(prompt, params, use_tqdm=False)[0]


def test_prompts_may_be_vectors(llm: LLM, model: Model):
    """With prompt embeddings turned on both kinds of prompt are answered; ids of vectors are not known, so the marker that
    opens the thoughts is said."""
    asked = questions(24)
    numbers = list(itertools.islice(itertools.cycle([None, 0, 3]), len(asked)))
    compare(model, llm, asked, numbers)
    want, state = ours(model, asked, numbers, 6), state_of(llm)
    backbone = model.method.backbone
    for question, number, said in list(zip(asked, numbers, want, strict=True))[:9]:
        row = model.method.prompt(question, number)
        ids = row.ids[: row.start - len(state.before)]
        embeds = backbone.embed(torch.tensor(ids)).detach()
        count = state.usual if number is None else number
        output = one(
            llm, {"prompt_embeds": embeds}, max_tokens=6 + 2 + count, extra_args={"latents": count}
        )  # fmt: skip
        tokens = list(output.outputs[0].token_ids)
        assert tokens[: 1 + count + 1] == [*state.before, *[state.slot] * count, *state.after]
        assert same(said, tuple(tokens[2 + count :])) is not False


def test_a_prompt_of_tokens_need_not_open_the_thoughts(llm: LLM, model: Model):
    row = model.method.prompt(QUESTION)
    closed = one(llm, {"prompt_token_ids": list(row.ids[: row.start - 1])}).outputs[0]
    opened = one(llm, {"prompt_token_ids": list(row.ids[: row.start])}).outputs[0]
    assert list(closed.token_ids) == [row.ids[row.start - 1], *opened.token_ids]
    assert closed.text == opened.text == model.answer([QUESTION])[0].text


def test_logprobs_are_those_of_what_is_said(llm: LLM):
    """The first of each is the token said; in a latent's slot, the others are the words that its state is nearest to."""
    state = state_of(llm)
    for number in (0, 3):
        output = one(llm, logprobs=3, extra_args={"latents": number}).outputs[0]
        assert len(output.logprobs) == len(output.token_ids)
        for place, (token, told) in enumerate(zip(output.token_ids, output.logprobs, strict=True)):
            assert token in told
            assert told[token].logprob <= max(entry.logprob for entry in told.values()) + 1e-6
            best = min(told.values(), key=lambda entry: entry.rank)
            assert (told[token].rank == 1) == (best.logprob == told[token].logprob)
            if place < number:
                assert token == state.slot
                assert told[token].rank > 1
                assert len(told) == 4
    plain = one(llm, logprobs=3).outputs[0]
    behind = [told[token].logprob for token, told in zip(plain.token_ids, plain.logprobs, strict=True)][state.usual + 1 :]
    assert all(value > -0.5 for value in behind)  # a trained model is sure of its answer


def test_an_answer_may_end_inside_a_thought(llm: LLM):
    output = one(llm, max_tokens=2).outputs[0]
    assert (list(output.token_ids), output.text, output.finish_reason) == ([state_of(llm).slot] * 2, "", "length")


def test_sampled_answers_think_alike(llm: LLM):
    """Several answers share the thoughts; a seed repeats them."""
    drawn = one(llm, n=4, temperature=2.0, seed=5).outputs
    again = one(llm, n=4, temperature=2.0, seed=5).outputs
    assert [list(a.token_ids) for a in drawn] == [list(a.token_ids) for a in again]
    assert len({tuple(a.token_ids) for a in drawn}) > 1
    usual = state_of(llm).usual
    assert {tuple(a.token_ids[:usual]) for a in drawn} == {(state_of(llm).slot,) * usual}


def test_noise_is_drawn_from_a_seed_and_shares_no_cache(llm: LLM):
    """A long question fills blocks, which another request with the same tokens would find."""
    long = " ".join(questions(6, seed=3))
    chat: Any = [{"role": "user", "content": long}]

    def ask(**extra: Any) -> Any:
        params = SamplingParams(temperature=0, max_tokens=40, logprobs=1, extra_args={"latents": 6, **extra})
        return llm.chat(chat, params, use_tqdm=False)[0]

    def sure(output: Any) -> list[float]:
        said = output.outputs[0]
        return [round(told[token].logprob, 4) for token, told in zip(said.token_ids, said.logprobs, strict=True)]

    plain, again = ask(), ask()
    assert again.num_cached_tokens >= 32
    noisy = ask(latent_noise=0.5, latent_noise_seed=1)
    assert noisy.num_cached_tokens == 0
    assert sure(ask(latent_noise=0.5, latent_noise_seed=1)) == sure(noisy)
    assert sure(ask(latent_noise=0.5, latent_noise_seed=2)) != sure(noisy) != sure(plain)
    assert sure(ask(latent_noise=0.0)) == sure(again)
    assert sure(ask()) == sure(again)  # noise left no trace


@pytest.mark.parametrize(
    ("extra", "words"),
    [({"latents": -1}, "from 0 to 32"), ({"latents": 33}, "from 0 to 32"), ({"latents": "6"}, "whole number"),
     ({"latents": 2.5}, "whole number"), ({"latents": True}, "whole number"), ({"latents": float("nan")}, "whole number"),
     ({"latents": [6]}, "whole number"), ({"latent_noise": -0.1}, "from 0 to 10"), ({"latent_noise": "much"}, "a number"),
     ({"latent_noise": float("inf")}, "a number"), ({"latent_noise": 0.1, "latent_noise_seed": 0.5}, "whole number")],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(llm: LLM, extra: dict[str, Any], words: str):
    with pytest.raises(VLLMValidationError, match=words):
        one(llm, extra_args=extra)


@pytest.mark.parametrize("marker", ["<|latent|>", "<|start-latent|>", "<|end-latent|>"])
def test_prompts_that_spell_markers_are_refused(llm: LLM, marker: str):
    with pytest.raises(VLLMValidationError, match="reserved for thoughts"):
        one(llm, f"Ann has {marker} figs.")
    with pytest.raises(Exception, match="reserved for thoughts"):
        llm.chat([{"role": "user", "content": f"Ann has {marker} figs."}], use_tqdm=False)  # pyright: ignore[reportArgumentType]


def test_beam_search_is_refused(llm: LLM):
    from vllm.sampling_params import BeamSearchParams

    with pytest.raises(VLLMValidationError, match="what beam search asks for"):
        llm.beam_search([{"prompt": QUESTION}], BeamSearchParams(beam_width=2, max_tokens=8))


def test_after_all_refusals_it_still_answers(llm: LLM, model: Model):
    said = one(llm).outputs[0]
    state = state_of(llm)
    assert answer_of(one(llm), state.usual, state.slot, state.after) == ours(model, [QUESTION], [None], 12)[0].tokens
    assert said.text == model.answer([QUESTION])[0].text


def test_latents_that_are_lost_are_no_silent_error(llm: LLM):
    """A request that comes back to a worker that no longer has its latents."""
    state = state_of(llm)

    class Request:
        req_id, prompt_len, prompt_token_ids, prefill_token_ids = "lost", 3, [1, 2, 3], [1, 2, 3, 4]
        prompt_embeds = prompt_is_token_ids = None
        mm_features: tuple[()] = ()
        num_computed_tokens = 0
        sampling_params = SamplingParams()

    with torch.inference_mode(), pytest.raises(RuntimeError, match="preempted, have been given up"):
        state.add_request(0, Request())
    state.places.pop("lost", None)


def test_kept_latents_are_bounded(llm: LLM, monkeypatch: pytest.MonkeyPatch):
    state = state_of(llm)
    monkeypatch.setattr(state, "latents_RMD", state.latents_RMD[:, :1, :1])  # their size is not the point
    for number in range(3 * state.max_num_reqs * 16):
        state.places[f"r{number}"] = 0
        state.remove_request(f"r{number}")
    assert len(state.kept) == max(16 * state.max_num_reqs, 256)
    state.kept.clear()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"pipeline_parallel_size": 2}, "pipeline parallelism"),
     ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}}, "speculative"),
     ({"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}}, "a transfer of KV"),
     ({"enable_lora": True}, "adapters"),
     ({"scheduling_policy": "priority"}, "scheduling policy 'priority'")],
)  # fmt: skip
def test_settings_under_which_latents_would_be_wrong(folder: Path, settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        EngineArgs(model=str(folder), dtype="float32", enforce_eager=True, **settings).create_engine_config()


def test_the_first_model_runner_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(envs, "VLLM_USE_V2_MODEL_RUNNER", False, raising=False)  # vLLM reads the environment once
    with pytest.raises(ValueError, match="set VLLM_USE_V2_MODEL_RUNNER=1"):
        EngineArgs(model=str(folder), dtype="float32").create_engine_config()


def test_a_folder_without_the_object_says_what_to_do(folder: Path, tmp_path: Path):
    import json
    import shutil

    shutil.copytree(folder, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    del config["unspoken"]
    (tmp_path / "out/config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="export the run again"):
        EngineArgs(model=str(tmp_path / "out"), dtype="float32").create_engine_config()
