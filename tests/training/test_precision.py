"""Base models in bf16: what trains is fp32, every method runs, and the model that is kept is the one that was trained."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.cases import EXAMPLES, settings
from safetensors.torch import load_file, save_file
from support.backbones import ARCHS
from torch import Tensor
from transformers import AutoModelForCausalLM

import unspoken
from unspoken.core import precision
from unspoken.core.lm.adapters import ADAPTER, LoraSettings
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.core.loop.generate import think
from unspoken.core.precision import kept_dtype
from unspoken.core.seal import SEAL
from unspoken.errors import RunError
from unspoken.inspector.probe import probe_config
from unspoken.methods.base import add_counts
from unspoken.runs.directory import RunDir, export
from unspoken.runs.start import build_method
from unspoken.training.loop import Training, train
from unspoken.training.progress import Quiet

LORA = LoraSettings(r=4, alpha=8.0)
QUESTION = EXAMPLES[0].question


@pytest.fixture
def base(files: Path):
    """base(lora=False, ...) -> a random Llama in bf16, as a backbone's settings."""

    def settings_of(lora: bool = False, **more: Any) -> dict[str, Any]:
        arch = {**ARCHS["llama"], "initializer_range": 0.2, **more}
        adapters = LORA if lora else None
        return {"arch": arch, "tokenizer": str(files / "tokenizer"), "dtype": "bfloat16", "lora": adapters}

    return settings_of


METHODS = {
    "cot": False, "coconut": False, "coconut lora": True, "sim_cot": False, "codi lora": True, "icot_si": False,
    "pause rows": False, "pause lora": True, "sim_cot codi lora": True, "step_weighted codi": False, "softcot": False,
    "softcot trained": False, "softcot lora": True, "softcot_pp": False, "semcot_generator": False, "semcot lora": True,
    "sim_cot semcot": False,
}  # fmt: skip
ALIKE = {"codi lora", "icot_si", "pause lora", "softcot", "softcot_pp", "semcot_generator", "coconut"}
"""Whose parts are those of others: what is frozen, adapted, or beside the base."""


def test_a_cpu_without_instructions_for_bf16_is_told(make, base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def warned(slow: bool, do: Callable[[], object]) -> list[str]:
        monkeypatch.setattr(precision, "slow_in_bf16", lambda device: slow and device == "cpu")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            do()
        return [str(one.message) for one in found if "no instructions for bf16" in str(one.message)]

    low = make(settings("cot"), backbone=base(False), steps=1)
    high = replace(low, backbone=replace(low.backbone, dtype="float32"))
    for number, (config, slow, many) in enumerate([(low, True, 1), (low, False, 0), (high, True, 0)]):
        out = tmp_path / f"run{number}"
        said = warned(slow, lambda config=config, out=out: train(config, out, Quiet()))
        assert len(said) == many, said
        assert all("set train.precision=fp32 and backbone.dtype=float32" in line for line in said)
    (line,) = warned(True, lambda: unspoken.load(tmp_path / "run2", dtype="bfloat16"))
    assert "--dtype float32" in line
    assert not warned(True, lambda: unspoken.load(tmp_path / "run2"))
    assert not warned(False, lambda: unspoken.load(tmp_path / "run2", dtype="bfloat16"))


def test_what_torch_says_of_a_cpu_is_believed():
    assert precision.slow_in_bf16("cpu") != torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not precision.slow_in_bf16("cuda")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ALIKE])
def test_every_method_on_a_bf16_base(make, base, tmp_path: Path, name: str):
    """Trains, validates, goes on, is loaded and explains; all that trains is fp32, its gradients too."""
    method = settings(name)
    config = make(method, backbone=base(METHODS[name]), steps=2, validate_every=1, save_every=1, validate_limit=2)
    training = Training(config, tmp_path / "run", Quiet())
    before = {key: p.detach().clone() for key, p in training.trained.items()}
    assert {p.dtype for p in training.trained.values()} == {torch.float32}
    training.go()
    moved = sum(int((p != before[key]).any()) for key, p in training.trained.items())
    assert moved > 0
    train(
        replace(config, train=replace(config.train, steps=2)), tmp_path / "run"
    )  # as after a restart: nothing is left to do
    model = unspoken.load(tmp_path / "run", device="cpu")
    answers = model.answer([QUESTION, "How many?"], explain=model.explains, max_new_tokens=4)
    assert all(answer.tokens for answer in answers)
    for key, p in training.method.at_inference.eval().named_parameters():
        assert torch.isfinite(p).all(), key


