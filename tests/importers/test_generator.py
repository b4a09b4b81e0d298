"""SemCoT's released layout becomes a run that computes what the released class computes; a wrong model is refused by sizes.

The fake is made by transformers' own classes, in the structure of the released one: a bare model and a linear layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.backbones import tokenizer
from support.fakes.released import causal_lm, write, write_base
from torch import Tensor, nn

import unspoken
from unspoken.core.loop.loop import unroll
from unspoken.core.rows.batch import collate
from unspoken.errors import CheckpointError, ConfigError
from unspoken.importers import import_checkpoint

QUESTION = "Ann has 3 pens and buys 4 more. How many pens?"


class Fake:
    """A generator of a family for a Llama, and the folders of both models."""

    def __init__(self, folder: Path, family: str, width: int = 24) -> None:
        words = tokenizer()
        more = {"n_embd": width} if family == "gpt2" else {"hidden_size": width}
        small = causal_lm(family, 1, len(words) + 1, **more)
        self.module: Any = nn.Module()
        self.module.model = small.base_model
        self.module.projection_layer = nn.Linear(width, 32)
        self.small = write_base(folder / "small", small, words)
        self.frozen = causal_lm("llama", 2, len(words))
        self.base = folder / "base"
        self.frozen.save_pretrained(self.base)
        words.save_pretrained(self.base)

    def state(self) -> dict[str, Tensor]:
        """What the released code saves."""
        return {key: value.detach().clone() for key, value in self.module.state_dict().items()}

    def bring(self, tmp_path: Path, state: dict[str, Tensor] | None = None, form: str = "safetensors", **more: Any) -> Path:
        """Import it."""
        files = write(tmp_path / "files", self.state() if state is None else state, form)
        given = {"assistant": str(self.small), **more}
        return import_checkpoint(files, str(self.base), tmp_path / "run", **given).path


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@torch.no_grad()
def test_an_import_computes_what_the_released_module_computes(tmp_path, family, form):
    fake, words = Fake(tmp_path, family), tokenizer()
    run = fake.bring(tmp_path, form=form)
    ids = words("Question: " + QUESTION)["input_ids"]
    states = fake.module.model(torch.tensor([ids + [len(words)] * 5])).last_hidden_state
    latents = fake.module.projection_layer(states[:, len(ids) - 1 : len(ids) + 4])
    embed = fake.frozen.get_input_embeddings()
    fed = torch.cat([embed(torch.tensor([ids])), latents, embed(torch.tensor([words("\n Answer:")["input_ids"]]))], dim=1)
    want = fake.frozen(inputs_embeds=fed).logits[0, -1]
    model = unspoken.load(run)
    row = model.method.prompt(QUESTION)
    trace = unroll(model.method.backbone, collate([row]), model.method.source())
    last = torch.tensor([len(row.ids) - 1]).numpy()
    torch.testing.assert_close(trace.latents_BKD, latents, rtol=1e-5, atol=1e-6)
    got = model.method.backbone.logits(trace.hidden_at(last * 0, last))[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_what_was_done_is_told_and_kept(tmp_path):
    fake = Fake(tmp_path, "llama")
    run = fake.bring(tmp_path)
    about = json.loads((run / "run.json").read_text())["imported"]
    assert about["family"] == "SemCoT's generator"
    assert sorted(key for keys in about["mapped"].values() for key in keys) == sorted(fake.state())
    assert about["chosen"]["latents"] == {
        "value": 5,
        "source": "not in the file; as trained; the released evaluation thinks 1",
    }
    assert about["assistant"] == str(fake.small)
    method = json.loads((run / "run.json").read_text())["config"]["method"]
    assert method["assistant"]["path"] == str(run / "model" / "assistant")
    assert (run / "model" / "assistant" / "model.safetensors").is_file()


def test_every_missing_key_is_named(tmp_path):
    fake = Fake(tmp_path, "llama")
    for number, key in enumerate(fake.state()):
        state = {k: v for k, v in fake.state().items() if k != key}
        with pytest.raises(CheckpointError, match=rf"1 missing: {key}\b"):
            fake.bring(tmp_path / str(number), state)


def test_unknown_keys_are_named(tmp_path):
    fake = Fake(tmp_path, "llama")
    with pytest.raises(CheckpointError, match=r"2 unknown: model\.layers\.7\.mlp\.up_proj\.weight, step_decoder\.w; "):
        fake.bring(
            tmp_path, {**fake.state(), "model.layers.7.mlp.up_proj.weight": torch.zeros(1), "step_decoder.w": torch.zeros(1)}
        )


def test_a_wrong_base_is_refused_with_the_sizes(tmp_path):
    fake = Fake(tmp_path, "llama")
    files = write(tmp_path / "files", fake.state(), "safetensors")
    other = Fake(tmp_path / "other", "llama", width=40)
    wide = causal_lm("llama", 3, len(tokenizer()), hidden_size=48)
    wide.save_pretrained(tmp_path / "wide")
    tokenizer().save_pretrained(tmp_path / "wide")
    with pytest.raises(
        CheckpointError,
        match=r"for --base .*wide: 2 of another shape: projection_layer\.bias is \[32\], expected \[48\], "
        r"projection_layer\.weight is \[32, 24\], expected \[48, 24\]",
    ):
        import_checkpoint(files, str(tmp_path / "wide"), tmp_path / "run", assistant=str(fake.small))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is \[\d+, 24\], expected \[\d+, 40\]"):
        import_checkpoint(files, str(fake.base), tmp_path / "run", assistant=str(other.small))
    table = "model.embed_tokens.weight"
    with pytest.raises(
        CheckpointError, match=r"embed_tokens\.weight has \d+ rows, expected \d+ \(\d+ of .*1 of <thought>\)"
    ):
        fake.bring(tmp_path / "lost", {**fake.state(), table: fake.state()[table][:-1]})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"assistant": None}, r"is SemCoT's generator: give the frozen model as --base, and the small model .*--assistant"),
        ({"max_stage": 3}, r"max_stage is no setting of SemCoT's generator; its own: assistant, latents"),
        ({"latents": 0}, r"latents must be at least 1"),
    ],
)
def test_options_that_do_not_apply(tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        Fake(tmp_path, "llama").bring(tmp_path, **more)


def test_an_assistant_for_another_family(tmp_path):
    fake = Fake(tmp_path, "llama")
    state = {f"codi.{key}": value for key, value in fake.frozen.state_dict().items()}
    with pytest.raises(ConfigError, match=r"assistant is a setting of SoftCoT and SemCoT, and .* is neither"):
        fake.bring(tmp_path, state)
