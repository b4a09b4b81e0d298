"""vLLM with the plugin answers as our own engine does, token for token: per method and family, 200 questions each."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from support.vllm_engine import compare, engine, load, ours, questions, state_of
from support.vllm_runs import FAMILIES, METHODS, random_run

from unspoken.exporters.vllm_folder import export_vllm

CASES = [*itertools.product(("coconut", "codi"), FAMILIES), ("sim_cot", "llama")]

NUMBERS = [None, 0, 1, 2, 3, 0, 1, 2, None, 4, 0, 1, 6, 2, 0, 1, 3, 0, 2, 12]
"""Latents of one request after the other. On a CPU a token costs the same whatever the batch: long thoughts are few."""


@pytest.mark.parametrize(("method", "family"), CASES, ids=lambda case: case)
def test_answers_are_those_of_our_engine(method: str, family: str, tmp_path: Path):
    """Each with its own number of latents, from none to twelve; prompts in chunks of at most 64 tokens a step."""
    run = random_run(tmp_path / "run", METHODS[method], FAMILIES[family])
    export_vllm(run, tmp_path / "out")
    model, asked = load(run), questions(200)
    numbers = list(itertools.islice(itertools.cycle(NUMBERS), len(asked)))
    with engine(tmp_path / "out", max_num_batched_tokens=64) as llm:
        outputs = compare(model, llm, asked, numbers, words=3)
        assert type(llm.llm_engine.model_executor.driver_worker.worker.model_runner.model).__name__.startswith("Unspoken")
        assert state_of(llm).returned == 0
    answers = {tuple(output.outputs[0].token_ids[-3:]) for output in outputs}
    assert len(answers) > 20, "a random model that says the same to everybody proves nothing"
    thought, unthought = (ours(model, asked[:20], [number] * 20, 3) for number in (6, 0))
    assert [a.tokens for a in thought] != [a.tokens for a in unthought]
