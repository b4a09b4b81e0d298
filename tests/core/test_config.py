"""Configs: built from plain data, dumped to it, and errors that name the field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from unspoken.core.config import build, dump, lookup, override
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.loop.sampling import SamplingParams
from unspoken.core.text.template import Template
from unspoken.errors import ConfigError, UnspokenError, did_you_mean
from unspoken.methods import METHODS, make_method, method_config
from unspoken.methods.coconut import CoconutConfig
from unspoken.runs.config import TrainConfig


def test_a_config_and_its_plain_form():
    config = CoconutConfig(latents_per_step=3, template=Template(step="{step};"))
    plain = json.loads(json.dumps(dump(config)))
    assert plain["template"]["step"] == "{step};"
    assert build(CoconutConfig, plain) == config
    assert build(CoconutConfig, config) is config
    backbone = BackboneConfig(path="x", lora=LoraSettings(targets=("q", "v")))
    assert build(BackboneConfig, json.loads(json.dumps(dump(backbone)))) == backbone


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"latents_per_stp": 2}, "unknown field 'latents_per_stp' of CoconutConfig; did you mean 'latents_per_step'"),
        ({"max_stage": "many"}, "field 'max_stage' of CoconutConfig: input should be a valid integer"),
        ({"max_stage": "many"}, 'got "many"'),
        ({"curriculum": "slow"}, "field 'curriculum' of CoconutConfig: input should be 'staged', 'progressive' or 'none'"),
        ({"template": {"stp": "{step}"}}, "unknown field 'template.stp' of CoconutConfig"),
        ({"template": {"step": "no place"}}, "template field 'step' must contain {step}, got 'no place'"),
        ({"latents_per_step": 0}, "latents_per_step must be at least 1, got 0; for none use 'cot'"),
        ({"max_stage": 0}, "max_stage must be at least 1, got 0"),
        ({"first_stage": 5}, "first_stage must be in 0..max_stage + 1 = 4, got 5"),
        ({"mixing_probability": 1.5}, "mixing_probability must be in [0, 1], got 1.5"),
        ({"epochs_per_stage": 0}, "epochs_per_stage must be positive, got 0"),
    ],
)
def test_a_wrong_field_is_named(data: dict, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(CoconutConfig, data)


def test_a_field_of_several_kinds_is_called_by_its_name():
    with pytest.raises(ConfigError) as caught:
        build(TrainConfig, {"steps": 1, "keep_every": "stage"})
    told = [part.partition(":")[0] for part in str(caught.value).split("; ")]
    assert told == ["field 'keep_every' of TrainConfig"] * 2


def test_true_is_no_number_in_a_list():
    assert build(TrainConfig, {"steps": 1, "betas": [0.5, 1e-3]}).betas == (0.5, 1e-3)
    with pytest.raises(ConfigError, match="'betas' of TrainConfig must not be true or false, got true"):
        build(TrainConfig, {"steps": 1, "betas": [0.5, True]})


def test_several_faults_are_told_at_once():
    with pytest.raises(ConfigError, match=r"r\.json: .*'max_stage'.*; .*'first_stage'"):
        build(CoconutConfig, {"max_stage": "a", "first_stage": "b"}, "r.json: ")


def test_the_file_is_named_whatever_the_fault():
    with pytest.raises(ConfigError, match=re.escape("run.json: max_stage must be at least 1, got 0")):
        build(CoconutConfig, {"max_stage": 0}, "run.json: ")


def test_not_a_mapping():
    with pytest.raises(ConfigError, match=re.escape("CoconutConfig needs a mapping of fields, got list ([1])")):
        build(CoconutConfig, [1])


def test_a_missing_field():
    with pytest.raises(ConfigError, match="field 'inner' of SimCotConfig is missing"):
        method_config({"name": "sim_cot"})


def test_methods_by_name():
    assert method_config("coconut") == method_config({"name": "coconut"}) == CoconutConfig()
    with pytest.raises(ConfigError, match=re.escape("unknown method 'coconot'; did you mean 'coconut' or ")):
        method_config("coconot")
    with pytest.raises(ConfigError, match="a method is a mapping with a 'name', got 3; known: "):
        method_config(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="unknown method 'x'"):
        lookup(METHODS, "x", "method")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "sim_cot", "inner": "coconutt"}, "unknown method 'coconutt'; did you mean 'coconut'"),
        ({"name": "sim_cot", "inner": "coconut", "weight": -1}, "weight must be 0 or more, got -1"),
        ({"name": "sim_cot", "inner": "coconut", "decoder": {"kind": "model"}}, "of kind 'model' needs 'path'"),
        ({"name": "sim_cot", "inner": "coconut", "decoder": {"layers": 0}}, "needs at least 1 layer, got 0"),
    ],
)
def test_a_wrapped_method_is_checked_too(data: dict, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        method_config(data)


def test_a_method_without_thoughts_cannot_be_wrapped():
    from support import backbones

    with pytest.raises(ConfigError, match="sim_cot needs a method with thoughts inside; 'cot' has none"):
        make_method({"name": "sim_cot", "inner": "cot"}, backbones.backbone())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "needs exactly one of 'path' (pretrained weights) and 'arch' (random weights)"),
        ({"path": "x", "arch": {}}, "needs exactly one of 'path'"),
        ({"arch": {"model_type": "llama"}}, "a backbone with 'arch' needs 'tokenizer'"),
    ],
)
def test_a_backbone_comes_from_one_place(data: dict, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(BackboneConfig, data)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_new_tokens", 0, "max_new_tokens must be at least 1, got 0"),
        ("temperature", -1, "temperature must be 0 (greedy) or more, got -1"),
        ("top_p", 0, "top_p must be in (0, 1], got 0"),
        ("top_k", -1, "top_k must be 0 (all) or more, got -1"),
        ("seed", -1, "seed must be 0 or more, got -1"),
    ],
)
def test_speaking_is_checked(field: str, value: Any, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SamplingParams(**{field: value})


def test_overrides():
    data = {"a": {"b": 1, "c": "x"}, "d": None}
    assert override(data, ["a.b=2.5", "a.c=hello", "d=[1, 2]"]) == {"a": {"b": 2.5, "c": "hello"}, "d": [1, 2]}
    assert data["a"]["b"] == 1
    assert override(data, ["d=a=b"])["d"] == "a=b"
    assert override(data, ["a.c=true", "d=null"]) == {"a": {"b": 1, "c": True}, "d": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b", "override 'a.b' needs the form field.subfield=value"),
        ("a.bb=1", "override 'a.bb=1': no field 'bb' in a; did you mean 'b'? known: b, c"),
        ("e=1", "override 'e=1': no field 'e' in the run config; "),
        ("d.x=1", "override 'd.x=1': d is not set; give it as a whole"),
    ],
)
def test_an_override_that_fits_nothing(text: str, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        override({"a": {"b": 1, "c": "x"}, "d": None}, [text])


def test_did_you_mean():
    assert did_you_mean("trian", ["train", "eval"]) == "did you mean 'train'? known: eval, train"
    assert did_you_mean("zzz", ["train"]) == "known: train"


def test_one_tree_of_errors():
    assert issubclass(ConfigError, UnspokenError)
    assert UnspokenError.exit_code == 2


@pytest.mark.parametrize(
    "value", ["9" * 5000, "[" * 3000 + "]" * 3000, "[" * 200 + "]" * 200, '{"a":' * 300 + "1" + "}" * 300]
)
def test_a_value_that_nothing_can_hold(value: str):
    with pytest.raises(ConfigError) as caught:
        override({"a": 1}, [f"a={value}"])
    assert "cannot be a value" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.method:Hint", "method 'no_such_package.method:Hint' cannot be loaded: module "
         "'no_such_package.method' is not installed; install the package, or put the folder that it lies in on PYTHONPATH"),
        ("somebodys:Hint", "method 'somebodys:Hint' cannot be loaded: module 'somebodys' needs 'no_such_package', which is "
         "not installed"),
        ("broken:Hint", "method 'broken:Hint' cannot be loaded: module 'broken' fails: ZeroDivisionError: division by zero"),
        ("unspoken.methods.coconut:Cocnut", "module 'unspoken.methods.coconut' has no 'Cocnut'; did you mean 'Coconut'"),
        ("json:JSONDecoder", "'json:JSONDecoder' is no method: it has no `Config`"),
        ("a:b:c", "unknown method 'a:b:c'"),
    ],
)  # fmt: skip
def test_a_name_from_outside_that_is_none_is_one_clear_line(name, message, tmp_path, monkeypatch):
    (tmp_path / "somebodys.py").write_text("import no_such_package\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        method_config({"name": name})
    assert "\n" not in str(caught.value)


def test_an_installed_package_adds_names(tmp_path, monkeypatch):
    """By entry points, as `pip install` writes them; a name of our own stays ours."""
    about = tmp_path / "somebodys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[unspoken.plugins]\nmethod.ours = unspoken.methods.cot:Cot\nmethod.coconut = json:loads\n"
        "stop_rule.soon = somebodys:Soon\n"
    )
    (tmp_path / "somebodys.py").write_text("class Soon:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert lookup(METHODS, "ours", "method").__name__ == "Cot"
    assert lookup(METHODS, "coconut", "method").__name__ == "Coconut"
    assert lookup({}, "soon", "stop rule").__name__ == "Soon"
    with pytest.raises(ConfigError, match=r"unknown method 'soon'.*ours"):
        lookup(METHODS, "soon", "method")
