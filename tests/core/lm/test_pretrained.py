"""What is given in place of a model's folder is told in one line before anything is trained, and no code of its own runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from unspoken.core.auxiliary.sentence_encoder import _sentence_model
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.errors import BackboneError
from unspoken.importers.base import read_base

IDS = torch.arange(1, 7)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model and its tokenizer as an ordinary folder."""
    folder = tmp_path_factory.mktemp("models") / "base"
    load_backbone(BackboneConfig(path="builtin:tiny")).save(folder)
    return folder


def load(path: Path | str, **settings):
    return load_backbone(BackboneConfig(path=str(path), **settings))


def adapter(base: Path, out: Path, *, new: int = 0, tokenizer: bool = True, **settings) -> torch.Tensor:
    """An adapter as peft saves one, its weights drawn by chance; returns the logits of base and adapter."""
    torch.manual_seed(0)
    lm, words = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if new:
        words.add_tokens([f"<new {k}>" for k in range(new)])
        lm.resize_token_embeddings(len(words))
    adapted = get_peft_model(
        lm, LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings})
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(str(out))
    if tokenizer:
        words.save_pretrained(out)
    with torch.no_grad():
        return adapted.eval()(IDS).logits


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, 0),
        ({"tokenizer": False}, 0),
        ({"use_rslora": True, "lora_alpha": 3}, 0),
        ({"use_dora": True}, 0),
        ({"target_modules": ["q_proj", "embed_tokens"]}, 0),  # of a table that is the head as well
        ({"target_modules": ["q_proj", "lm_head"]}, 0),
        ({"new": 3}, 3),
        ({"new": 3, "modules_to_save": ["embed_tokens", "lm_head"]}, 3),
    ],
)
def test_an_adapter_is_merged_into_its_base_and_that_is_said(base, tmp_path, settings, more):
    want = adapter(base, tmp_path / "adapter", **settings)
    with pytest.warns(UserWarning, match="adapter is a PEFT adapter: it was merged into its base"):
        got = load(tmp_path / "adapter")
    plain = load(base)
    assert len(got.tokenizer) == got.vocabulary == plain.vocabulary + more
    assert all(p.requires_grad for p in got.parameters())  # it trains as any model does
    with torch.no_grad():
        logits, before = got.lm(IDS).logits, plain.lm(IDS).logits
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4)
    assert (want[..., : before.shape[-1]] - before).abs().max() > 0.1
    got.save(tmp_path / "whole")  # and it is an ordinary model now
    torch.testing.assert_close(load(tmp_path / "whole").lm(IDS).logits, logits)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_whose_base_is_beside_it_or_nowhere(base, tmp_path):
    adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    shutil.copytree(base, tmp_path / "adapter" / "its-base")
    file.write_text(json.dumps({**config, "base_model_name_or_path": "its-base"}))
    assert load(tmp_path / "adapter").vocabulary
    file.write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(
        BackboneError, match=r"is a PEFT adapter of .*gone, which cannot be loaded \(.*no such folder"
    ) as told:
        load(tmp_path / "adapter")
    assert "merge_and_unload" in str(told.value)
    file.write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "adapter")}))
    with pytest.raises(BackboneError, match="adapters are each other's base"):
        load(tmp_path / "adapter")
    file.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(BackboneError, match="names no base model"):
        load(tmp_path / "adapter")
    shutil.copy(base / "model.safetensors", tmp_path / "adapter")
    with pytest.raises(BackboneError, match="holds both a whole model and a PEFT adapter"):
        load(tmp_path / "adapter")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_cannot_be_merged(base, tmp_path):
    config = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "prompts")
    with pytest.raises(BackboneError, match=r"cannot be merged into .*: it is of a kind that adds virtual tokens"):
        load(tmp_path / "prompts")
    adapter(base, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "adapter_model.safetensors")
    save_file({k: v[..., :5].contiguous() for k, v in weights.items()}, tmp_path / "other" / "adapter_model.safetensors")
    with pytest.raises(BackboneError, match="cannot be merged into"):
        load(tmp_path / "other")
    key = next(key for key in weights if ".layers.0." in key)
    weights[key.replace(".layers.0.", ".layers.9.")] = weights[key].clone()  # of a model with more layers
    save_file(weights, tmp_path / "other" / "adapter_model.safetensors")
    with pytest.raises(BackboneError, match=r"weights for parts that the model does not have, e.g. .*layers\.9\."):
        load(tmp_path / "other")
    (tmp_path / "other" / "adapter_model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"is a PEFT adapter without its weights \(adapter_model.safetensors\)"):
        load(tmp_path / "other")


SMALL = {"vocab_size": 420, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 48}


@pytest.mark.parametrize("kind", ["gemma", "gpt2", "qwen2", "llama"])
def test_a_model_without_a_tokenizer(base, tmp_path, kind):
    """transformers makes one up, of 1 or 5 tokens."""
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL)).save_pretrained(tmp_path / kind)
    with pytest.raises(BackboneError, match=r"no tokenizer lies there \(the model has 420 tokens\).*backbone\.tokenizer"):
        load(tmp_path / kind)
    with pytest.raises(BackboneError, match="no tokenizer lies there"):
        read_base(str(tmp_path / kind))
    with pytest.raises(BackboneError, match=r"has token 471, the model 420 rows of embeddings"):
        load(tmp_path / kind, tokenizer=str(base))
    (tmp_path / kind / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')  # says what is special, and no words
    with pytest.raises(BackboneError, match="no tokenizer lies there"):
        load(tmp_path / kind)


def folders(base: Path, at: Path) -> None:
    """What people give by mistake."""
    for name in ("empty", "gguf", "odd", "state", "prompts"):
        (at / name).mkdir()
    (at / "gguf" / "m.Q4_K.gguf").write_bytes(b"GGUF")
    (at / "odd" / "notes.txt").write_text("x")
    (at / "state" / "state.json").write_text("{}")
    (at / "prompts" / "prompt_embeds.json").write_text("{}")
    shutil.copytree(base, at / "noweights")
    (at / "noweights" / "model.safetensors").unlink()
    (at / "run").mkdir()
    (at / "run" / "run.json").write_text("{}")
    shutil.copytree(base, at / "inf")
    weights = load_file(at / "inf" / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    weights["model.layers.0.mlp.up_proj.weight"][:2, 0] = float("nan")
    save_file(weights, at / "inf" / "model.safetensors", metadata={"format": "pt"})


PLACES = {
    "empty": "is an empty folder",
    "gguf": r"holds a GGUF file \(m\.Q4_K\.gguf\).*gguf_file=g",
    "gguf/m.Q4_K.gguf": r"holds a GGUF file \(m\.Q4_K\.gguf\)",
    "odd": r"is no model's folder: it has no config\.json \(it has notes\.txt\)",
    "state": "is a state to resume from, no model",
    "prompts": r"holds prompt embeddings \(`export --prompt-embeds`\), no model",
    "noweights": "holds no weights",
    "run": "has no model yet: it has not reached a validation",
    "inf": r"inf: model\.layers\.0\.mlp\.up_proj\.weight holds 2 values that are no finite number",
    "odd/notes.txt": "is a file, not a model's folder",
    "gone": "gone: no such folder",
    "gone/a/b": r"no such folder \(nor is there .*gone\)",
    "x" * 300: "File name too long",
}


@pytest.mark.parametrize("name", PLACES)
def test_places_that_hold_no_model(base, tmp_path, name):
    folders(base, tmp_path)
    with pytest.raises(BackboneError, match=PLACES[name]):
        load(tmp_path / name)


def test_paths_are_told_from_hub_ids(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("./gone", "runs/gone", "a/b/c", "../gone", "~/gone-for-good"):
        with pytest.raises(BackboneError, match="no such folder"):
            load(path)
    shutil.copytree(base, tmp_path / "runs" / "there")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/runs/there").vocabulary == load("runs/there").vocabulary


EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import PretrainedConfig, PreTrainedTokenizerFast, LlamaForCausalLM

class Config(PretrainedConfig):
    model_type = "evil"

class Model(LlamaForCausalLM):
    pass

class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


def test_no_code_of_a_model_runs_whoever_says_yes(base, tmp_path, monkeypatch):
    """transformers asks at the terminal, where nothing else is said."""
    mark, names = (
        tmp_path / "ran",
        {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"},
    )
    for name, kind in (("known", "llama"), ("unknown", "evil")):
        folder = tmp_path / name
        shutil.copytree(base, folder)
        (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind, "auto_map": names}))
        words = json.loads((folder / "tokenizer_config.json").read_text())
        words |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}, "tokenizer_class": "Tokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(words))

        class Yes:
            def readline(self, *_):
                return "y\n"

            def read(self, *_):
                return "y\n"

            def fileno(self):
                return 0

            def isatty(self):
                return True

        monkeypatch.setattr(sys, "stdin", Yes())
        monkeypatch.setattr("builtins.input", lambda *_: "y")
        for way in (load, _sentence_model, read_base):
            with contextlib.suppress(BackboneError):  # one of a known kind loads, by transformers' own code
                way(str(folder))
            assert not mark.exists(), way


def test_every_call_says_that_no_code_runs():
    package = Path(__file__).parents[3] / "src" / "unspoken"
    makers = ("AutoTokenizer.from_pretrained", "AutoConfig.from_pretrained", "CausalLM.from_pretrained")
    makers += ("AutoModel.from_pretrained", "AutoModel.from_config", "CausalLM.from_config")
    calls = [maker + opening for maker in makers for opening in "(,"]  # or handed to `partial`
    found = 0
    for file in package.rglob("*.py"):
        if file.name in ("model_card.py", "hf_generate.py"):  # text for the reader of a card; code that runs in transformers
            continue
        text = file.read_text(encoding="utf-8")
        for call in calls:
            for part in text.split(call)[1:]:
                if part.startswith(("a, g", "'", "{")):  # advice in a message
                    continue
                found += 1
                assert "trust_remote_code=False" in part[:250], (file.name, call)
    assert found >= 8


def test_pickled_weights_are_read_without_their_code_and_that_is_said(base, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(base, folder)
    weights = AutoModelForCausalLM.from_pretrained(base).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.warns(UserWarning, match="weights are pickled .*weights_only=True"):
        assert load(folder).vocabulary

    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model.norm.weight": Code()}, folder / "pytorch_model.bin")
    with (
        pytest.warns(UserWarning, match="pickled"),
        pytest.raises(BackboneError, match="would run code, so they are refused"),
    ):
        load(folder)
    assert not (tmp_path / "ran").exists()
