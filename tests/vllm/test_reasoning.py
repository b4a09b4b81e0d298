"""The reasoning parser, on tokens: what is thought, and where the answer begins."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from unspoken.exporters.vllm_folder import export_vllm
from unspoken.vllm.reasoning import LatentReasoningParser


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("parser") / "out"
    export_vllm("builtin:tiny-sim-cot", out)
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    return LatentReasoningParser(tokenizer)


def tokens(parser: Any, text: str) -> list[int]:
    return parser.model_tokenizer(text, add_special_tokens=False)["input_ids"]


PROMPT, THOUGHT, END = "How many?\n<|start-latent|>", "<|latent|><|latent|>", "<|end-latent|>"


def test_the_answer_begins_behind_the_last_marker(parser: Any):
    """Asked before structured output begins, with all tokens or with the new ones."""
    assert not parser.is_reasoning_end(tokens(parser, PROMPT))
    assert not parser.is_reasoning_end(tokens(parser, PROMPT + THOUGHT))
    assert parser.is_reasoning_end(tokens(parser, PROMPT + THOUGHT + END))
    assert parser.is_reasoning_end(tokens(parser, PROMPT + END + "### 7"))
    assert parser.is_reasoning_end_streaming([], tokens(parser, END))
    assert not parser.is_reasoning_end_streaming([], tokens(parser, "7"))


def test_latents_are_counted_and_the_rest_is_content(parser: Any):
    ids = tokens(parser, THOUGHT + END + "### 7")
    assert parser.count_reasoning_tokens(ids) == 2
    assert parser.extract_content_ids(ids) == tokens(parser, "### 7")
    assert parser.extract_reasoning(THOUGHT + END + "### 7", None) == (None, "### 7")
    assert parser.extract_reasoning("### 7", None) == (None, "### 7")
    assert parser.extract_reasoning_streaming("", "", "", [], [], [1]) is None
    assert parser.extract_reasoning_streaming("", "", "7", [], [], [1]).content == "7"


def test_a_tokenizer_of_another_model_says_what_to_do():
    from support.backbones import tokenizer

    words: Any = tokenizer()
    with pytest.raises(ValueError, match="export the run again"):
        LatentReasoningParser(words)
