"""The typed accessors give the model's own tables."""

from __future__ import annotations

import pytest
from support.backbones import backbone

from unspoken.core.embeddings import input_table, output_head, text_config


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tables_are_the_models_own(family: str) -> None:
    lm = backbone(family).lm
    assert input_table(lm) is lm.get_input_embeddings()
    assert output_head(lm) is lm.get_output_embeddings()
    assert len(input_table(lm).weight) == text_config(lm).vocab_size
