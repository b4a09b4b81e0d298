"""Families without the default attention are loaded with eager, and say so; others are told what to set."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.families import causal_lm

from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.errors import ConfigError


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "bloom", "mpt", "gptj"])
def test_a_family_without_sdpa_is_loaded_with_eager(family: str, tmp_path: Path):
    lm, words = causal_lm(family)
    lm.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    arch = {**lm.config.to_diff_dict(), "model_type": family}
    for config in (BackboneConfig(path=str(tmp_path)), BackboneConfig(arch=arch, tokenizer=str(tmp_path))):
        with pytest.warns(UserWarning, match=r"ForCausalLM has no sdpa attention; eager is used"):
            assert load_backbone(config).lm.config._attn_implementation == "eager"


def test_an_attention_that_is_not_to_be_had_is_told(tmp_path: Path):
    lm, words = causal_lm("gptj")
    lm.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"backbone\.attention=flash_attention_2 is not to be had.*sdpa or eager"):
        load_backbone(BackboneConfig(path=str(tmp_path), attention="flash_attention_2"))
