"""Answers through the server are those of `Model.answer`, token for token: every method, many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from contract.cases import CASES
from support.servers import events, running, thinker

from unspoken.core.loop.sources import PrecomputedThoughts
from unspoken.errors import ConfigError
from unspoken.exporters.prompt_embeds import PromptEmbedder
from unspoken.runs.model import Model
from unspoken.serving.models import ServedModel
from unspoken.serving.service import Service

METHODS = (
    *("no-cot", "coconut", "coconut pause", "sim_cot", "codi", "icot_si", "pause", "sim_cot pause", "sim_cot codi"),
    *("step_weighted codi", "softcot", "softcot_pp", "semcot_generator", "sim_cot softcot_pp", "mux codi"),
)
QUESTIONS = [f"Ann has {k} pens and buys {k + 1} more. {'She doubles them. ' * (k % 3)}How many pens?" for k in range(6)]


@pytest.fixture(scope="module")
def many():
    """All of them behind one address, few slots each, so that they make room for each other."""
    served = [thinker(name, slots=3) for name in METHODS]
    with running(Service(models=served)) as url:
        yield url, {one.name: one.model for one in served}


def test_all_methods_are_here():
    """Every method of the contract, or one that answers as it does, or that is refused."""
    left = {name.split()[0] for name in CASES} - {"cot", "semcot"} - {name.split()[0] for name in METHODS}
    assert left == {"lotus", "distill"}
    for name in ("lotus", "distill lotus"):
        with pytest.raises(ConfigError, match="parallel passes cannot be served"):
            thinker(name)


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_the_model(many: Any, name: str):
    """Alone, streamed, drawn, with other numbers of latents, from all sets of thoughts, with thoughts: side by side."""
    url, models = many
    name = name.replace(" ", "-")
    model: Model = models[name]
    latents = [None, 0, 3] if model.method.latents_per_group else [None]
    drawn: dict[str, Any] = {"temperature": 1.0, "seed": 4, "chains": model.chains, "samples": 2}
    jobs: list[dict[str, Any]] = [{"latents": n, "temperature": 0} for n in latents] + [drawn, {"stream": True}]

    used: list[int] = []

    def ask(job: dict[str, Any]) -> list[tuple[str, Any]]:
        body = {"model": name, "prompt": QUESTIONS, "max_tokens": 10, **{k: v for k, v in job.items() if v is not None}}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        if not job.get("stream"):
            data = answer.json()
            used.append(data["usage"]["completion_tokens_details"]["reasoning_tokens"])
            return [(choice["text"], choice["thoughts"]) for choice in data["choices"]]
        texts: list[Any] = [["", []] for _ in QUESTIONS]
        for chunk in events(answer.text):
            for choice in chunk["choices"]:
                texts[choice["index"]][0] += choice["text"]
                texts[choice["index"]][1] += choice["thoughts"] or []
        return [(text, thoughts if model.explains else None) for text, thoughts in texts]

    def want(job: dict[str, Any]) -> list[Any]:
        how = {key: value for key, value in job.items() if key != "stream"}
        answers = model.sample(QUESTIONS, explain=model.explains, max_new_tokens=10, **how)
        return [one for several in answers for one in several]

    answers = [want(job) for job in jobs]
    expected = [[(a.text, None if a.thoughts is None else list(a.thoughts)) for a in several] for several in answers]
    with ThreadPoolExecutor(len(jobs)) as pool:
        got = list(pool.map(ask, jobs))
    assert got == expected
    assert sorted(used) == sorted(sum(a.latents for a in several) for several in answers[:-1])
    assert len({text for texts in got for text, _ in texts}) > 1


def test_tokens_too(many: Any):
    """Not only the text: logprobs name the tokens that the model chose, eos left out."""
    url, models = many
    model = models["coconut"]
    body = {"model": "coconut", "prompt": QUESTIONS, "max_tokens": 10, "logprobs": 0}
    choices = httpx.post(f"{url}/v1/completions", json=body, timeout=300).json()["choices"]
    for choice, answer in zip(choices, model.answer(QUESTIONS, max_new_tokens=10), strict=True):
        decode = model.method.backbone.tokenizer.decode
        assert choice["logprobs"]["tokens"] == [decode([t]) for t in answer.tokens[: len(answer.tokens) - answer.finished]]
        assert choice["finish_reason"] == ("stop" if answer.finished else "length")


def test_prompt_embeds_of_a_run_are_refused_where_thoughts_come_later(many: Any):
    url, _ = many
    answer = httpx.post(f"{url}/v1/prompt_embeds", json={"model": "coconut", "prompt": "x"}, timeout=60)
    assert answer.status_code == 400
    assert "come out of the base model itself" in answer.json()["error"]["message"]


def test_a_run_of_soft_thoughts_makes_prompt_embeddings(run: Any, exported: Any):
    """The same as its exported folder, and answers besides."""
    served = ServedModel.load(run, name="soft")
    assert isinstance(served.model.source, PrecomputedThoughts)
    with running(Service(models=[served])) as url:
        body = {"prompt": QUESTIONS[0], "chains": 2}
        want = PromptEmbedder.load(exported).request(QUESTIONS[0], chains=2)
        assert httpx.post(f"{url}/v1/prompt_embeds", json=body, timeout=60).json() == want
        answer = httpx.post(f"{url}/v1/completions", json={**body, "temperature": 0}, timeout=60).json()
    answers = served.model.sample(QUESTIONS[:1], chains=2)[0]
    assert [choice["text"] for choice in answer["choices"]] == [one.text for one in answers]


def test_what_cannot_be_served_is_said_at_the_start():
    model = thinker("coconut").model
    model.parallel = 2
    with pytest.raises(ConfigError, match="parallel passes cannot be served yet"):
        ServedModel(name="x", model=model)
