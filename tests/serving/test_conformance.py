"""What clients of OpenAI's API expect, asked over HTTP only: of a server of ours, or of any other.

    UNSPOKEN_BASE_URL=http://localhost:8000 pytest tests/serving/test_conformance.py

Another server's model is the first that it lists; what is only ours is then left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from support.servers import events

QUESTION = "Ann has 7 figs. She finds 5. How many figs has Ann?"
OTHER = os.environ.get("UNSPOKEN_BASE_URL", "").rstrip("/")
only_ours = pytest.mark.skipif(bool(OTHER), reason="UNSPOKEN_BASE_URL is another server")


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> str:
    return OTHER or request.getfixturevalue("ours")


@pytest.fixture(scope="module")
def model(url: str) -> str:
    """The one without latents, of ours: its answers are right."""
    return httpx.get(f"{url}/v1/models", timeout=60).json()["data"][-1]["id"]


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def complete(client: openai.OpenAI, model: str):
    """complete(**fields) -> a greedy completion."""

    def ask(prompt: Any = QUESTION, **fields: Any) -> Any:
        return client.completions.create(model=model, prompt=prompt, **{"max_tokens": 12, "temperature": 0, **fields})

    return ask


@pytest.fixture
def chat(client: openai.OpenAI, model: str):
    """chat(**fields) -> a greedy chat completion."""

    def ask(content: Any = QUESTION, **fields: Any) -> Any:
        fields = {"max_completion_tokens": 12, "temperature": 0, **fields}
        messages: Any = [{"role": "user", "content": content}]
        return client.chat.completions.create(model=model, messages=messages, **fields)

    return ask


def refused(call: Any, kind: type[openai.APIStatusError] = openai.BadRequestError, **fields: Any) -> dict[str, Any]:
    """The error object of a call that is refused."""
    with pytest.raises(kind) as caught:
        call(**fields)
    body = caught.value.response.json()
    error = body["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in caught.value.response.text
    return error


# completions


def test_a_single_completion(complete: Any, model: str):
    answer = complete()
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model, len(answer.choices)) == ("text_completion", model, 1)
    (choice,) = answer.choices
    assert choice.index == 0
    assert choice.text
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is None
    usage = answer.usage
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_same_question_has_the_same_answer_alone_and_among_others(complete: Any):
    alone = complete().choices[0].text
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda i: complete(QUESTION if i % 2 else f"Bob has {i} pens.").choices[0].text, range(16)))
    assert set(texts[1::2]) == {alone}


def test_a_batch_of_prompts(complete: Any):
    prompts = [QUESTION, "Bob has 9 pens and loses 2.", "A box holds 6 pens."]
    answer = complete(prompts)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.text for choice in answer.choices] == [complete(prompt).choices[0].text for prompt in prompts]
    assert answer.usage.prompt_tokens == sum(complete(prompt).usage.prompt_tokens for prompt in prompts)


def test_prompts_as_token_ids(complete: Any):
    """One, and several; ids of a byte-level vocabulary, which every model here has."""
    one, several = complete([20, 21, 22]), complete([[20, 21, 22], [23, 24]])
    assert len(one.choices) == 1
    assert len(several.choices) == 2
    assert one.choices[0].text == several.choices[0].text


@pytest.mark.parametrize("prompt", [[], [[]], [1, "a"], [-1], {"a": 1}, 3, [[10**9]], [True], [None]])
def test_prompts_that_are_none(complete: Any, prompt: Any):
    assert refused(complete, prompt=prompt)["param"] in ("prompt", None)


def test_several_answers_are_drawn_apart_and_again_with_their_seed(complete: Any):
    fields: dict[str, Any] = {"n": 4, "temperature": 2.0, "seed": 7, "prompt": [QUESTION, "Bob has 9 pens."]}
    answer = complete(**fields)
    assert [choice.index for choice in answer.choices] == list(range(8))
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts)) > 2
    assert [choice.text for choice in complete(**fields).choices] == texts
    assert [choice.text for choice in complete(**{**fields, "seed": 8}).choices] != texts


def test_without_a_seed_every_call_draws_anew(complete: Any):
    """Behind a word out of place even a model that is sure of its answers is not."""
    texts = {complete("figs Ann 5", temperature=2.0, max_tokens=16).choices[0].text for _ in range(6)}
    assert len(texts) > 1


def test_no_logprobs_and_some(complete: Any):
    assert complete().choices[0].logprobs is None
    for top in (0, 1, 5):
        answer = complete(logprobs=top).choices[0]
        told = answer.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset)
        assert len(told.tokens) >= 1
        assert all(value <= 0 for value in told.token_logprobs)
        assert "".join(told.tokens) == answer.text
        assert told.text_offset[0] == 0
        assert told.text_offset == sorted(told.text_offset)
        for token, value, likely in zip(told.tokens, told.token_logprobs, told.top_logprobs or [], strict=False):
            if top:
                assert top <= len(likely) <= top + 1
                assert likely[token] == pytest.approx(value)
                assert value == pytest.approx(max(likely.values()))  # greedy


def test_too_many_logprobs(complete: Any, chat: Any):
    refused(complete, logprobs=21)
    refused(complete, logprobs=-1)
    refused(chat, logprobs=True, top_logprobs=21)
    refused(chat, top_logprobs=2)


@pytest.mark.parametrize("prompt", [QUESTION, [QUESTION, "Bob has 9 pens."]])
def test_a_stream_says_what_the_whole_says(complete: Any, prompt: Any):
    whole = complete(prompt, logprobs=1)
    texts = [""] * len(whole.choices)
    reasons: list[list[str]] = [[] for _ in whole.choices]
    told: list[list[str]] = [[] for _ in whole.choices]
    chunks = list(complete(prompt, stream=True, logprobs=1))
    for chunk in chunks:
        assert chunk.id == chunks[0].id
        assert chunk.object == "text_completion"
        for choice in chunk.choices:
            assert not reasons[choice.index], "nothing comes after the end"
            texts[choice.index] += choice.text
            if choice.finish_reason is not None:
                reasons[choice.index].append(choice.finish_reason)
            if choice.logprobs:
                told[choice.index] += choice.logprobs.tokens
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [[choice.finish_reason] for choice in whole.choices]
    assert told == [choice.logprobs.tokens for choice in whole.choices]
    assert all(chunk.usage is None for chunk in chunks)


def test_streams_of_several_drawn_answers(complete: Any):
    fields: dict[str, Any] = {"n": 3, "temperature": 2.0, "seed": 3}
    texts = ["", "", ""]
    for chunk in complete(stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in complete(**fields).choices]


def test_the_usage_chunk(complete: Any):
    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage == complete().usage
    chunks = list(complete(stream=True, stream_options={"include_usage": False}))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    refused(complete, stream=False, stream_options={"include_usage": True})


def test_the_bytes_of_a_stream(url: str, model: str):
    body = {"model": model, "prompt": QUESTION, "max_tokens": 4, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    for line in text.split("\n\n")[:-1]:
        assert line.startswith("data: ")
    assert text.endswith("data: [DONE]\n\n")
    assert sum(1 for chunk in events(text) if chunk["choices"][0]["finish_reason"]) == 1


def test_the_length_ends_an_answer(complete: Any):
    answer = complete(max_tokens=1)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_stop_texts_across_token_borders(complete: Any, streaming: bool):
    """Every two characters of the answer as a stop text: it ends before the first place where they stand."""
    whole = complete(max_tokens=10).choices[0].text
    assert len(whole) > 4
    for at in range(len(whole) - 1):
        stop = whole[at : at + 2]
        if streaming:
            parts = [c for chunk in complete(max_tokens=10, stop=["%%%", stop], stream=True) for c in chunk.choices]
            text, reason = "".join(c.text for c in parts), parts[-1].finish_reason
        else:
            choice = complete(max_tokens=10, stop=["%%%", stop]).choices[0]
            text, reason = choice.text, choice.finish_reason
        assert (text, reason) == (whole[: whole.index(stop)], "stop"), stop


def test_a_stop_text_that_never_comes_changes_nothing(complete: Any):
    assert complete(stop="never this").choices[0].text == complete().choices[0].text


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 10**7), ("max_tokens", "many"), ("temperature", -1),
     ("temperature", "hot"), ("top_p", 0), ("top_p", 1.5), ("n", 0), ("n", -2), ("stop", [""]), ("stop", {"a": 1}),
     ("stream_options", {"include_usage": True}), ("logprobs", "yes")],
)  # fmt: skip
def test_values_that_cannot_be(complete: Any, field: str, value: Any):
    error = refused(complete, **{field: value})
    assert error["param"] in (field, None)
    assert field in error["message"] or error["param"] == field


def test_an_unknown_model(client: openai.OpenAI):
    for call in (
        lambda: client.completions.create(model="nope", prompt="x"),
        lambda: client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}]),
        lambda: client.models.retrieve("nope"),
    ):
        error = refused(call, openai.NotFoundError)
        assert "nope" in error["message"]


def test_models(client: openai.OpenAI, model: str):
    listed = client.models.list().data
    assert model in [one.id for one in listed]
    assert client.models.retrieve(model).id == model


@pytest.mark.parametrize("place", ["completions", "chat/completions"])
@pytest.mark.parametrize(
    "body", [b"{", b"", b"[]", b"null", b'"text"', b"{}", b"[" * 1000, b'{"a":NaN}', b"\xff\xfe", b"9" * 5000]
)
def test_bodies_that_are_no_request(url: str, place: str, body: bytes):
    answer = httpx.post(f"{url}/v1/{place}", content=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_a_wrong_content_type(url: str, model: str, kind: str | None):
    headers = {} if kind is None else {"Content-Type": kind}
    body = json.dumps({"model": model, "prompt": "x"}).encode()
    answer = httpx.post(f"{url}/v1/completions", content=body, headers=headers, timeout=60)
    assert answer.status_code in (400, 415)
    assert "error" in answer.json()


def test_a_body_that_is_too_large(url: str, model: str):
    body = {"model": model, "prompt": "x" * (2 << 20)}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert answer.status_code in (400, 413)
    assert "error" in answer.json()


def test_methods_and_places_that_are_none(url: str):
    assert httpx.get(f"{url}/v1/completions", timeout=60).status_code == 405
    assert httpx.get(f"{url}/nowhere", timeout=60).status_code == 404
    assert httpx.put(f"{url}/v1/models", json={}, timeout=60).status_code == 405


def test_letters_spread_over_several_tokens(complete: Any):
    """What is asked and what is said may hold any letter; a stream never shows half of one."""
    question = "Žofie má 3 🐎 a 漢字 7. How many?"
    fields: dict[str, Any] = {"temperature": 2.0, "seed": 5, "max_tokens": 40, "n": 4}
    whole = [choice.text for choice in complete(question, **fields).choices]
    texts = ["", "", "", ""]
    for chunk in complete(question, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            assert choice.finish_reason or not choice.text.endswith("\ufffd")
    assert texts == whole


def test_a_request_id_comes_back(url: str):
    number = uuid.uuid4().hex
    answer = httpx.get(f"{url}/v1/models", headers={"X-Request-Id": number}, timeout=60)
    assert answer.headers["x-request-id"] == number
    assert httpx.get(f"{url}/v1/models", timeout=60).headers["x-request-id"]


# chat completions


def test_a_chat(chat: Any, complete: Any, model: str):
    answer = chat()
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", model)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_content_in_parts(chat: Any):
    parts = [{"type": "text", "text": QUESTION}]
    assert chat(parts).choices[0].message.content == chat().choices[0].message.content


def test_a_chat_stream(chat: Any):
    whole = chat(logprobs=True, top_logprobs=2).choices[0]
    chunks = list(chat(stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2))
    first = chunks[0].choices[0].delta
    assert (first.role, first.content) == ("assistant", "")
    parts = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(part.delta.content or "" for part in parts) == whole.message.content
    assert [part.finish_reason for part in parts if part.finish_reason] == [whole.finish_reason]
    assert parts[-1].finish_reason
    told = [one for part in parts if part.logprobs for one in part.logprobs.content]
    assert [one.token for one in told] == [one.token for one in whole.logprobs.content]
    assert all(len(one.top_logprobs) == 2 for one in told)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == chat().usage


@pytest.mark.parametrize(
    "messages",
    [[], None, "x", [1], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": None}],
     [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}], [{"role": 3, "content": "x"}]],
)  # fmt: skip
def test_messages_that_are_none(url: str, model: str, messages: Any):
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": model, "messages": messages}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_the_async_client(url: str, model: str):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
            calls = [
                client.completions.create(model=model, prompt=f"Ann has {i} figs.", max_tokens=6, temperature=0)
                for i in range(6)
            ]
            texts = [answer.choices[0].text for answer in await asyncio.gather(*calls)]
            stream = await client.completions.create(
                model=model, prompt="Ann has 3 figs.", max_tokens=6, temperature=0, stream=True
            )
            return [*texts, "".join([chunk.choices[0].text async for chunk in stream])]

    texts = asyncio.run(ask())
    assert texts[-1] == texts[3]
    assert all(texts)


def test_a_stream_that_is_closed_early_leaves_the_server_well(complete: Any):
    for _ in range(5):
        stream = complete(stream=True, max_tokens=200)
        next(iter(stream))
        stream.close()
    assert complete().choices[0].text


# what is only ours


@pytest.fixture(scope="module")
def thinker_name(url: str) -> str:
    return httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"]


@only_ours
def test_thoughts_are_reasoning_and_latents_are_counted(client: openai.OpenAI, thinker_name: str):
    fields: dict[str, Any] = {"model": thinker_name, "max_completion_tokens": 5, "temperature": 0}
    fields["messages"] = [{"role": "user", "content": QUESTION}]
    whole = client.chat.completions.create(**fields)
    card: Any = client.models.retrieve(thinker_name)
    message: Any = whole.choices[0].message
    assert message.reasoning == message.reasoning_content
    assert len(message.reasoning.split("\n")) >= 2
    usage: Any = whole.usage
    assert usage.completion_tokens_details.reasoning_tokens == card.latents > 0
    assert usage.forward_passes >= card.latents
    streamed: Any = list(client.chat.completions.create(**fields, stream=True))
    deltas = [chunk.choices[0].delta for chunk in streamed]
    kinds = ["thought" if getattr(d, "reasoning", None) else "text" if d.content else "" for d in deltas]
    assert "".join(d.reasoning for d in deltas if getattr(d, "reasoning", None)) == message.reasoning
    assert kinds.count("thought") > 1, "one by one"
    assert kinds == sorted(kinds, key=["", "thought", "text"].index) or kinds[-1] == "", kinds
    quiet: Any = client.chat.completions.create(**fields, extra_body={"show_thoughts": False})
    assert quiet.choices[0].message.reasoning is None
    assert quiet.choices[0].message.content == message.content


@only_ours
def test_thoughts_of_completions(client: openai.OpenAI, thinker_name: str, complete: Any):
    fields: dict[str, Any] = {
        "model": thinker_name,
        "prompt": [QUESTION, "Bob has 9 figs."],
        "max_tokens": 5,
        "temperature": 0,
    }
    whole: Any = client.completions.create(**fields)
    thoughts: list[list[str]] = [[], []]
    for chunk in client.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            more: Any = choice
            if more.thoughts:
                assert not more.finish_reason
                thoughts[choice.index] += more.thoughts
    assert thoughts == [choice.thoughts for choice in whole.choices]
    assert all(thoughts)
    assert complete().choices[0].thoughts is None


@only_ours
@pytest.mark.parametrize("extra", [{"latents": 2}, {"vllm_xargs": {"latents": 2}}])
def test_latents_may_be_asked_for(client: openai.OpenAI, thinker_name: str, extra: dict[str, Any]):
    answer: Any = client.completions.create(
        model=thinker_name, prompt=QUESTION, max_tokens=3, temperature=0, extra_body=extra
    )
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2


@only_ours
def test_effort_is_a_share_of_the_latents(client: openai.OpenAI, thinker_name: str):
    card: Any = client.models.retrieve(thinker_name)

    def thought(effort: Any) -> int:
        answer: Any = client.chat.completions.create(
            model=thinker_name, messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=2,
            reasoning_effort=effort,
        )  # fmt: skip
        return answer.usage.completion_tokens_details.reasoning_tokens

    counts = [thought(effort) for effort in ("none", "low", "medium", "high")]
    assert counts[0] == 0
    assert counts[-1] == card.latents
    assert counts == sorted(counts)
    assert len(set(counts)) == 4


@only_ours
def test_a_stop_rule(client: openai.OpenAI, thinker_name: str):
    answer: Any = client.completions.create(
        model=thinker_name, prompt=QUESTION, max_tokens=3, extra_body={"stop_thinking": "fixed:2"}
    )
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2
    for rule in ("fixed", "never:1", "os:system:1", "unspoken.errors:ConfigError:1", "fixed:x", "head:0.5"):
        error = refused(
            lambda rule=rule: client.completions.create(
                model=thinker_name, prompt=QUESTION, extra_body={"stop_thinking": rule}
            )
        )
        assert error["param"] == "stop_thinking"


@only_ours
def test_single_questions_only(chat: Any, client: openai.OpenAI, model: str):
    for messages in (
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}],
        [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}],
    ):
        error = refused(lambda m=messages: client.chat.completions.create(model=model, messages=m))
        assert (error["param"], error["code"]) == ("messages", "single_turn")
        assert "single question" in error["message"]


@only_ours
@pytest.mark.parametrize(
    ("field", "value"),
    [("tools", [{"type": "function", "function": {"name": "f"}}]), ("response_format", {"type": "json_object"}),
     ("presence_penalty", 0.5), ("logit_bias", {"3": 1})],
)  # fmt: skip
def test_what_is_not_offered_says_so(chat: Any, field: str, value: Any):
    error = refused(chat, **{field: value})
    assert (error["param"], error["code"]) == (field, "unsupported")


@only_ours
def test_what_changes_nothing_is_taken(chat: Any):
    neutral: dict[str, Any] = {
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "me", "metadata": {"a": "b"},
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "store": False, "n": 1,
    }  # fmt: skip
    assert chat(**neutral).choices[0].message.content == chat().choices[0].message.content
    assert refused(chat, extra_body={"latent": 3})["param"] == "latent"


@only_ours
def test_about_the_server(url: str):
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
    assert httpx.get(f"{url}/ready").status_code == 200
    assert httpx.get(f"{url}/version").json()["version"]
    text = httpx.get(f"{url}/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "prompt_tokens_total", "generation_tokens_total",
                 "latents_total", "request_success_total", "time_to_first_token_seconds_bucket",
                 "inter_token_latency_seconds_bucket", "e2e_request_latency_seconds_bucket",
                 "request_queue_time_seconds_bucket", "thinking_seconds_bucket", "slots_usage"):  # fmt: skip
        assert f"unspoken:{name}{{" in text
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/prompt_embeds", "/health", "/ready"} <= set(paths)


@only_ours
def test_what_was_used_is_counted(url: str, complete: Any, model: str):
    def counted() -> dict[str, float]:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if f'"{model}"' in line}

    before = counted()
    used = complete(max_tokens=4, n=1).usage
    after = counted()
    label = f'{{model_name="{model}"}}'
    assert (
        after[f"unspoken:prompt_tokens_total{label}"] - before[f"unspoken:prompt_tokens_total{label}"] == used.prompt_tokens
    )
    name = f"unspoken:generation_tokens_total{label}"
    assert after[name] - before[name] == used.completion_tokens
    name = f"unspoken:time_to_first_token_seconds_count{label}"
    assert after[name] - before.get(name, 0) == 1
    assert after[f"unspoken:num_requests_running{label}"] == 0
