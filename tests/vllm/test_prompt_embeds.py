"""Thoughts of another model, as prompt embeddings, in front of a vLLM that serves the base model as it is."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import ARCHS
from support.vllm_engine import engine, load, questions
from support.vllm_runs import FAMILIES, random_backbone, random_run
from vllm import LLM, SamplingParams

from unspoken.exporters.prompt_embeds import PromptEmbedder, export_prompt_embeds

SOFT: dict[str, Any] = {"name": "softcot", "latents": 3, "texts": "plain"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and an assistant, in folders of their own."""
    place = tmp_path_factory.mktemp("soft")
    random_backbone(**FAMILIES["llama"]).save(place / "base")
    random_backbone(**{**ARCHS["gpt2"], "n_embd": 24}).save(place / "assistant")
    return place


@pytest.fixture(scope="module")
def llm(base: Path) -> Iterator[LLM]:
    with engine(base / "base", enable_prompt_embeds=True) as made:
        yield made


@pytest.mark.parametrize("kind", ["softcot", "softcot_pp", "semcot_generator"])
def test_an_unchanged_vllm_says_what_the_run_says(kind: str, base: Path, llm: LLM, tmp_path: Path):
    """The bodies of requests that `unspoken serve --engine` sends, answered token for token; 40 questions each."""
    soft = {**SOFT, "assistant": {"path": str(base / "assistant")}}
    if kind == "semcot_generator":
        soft["name"] = kind
    method = {"name": kind, "softcot": soft, "chains": 2} if kind == "softcot_pp" else soft
    run = random_run(tmp_path / "run", method, base / "base")
    export_prompt_embeds(run, tmp_path / "out")
    embedder, model = PromptEmbedder.load(tmp_path / "out"), load(run)
    assert embedder.model == str(base / "base")
    asked = questions(40)
    bodies = [embedder.request(question, latents=number % 4) for number, question in enumerate(asked)]
    params = [
        SamplingParams(temperature=0, max_tokens=body["max_tokens"], stop_token_ids=body["stop_token_ids"])
        for body in bodies
    ]
    prompts: Any = [{"prompt_embeds": torch.load(io.BytesIO(base64.b64decode(b["prompt_embeds"])))} for b in bodies]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    want = [model.answer([question], latents=number % 4)[0] for number, question in enumerate(asked)]
    said = [tuple(output.outputs[0].token_ids) for output in outputs]
    assert sum(tokens == answer.tokens for tokens, answer in zip(said, want, strict=True)) >= len(asked) - 1
    assert len(set(said)) > 10