@pytest.mark.parametrize(("case", "rate"), [("cot", 1e-5), ("sim_cot codi lora", 1e-4), ("sim_cot softcot", 1e-5)])
def test_small_updates_arrive(make, base, tmp_path: Path, case: str, rate: float):
    """As many weights move as from the same base in fp32; kept in bf16, two in three would stay where they are."""
    shares = []
    for dtype in ("float32", "bfloat16"):
        start = {**base(case.endswith("lora")), "dtype": dtype}
        training = Training(
            make(settings(case), backbone=start, steps=4, lr=rate, validate_limit=0), tmp_path / dtype, Quiet()
        )
        before = {key: p.detach().clone() for key, p in training.trained.items()}
        training.go()
        moved = sum(int((p != before[key]).sum()) for key, p in training.trained.items())
        shares.append(moved / sum(p.numel() for p in before.values()))
    assert shares[1] > 0.98 * shares[0]


def latents(method: Any) -> Tensor:
    """What it thinks."""
    return think(method.backbone, [method.prompt(QUESTION)], method.source()).latents_BKD


@pytest.mark.parametrize("case", ["codi lora", "coconut lora", "sim_cot codi lora", "softcot lora", "pause rows", "coconut"])
def test_the_kept_model_is_the_trained_one(make, base, tmp_path: Path, case: str):
    """Thoughts and words, straight from the run and exported; merged into bf16 they were off by a per cent."""
    config = make(settings(case), backbone=base(METHODS[case]), steps=8, lr=1e-2, select="last")
    training = Training(config, tmp_path / "run", Quiet())
    training.go()
    trained = training.method.at_inference.eval()
    export(tmp_path / "run", tmp_path / "exported")
    want = latents(trained) if trained.latents_per_group else None
    for folder in ("run", "exported"):
        model = unspoken.load(tmp_path / folder, device="cpu")
        if want is not None:
            torch.testing.assert_close(
                latents(model.method.at_inference), want, rtol=1e-5, atol=1e-5 * float(want.abs().max())
            )
        said = unspoken.Model(trained, config.speaking, model.latents).answer([QUESTION])[0].tokens
        assert model.answer([QUESTION])[0].tokens == said


def adapted(make: Any, base: Any, out: Path) -> Training:
    """A finished run with adapters on a bf16 base."""
    training = Training(make(settings("codi lora"), backbone=base(True), steps=8, lr=1e-2, select="last"), out, Quiet())
    training.go()
    return training


