"""Marker tokens: added once, started well, refused in text."""

from __future__ import annotations

import re
from random import Random

import pytest
import torch
from support import backbones

from unspoken.core.lm.markers import BOT, EOT, LATENT, add_markers, add_tokens
from unspoken.core.rows.curriculum import Stage
from unspoken.core.text.example import Example
from unspoken.errors import ConfigError, DataError
from unspoken.methods import make_method


def weights(backbone) -> dict[str, torch.Tensor]:
    """Copies of embedding and head."""
    lm = backbone.lm
    return {
        "in": lm.get_input_embeddings().weight.detach().clone(),
        "out": lm.get_output_embeddings().weight.detach().clone(),
    }


@pytest.mark.parametrize("family", backbones.ARCHS)
def test_markers_start_as_the_row_of_their_word(family: str):
    """The mean, where it is several tokens; rows that were there are untouched."""
    backbone = backbones.backbone(family)
    before, words = weights(backbone), backbone.vocabulary
    markers = add_markers(backbone, "<<")
    after = weights(backbone)
    assert markers.ids == (words, words + 1, words + 2)
    assert backbone.vocabulary == words + 3 == len(backbone.tokenizer)
    source = list(backbone.encode("<<"))
    for side in ("in", "out"):
        assert torch.equal(after[side][:words], before[side])
        for i in markers.ids:
            torch.testing.assert_close(after[side][i], before[side][source].mean(dim=0))
    assert backbone.encode(f"2{BOT}{LATENT}{EOT}") == (*backbone.encode("2"), markers.bot, markers.latent, markers.eot)


def test_tokens_that_are_there_stay_as_they_are():
    backbone = backbones.backbone()
    markers = add_markers(backbone)
    with torch.no_grad():
        backbone.lm.get_input_embeddings().weight[markers.bot] = 5.0
    before = weights(backbone)
    assert add_markers(backbone) == markers
    assert all(torch.equal(value, before[side]) for side, value in weights(backbone).items())


def test_spare_rows_are_used_before_the_table_grows():
    backbone = backbones.backbone()
    backbone.lm.resize_token_embeddings(backbone.vocabulary + 10, mean_resizing=False)
    rows = backbone.vocabulary
    (new,) = add_tokens(backbone, ("<|x|>",), "a")
    assert (backbone.vocabulary, new) == (rows, rows - 10)
    assert torch.equal(backbone.embed(torch.tensor(new)), backbone.embed(torch.tensor(backbone.encode("a")[0])))


def test_an_empty_word_to_start_from():
    with pytest.raises(ConfigError, match=re.escape("new tokens cannot start from the text '': it has no tokens")):
        add_markers(backbones.backbone(), "")


@pytest.mark.parametrize("marker", [BOT, EOT, LATENT])
def test_a_reader_cannot_write_a_marker(marker: str):
    """Neither in a question, nor in a step or answer to train on, whatever the stage has removed."""
    method = make_method("coconut", backbones.backbone())
    message = re.escape(f"test-3 contains the marker {marker!r}, which is reserved for thoughts; remove it")
    with pytest.raises(DataError, match=message):
        method.prompt(f"How {marker} many?", name="test-3")
    for more in ({"question": f"Why{marker}?"}, {"steps": ("fine", f"a {marker}")}, {"answer": marker}):
        example = Example(**{"question": "How many?", "answer": "4", "id": "test-3", **more})
        with pytest.raises(DataError, match=message):
            method.layout(example, Stage(removed=None, groups=1), Random(0))
