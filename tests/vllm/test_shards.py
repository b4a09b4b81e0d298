"""Two processes that share a model's matrices think alike; behind a server that wants a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from support.vllm_engine import load, ours, questions, same
from support.vllm_runs import FAMILIES, METHODS, random_run
from support.vllm_server import served
from support.vllm_soft import exported, ours_softly, thinks_softly, until

from unspoken.exporters.vllm_folder import export_vllm
from unspoken.runs.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(random_run(tmp_path_factory.mktemp("shards") / "run", METHODS["codi"], FAMILIES["llama"]))


@pytest.fixture(scope="module")
def url(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("served")
    export_vllm(model.path or "", place / "out")
    around = {"VLLM_API_KEY": "secret", "VLLM_CPU_OMP_THREADS_BIND": "0|1", "TORCHDYNAMO_DISABLE": "1"}
    with served(place / "out", place / "log", "--tensor-parallel-size", "2", **around) as base:
        yield base


def test_two_processes_answer_as_one(url: str, model: Model):
    """40 questions; their prompts as tokens, so that the server's are those of our engine."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0, timeout=600)
    asked, alike = questions(40), []
    for place, latents in enumerate((0, 1, 6, 12)):
        some = asked[place::4]
        rows = [model.method.prompt(question, latents) for question in some]
        extra = {"vllm_xargs": {"latents": latents}, "return_token_ids": True}
        reply = client.completions.create(
            model="model", prompt=[list(row.ids[: row.start]) for row in rows], max_tokens=7 + latents, temperature=0,
            extra_body=extra,
        )  # fmt: skip
        said = [tuple(choice.model_extra["token_ids"][latents + 1 :]) for choice in reply.choices if choice.model_extra]
        alike += [same(w, s) for w, s in zip(ours(model, some, [latents] * len(some), 6), said, strict=True)]
    assert alike.count(False) == 0
    assert alike.count(None) <= 1


def test_two_processes_think_softly_as_one(tmp_path: Path):
    """Each works out mixtures by itself, from parts of the table of embeddings."""
    run, folder = exported(tmp_path, "llama")
    model, asked, how = load(run), questions(16), "soft,temperature=2,top_k=5,limit=9"
    around = {"VLLM_CPU_OMP_THREADS_BIND": "0|1", "TORCHDYNAMO_DISABLE": "1"}
    override = ["--reasoning-parser", "", "--hf-overrides", json.dumps(thinks_softly(folder))]
    with served(folder, tmp_path / "log", "--tensor-parallel-size", "2", *override, **around) as base:
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=600)
        reply = client.completions.create(
            model="model", prompt=[list(row.ids[: row.start]) for row in map(model.method.prompt, asked)], max_tokens=14,
            temperature=0, extra_body={"vllm_xargs": {"soft_thinking": until(how)}, "return_token_ids": True},
        )  # fmt: skip
        said = [tuple(choice.model_extra["token_ids"]) for choice in reply.choices if choice.model_extra]
    want = ours_softly(model, asked, [how] * len(asked), 14)
    alike = [a[: len(b)] == b for a, b in zip(said, want, strict=True)]
    assert alike.count(False) <= 1, list(zip(said, want, strict=True))[:3]


def test_who_has_no_key_gets_no_answer(url: str):
    answer = httpx.post(f"{url}/v1/completions", json={"model": "model", "prompt": "x"}, timeout=60)
    assert answer.status_code == 401