def test_a_merged_folder_is_whole_for_others(make, base, tmp_path: Path):
    """transformers reads W + B A to fp32's digits; taken off again, the adapter leaves the base's own bf16 weights."""
    training = adapted(make, base, tmp_path / "run")
    lm, folder = training.method.backbone.lm, tmp_path / "run" / "model"
    assert kept_dtype(folder) == "float32"
    plain = dict(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").named_parameters())
    ours = dict(RunDir(tmp_path / "run").load_method(at_inference=True).backbone.lm.named_parameters())
    seen = 0
    for name, module in lm.named_modules():
        if hasattr(module, "get_delta_weight"):
            base_OI, delta_OI = module.base_layer.weight, module.get_delta_weight("default")
            assert base_OI.dtype == torch.bfloat16
            torch.testing.assert_close(plain[f"{name}.weight"], base_OI.float() + delta_OI, rtol=1e-6, atol=1e-7)
            assert torch.equal(ours[f"{name}.base_layer.weight"], base_OI)
            seen += bool((delta_OI != 0).any())
    assert seen > 4
    probe = probe_config(str(tmp_path / "run"))
    assert probe.backbone.dtype == "float32"  # rounded, the probe would look at another model
    start = build_method(probe).at_inference.eval()
    want = latents(training.method.at_inference.eval())
    torch.testing.assert_close(latents(start), want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_other_precisions_merge(make, base, tmp_path: Path, dtype: str):
    """Asked for another precision, a model answers in it without its adapter beside it."""
    training = adapted(make, base, tmp_path / "run")
    model = unspoken.load(tmp_path / "run", device="cpu", dtype=dtype) if dtype != "int8" else None
    if model is None:  # too small for 8 bits; merged all the same
        model = unspoken.load(tmp_path / "run", device="cpu")
        model.method.backbone.fold()
    assert not any("lora_" in name for name, _ in model.method.named_parameters())
    kinds = {p.dtype for p in model.method.backbone.lm.parameters()}
    assert kinds == {torch.bfloat16 if dtype == "bfloat16" else torch.float32}
    want = latents(training.method.at_inference.eval()).float()
    torch.testing.assert_close(latents(model.method.at_inference).float(), want, rtol=0.1, atol=0.1)


def test_a_broken_adapter(make, base, tmp_path: Path):
    adapted(make, base, tmp_path / "run")
    file = tmp_path / "run" / "model" / ADAPTER
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with pytest.raises(RunError, match=re.escape(f"{file} is truncated, or belongs to another model")):
        RunDir(tmp_path / "run").load_method()
    file.write_bytes(whole)
    tensors = load_file(file)
    about = {"lora": {"r": 4}, "tokens": [1], "dtype": "bfloat16"}
    save_file(dict(list(tensors.items())[:-1]), file, metadata={"about": json.dumps(about)})
    with pytest.raises(RunError, match=re.escape(f"{file} is truncated, or belongs to another model")):
        RunDir(tmp_path / "run").load_method()


def test_a_run_of_an_earlier_version(make, base, tmp_path: Path):
    """Kept in bf16 as a whole, its model is loaded as it was; its state goes on in fp32."""
    config = make(settings("sim_cot"), backbone=base(), steps=4, save_every=2)
    train(replace(config, train=replace(config.train, steps=4)), tmp_path / "run")
    model = tmp_path / "run" / "model"
    for file in (model / "model.safetensors", model / "method.safetensors"):
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            about = opened.metadata()
        save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, metadata=about)
    about = json.loads((model / "unspoken.json").read_text())
    (model / "unspoken.json").write_text(json.dumps({k: v for k, v in about.items() if k != SEAL}))
    method: Any = RunDir(tmp_path / "run").load_method()
    assert {p.dtype for p in method.parameters()} == {torch.bfloat16}
    assert unspoken.load(tmp_path / "run", device="cpu").answer([QUESTION], explain=True)[0].thoughts is not None
    (state,) = (tmp_path / "run" / "state").glob("step-*/state.safetensors")
    with safe_open(state, framework="pt") as opened:
        about = opened.metadata()
    kept = load_file(state)
    save_file({k: v.bfloat16() if v.dtype == torch.float32 and "step" not in k else v for k, v in kept.items()}, state,
              metadata=about)  # fmt: skip
    info = json.loads((state.parent / "state.json").read_text())
    (state.parent / "state.json").write_text(json.dumps({k: v for k, v in info.items() if k != SEAL}))
    training = Training(config, tmp_path / "run", Quiet())
    training._resume()
    training.step = 2  # two steps are left
    training._train_step()
    assert {p.dtype for p in training.trained.values()} == {torch.float32}


def test_validation_is_computed_as_training_is(make, base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In bf16 with train.precision=bf16 or a bf16 base."""
    for start, computed in (
        (base(), "fp32"),
        ({**base(), "dtype": "float32"}, "bf16"),
        ({**base(), "dtype": "float32"}, "fp32"),
    ):
        training = Training(make(settings("cot"), backbone=start, precision=computed, steps=1), tmp_path / "x", Quiet())
        seen: list[bool] = []
        forward = training.method.forward

        def watched(*given: Any, forward: Any = forward, seen: list[bool] = seen) -> Any:
            seen.append(torch.is_autocast_enabled("cpu"))
            return forward(*given)

        monkeypatch.setattr(training.method, "forward", watched)
        training._train_step()
        parts: list[Any] = []
        counts = training.scorer._lay_out(training.schedule.stage(0), parts)
        training.scorer._losses(parts, add_counts(counts))
        assert set(seen) == {start["dtype"] == "bfloat16" or computed == "bf16"}
        assert len(seen) >= 2


def test_half_precision_from_elsewhere(files: Path):
    """A model that a caller made in float16 trains in fp32 as well."""
    from unspoken.core.precision import train_in_float32

    start = load_backbone(BackboneConfig(arch=ARCHS["llama"], tokenizer=str(files / "tokenizer")))
    start.lm.half()
    train_in_float32(start)
    assert {p.dtype for p in start.parameters()} == {torch.float32}
