"""vLLM's own server, with the plugin: what OpenAI's clients see of latents; and what every server of ours is asked."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.vllm_engine import load
from support.vllm_server import served

from unspoken.exporters.vllm_folder import export_vllm
from unspoken.runs.model import Model

RUN = "builtin:tiny-sim-cot"
QUESTION = "Ann has 7 figs. She finds 5. How many figs has Ann?"
ROOT = Path(__file__).resolve().parents[2]
THINKS = 4  # latents of the shipped run


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("served")
    export_vllm(RUN, place / "out")
    with served(place / "out", place / "log", "--enable-request-id-headers") as base:
        yield base


@pytest.fixture(scope="module")
def model() -> Model:
    return load(RUN)


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300)


def chat(client: openai.OpenAI, question: str = QUESTION, **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="model", messages=messages, **{"temperature": 0, **fields})


def test_a_chat_is_answered_as_by_our_engine(client: openai.OpenAI, model: Model):
    asked = [f"Ann has {n} figs. She finds 5. How many figs has Ann?" for n in range(7, 15)]
    for question, want in zip(asked, model.answer(asked), strict=True):
        answer = chat(client, question)
        assert answer.choices[0].message.content == want.text
        assert answer.choices[0].finish_reason == "stop"
        assert getattr(answer.choices[0].message, "reasoning", None) is None


@pytest.mark.parametrize("latents", [0, 2, None, 9])
def test_latents_are_reasoning_tokens(client: openai.OpenAI, latents: int | None):
    extra = {} if latents is None else {"vllm_xargs": {"latents": latents}}
    used = chat(client, extra_body=extra).usage
    assert used.completion_tokens_details.reasoning_tokens == (THINKS if latents is None else latents)
    assert used.completion_tokens > used.completion_tokens_details.reasoning_tokens


def test_a_stream_says_what_the_whole_says(client: openai.OpenAI):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == THINKS


def test_logprobs_of_a_chat_are_also_words_near_the_latents(client: openai.OpenAI):
    """In a latent's slot, the likeliest tokens are what its state would have said."""
    told = chat(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [one.token for one in told[:THINKS]] == ["<|latent|>"] * THINKS
    for one in told[:THINKS]:
        near = [entry for entry in one.top_logprobs if entry.token != one.token]
        assert len(near) >= 2
        assert min(entry.logprob for entry in near) > one.logprob
    assert all(one.top_logprobs[0].token == one.token for one in told[THINKS + 1 :])  # greedy


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"extra_body": {"vllm_xargs": {"latents": -1}}}, "latents must be a whole number"),
     ({"extra_body": {"vllm_xargs": {"latents": 99}}}, "from 0 to 32"),
     ({"extra_body": {"vllm_xargs": {"latents": "many"}}}, "whole number"),
     ({"question": "Ann has <|latent|> figs."}, "reserved for thoughts")],
)  # fmt: skip
def test_a_refusal_is_an_error_400_with_words(client: openai.OpenAI, fields: dict[str, Any], words: str):
    with pytest.raises(openai.BadRequestError, match=words):
        chat(client, **fields)
    assert chat(client).choices[0].message.content


def test_earlier_turns_are_refused(client: openai.OpenAI):
    messages: Any = [{"role": r, "content": "x"} for r in ("user", "assistant", "user")]
    with pytest.raises(openai.BadRequestError, match="takes one question"):
        client.chat.completions.create(model="model", messages=messages)


def test_who_hangs_up_in_a_thought_leaves_the_others_well(client: openai.OpenAI):
    want = chat(client).choices[0].message.content
    for _ in range(8):
        with contextlib.suppress(openai.APITimeoutError):
            chat(client.with_options(timeout=0.3), extra_body={"vllm_xargs": {"latents": 32}})
    for _ in range(4):
        stream = chat(client, stream=True, extra_body={"vllm_xargs": {"latents": 32}})
        next(iter(stream))
        stream.close()
    assert chat(client).choices[0].message.content == want


def test_it_answers_as_clients_of_openai_expect(url: str):
    """The suite that our own server has to pass, but for what vLLM does otherwise whatever model it serves, and what comes
    of latents counting as tokens."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/serving/test_conformance.py"]
    command += [f"--deselect=tests/serving/test_conformance.py::{name}" for name in (*VLLMS_OWN, *OF_LATENTS)]
    around = {**os.environ, "UNSPOKEN_BASE_URL": url}
    done = subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


VLLMS_OWN = (
    *(f"test_prompts_that_are_none[{name}]" for name in ("prompt2", "prompt3", "prompt4", "3", "prompt7", "prompt8")),
    # above: another field is named in the error
    "test_values_that_cannot_be[max_tokens-many]",
    "test_values_that_cannot_be[temperature-hot]",
    "test_values_that_cannot_be[stop-value11]",
    "test_an_unknown_model",  # it has no /v1/models/NAME
    "test_models",
    "test_bodies_that_are_no_request[body6-",  # an error of another form
    "test_bodies_that_are_no_request[body9-",
)
OF_LATENTS = (
    "test_no_logprobs_and_some",  # what is said in a latent's slot is not the likeliest
    "test_the_async_client",  # six tokens are the thoughts, and no answer
)
