"""Soft thinking through the server: what a model says alone, beside requests of other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.backbones import backbone, tokenizer
from support.servers import events, running, thinker

from unspoken.errors import ConfigError
from unspoken.runs.baseline import load_baseline
from unspoken.serving.models import ServedModel
from unspoken.serving.service import Service

QUESTIONS = [f"Ann has {n} pens and buys {n + 4} more. How many pens?" for n in range(6)]
KINDS = ["soft,limit=4,entropy=0", "switch,window=1", None]


@pytest.fixture(scope="module")
def served() -> ServedModel:
    return thinker("cot", slots=3)


@pytest.fixture(scope="module")
def url(served: ServedModel) -> Iterator[str]:
    with running(Service(models=[served])) as base:
        yield base


def ask(url: str, question: str, soft: str | None, **more: Any) -> httpx.Response:
    body = {"prompt": question, "max_tokens": 12, "temperature": 0, **({} if soft is None else {"soft_thinking": soft})}
    return httpx.post(f"{url}/v1/completions", json={**body, **more}, timeout=60)


def test_requests_of_all_kinds_at_once_are_answered_as_alone(url: str, served: ServedModel):
    jobs = [(question, soft) for question in QUESTIONS for soft in KINDS]
    with ThreadPoolExecutor(6) as pool:
        found = [done.json() for done in pool.map(lambda job: ask(url, *job), jobs)]
    for (question, soft), reply in zip(jobs, found, strict=True):
        (want,) = served.model.answer([question], soft=soft, max_new_tokens=12)
        assert reply["choices"][0]["text"] == want.text
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == want.latents == want.soft
        assert reply["usage"]["completion_tokens"] == len(want.tokens)
        assert reply["usage"]["forward_passes"] == want.passes
    assert any(reply["usage"]["completion_tokens_details"]["reasoning_tokens"] for reply in found)


def test_a_stream_is_the_whole_in_parts(url: str):
    whole = ask(url, QUESTIONS[0], KINDS[0]).json()["choices"][0]["text"]
    parts = events(ask(url, QUESTIONS[0], KINDS[0], stream=True).text)
    assert "".join(part["choices"][0]["text"] for part in parts) == whole


@pytest.mark.parametrize("soft", ["", "sofd", "soft,depth=2", "soft,limit=0", "😀", 3, ["soft"]])
def test_what_is_no_soft_thinking_is_refused_by_its_field(url: str, soft: Any):
    done = ask(url, QUESTIONS[0], soft)
    assert done.status_code == 400
    assert done.json()["error"]["param"] == "soft_thinking"


def test_a_model_with_latents_of_its_own_does_not_think_softly():
    with pytest.raises(ConfigError, match="latents of its own"):
        thinker("coconut", soft="soft")


def test_the_server_may_say_how_to_think(served: ServedModel):
    softly = ServedModel(name="softly", model=served.model, soft=KINDS[0])
    (want,) = served.model.answer([QUESTIONS[1]], soft=KINDS[0], max_new_tokens=12)
    with running(Service(models=[softly])) as url:
        assert ask(url, QUESTIONS[1], None).json()["choices"][0]["text"] == want.text
        (plain,) = served.model.answer([QUESTIONS[1]], max_new_tokens=12)
        assert ask(url, QUESTIONS[1], "chain").json()["choices"][0]["text"] == plain.text


def test_a_plain_model_is_served_with_the_question_as_it_stands(tmp_path: Path):
    base = backbone("llama")
    words = tokenizer()
    words.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
    base.lm.save_pretrained(tmp_path / "plain")
    words.save_pretrained(tmp_path / "plain")
    (want,) = load_baseline(str(tmp_path / "plain"), texts="plain").answer([QUESTIONS[2]], soft=KINDS[0], max_new_tokens=12)
    with running(Service(models=[ServedModel.load(tmp_path / "plain", soft=KINDS[0])])) as url:
        body = {"messages": [{"role": "user", "content": QUESTIONS[2]}], "max_tokens": 12, "temperature": 0}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    assert reply["choices"][0]["message"]["content"] == want.text
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == want.soft == 4
    with pytest.raises(ConfigError, match="is a run, asked as it was trained"):
        ServedModel.load("builtin:tiny", thinking=True)
