"""What goes wrong when people evaluate released checkpoints, by their reports; here each is impossible or an error.

Sources: issues of zhenyi4/codi (17) and InternLM/SIM-CoT (13, 14, 15), and the released test.py and run.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.backbones import tokenizer
from support.fakes.evaluation import FakeTask
from support.fakes.released import Fake, coconut, codi, write
from tokenizers import AddedToken

import unspoken
from unspoken.core.text.example import Example
from unspoken.errors import CheckpointError, ConfigError
from unspoken.evaluation.evaluator import evaluate
from unspoken.importers import import_checkpoint

QUESTIONS = ["Ann has 3 pens and buys 4 more. How many pens?", "Bob has 9 figs. He eats 2. How many are left?"]
STEPS = (("<<3+4=7>>",), ("<<9-2=7>>", "<<7*1=7>>", "<<7+0=7>>"))


def imported(tmp_path: Path, fake: Fake, **more: Any) -> Any:
    """The model of a fake's run."""
    path = write(tmp_path / "files", fake.state(), "safetensors")
    return unspoken.load(import_checkpoint(path, str(fake.base), tmp_path / "run", **more).path)


def problems(steps: tuple[tuple[str, ...], ...] = STEPS, answer: str = "7") -> FakeTask:
    """The two questions with some references."""
    pairs = zip(QUESTIONS, steps, strict=True)
    return FakeTask(examples=[Example(question=q, steps=s, answer=answer, id=q) for q, s in pairs])


# Wrong number of latents at evaluation: CODI's test.py thinks 1 where its flag is left out; SIM-CoT's evaluation config
# makes 2 of 10.


def test_the_number_of_latents_is_the_runs_own(tmp_path):
    model = imported(tmp_path, codi(tmp_path), alpha=8)
    report = evaluate(model, problems(), max_new_tokens=2)
    assert [record.latents for record in report.records] == [6, 6]
    assert report.mean_latents == 6
    assert report.model["method"]["latents"] == 6


@pytest.mark.parametrize(("decoder", "latents"), [(False, 6), (True, 10)])
def test_coconut_thinks_as_at_the_end_of_its_training(tmp_path, decoder, latents):
    model = imported(tmp_path, coconut(tmp_path, decoder=decoder))
    assert [answer.latents for answer in model.answer(QUESTIONS, max_new_tokens=2)] == [latents, latents]


def test_another_number_is_told_by_the_report(tmp_path):
    model = imported(tmp_path, codi(tmp_path), alpha=8)
    report = evaluate(model, problems(), latents=1, max_new_tokens=2)
    assert (report.latents, report.mean_latents, report.summary()["mean_latents"]) == (1, 1, 1)


def test_the_number_is_on_record_with_where_it_comes_from(tmp_path):
    imported(tmp_path, codi(tmp_path), alpha=8, latents=4)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["imported"]["chosen"]["latents"]
    assert record == {"value": 4, "source": "as given"}


# Projection left out: CODI's test.py builds none unless told to, and drops its weights in silence.


@torch.inference_mode()
def test_a_projection_that_is_in_the_file_is_used(tmp_path):
    fake = codi(tmp_path)
    model = imported(tmp_path, fake, alpha=8)
    trace = model.think(QUESTIONS[:1])
    assert trace.states_BKD is not None
    torch.testing.assert_close(trace.latents_BKD, fake.module.prj(trace.states_BKD), rtol=1e-5, atol=1e-6)
    assert (trace.latents_BKD - trace.states_BKD).abs().max() > 0.1


@pytest.mark.parametrize("part", ["1.weight", "1.bias", "3.weight", "3.bias", "ln.weight", "ln.bias"])
def test_half_a_projection_is_an_error(tmp_path, part):
    fake = codi(tmp_path)
    state = {key: value for key, value in fake.state().items() if key != f"prj.{part}"}
    path = write(tmp_path / "files", state, "bin")
    with pytest.raises(CheckpointError, match=rf"1 missing: prj\.{part}"):
        import_checkpoint(path, str(fake.base), tmp_path / "run", alpha=8)


def test_a_run_without_its_projection_does_not_load(tmp_path):
    imported(tmp_path, codi(tmp_path), alpha=8)
    (tmp_path / "run" / "model" / "method.safetensors").unlink()
    with pytest.raises(unspoken.UnspokenError, match=r"method\.safetensors is missing"):
        unspoken.load(tmp_path / "run")


# A checkpoint with missing rows: SIM-CoT's 8B file lost those of its special tokens under strict=False.


@pytest.mark.parametrize("make", [coconut, codi])
@pytest.mark.parametrize(("change", "says"), [(-3, "the rows of the added tokens are lost"), (-1, ""), (1, ""), (6, "")])
def test_missing_rows_are_counted(tmp_path, make, change, says):
    fake = make(tmp_path)
    state = {}
    for key, value in fake.state().items():
        if key.endswith(("wte.weight", "lm_head.weight", "embedding.weight")):
            value = torch.cat([value, torch.zeros(6, value.shape[1])])[: len(value) + change]
        state[key] = value
    path = write(tmp_path / "files", state, "bin")
    rows = fake.words + 3
    other = rf" or {rows + 2}" if make is codi else ""
    message = (
        rf"wte\.weight has {rows + change} rows, expected {rows}{other} \({fake.words} of .* and 3 of added tokens\); {says}"
    )
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path, str(fake.base), tmp_path / "run")


def test_a_head_with_missing_rows(tmp_path):
    fake = codi(tmp_path, "llama")
    state = fake.state()
    state["codi.base_model.model.lm_head.weight"] = state["codi.base_model.model.lm_head.weight"][: fake.words]
    path = write(tmp_path / "files", state, "bin")
    with pytest.raises(
        CheckpointError, match=rf"lm_head\.weight is \[{fake.words}, 32\], expected \[{fake.words + 3}, 32\]"
    ):
        import_checkpoint(path, str(fake.base), tmp_path / "run", alpha=8)


# The base model's tokenizer with an instruct model's weights: CODI's scripts/test_llama1b.sh; generation never stops.


def llama_tokenizer(folder: Path, eos: str) -> None:
    """Give a base model's folder a tokenizer with both of Llama 3's ends, as both of its models have."""
    words = tokenizer()
    ends: Any = {"additional_special_tokens": [AddedToken("<|end_of_text|>"), AddedToken("<|eot_id|>")]}
    words.add_special_tokens(ends)
    words.eos_token = eos
    words.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": len(words), "eos_token_id": words.eos_token_id}))


def llama(tmp_path: Path, eos: str) -> Fake:
    """A CODI checkpoint on a Llama whose folder has a tokenizer with this eos."""
    fake = codi(tmp_path, "llama", lora=False)
    llama_tokenizer(fake.base, eos)
    tables = ("embed_tokens.weight", "lm_head.weight")
    more = {key: torch.randn(2, 32) for key in fake.state() if key.endswith(tables)}
    state = {key: torch.cat([v, more[key]]) if key in more else v for key, v in fake.state().items()}
    return dataclasses.replace(fake, module=type("Saved", (), {"state_dict": lambda self: state})())


def test_a_llama_base_models_tokenizer_is_refused(tmp_path):
    fake = llama(tmp_path, "<|end_of_text|>")
    with pytest.raises(
        CheckpointError, match=r"ends answers with '<\|end_of_text\|>': .*Instruct.*never stop; give the\s+Instruct"
    ):
        imported(tmp_path, fake)


def test_the_instruct_models_tokenizer_is_right(tmp_path):
    model = imported(tmp_path, llama(tmp_path, "<|eot_id|>"))
    backbone = model.method.backbone
    assert backbone.eos_ids == (backbone.tokenizer.convert_tokens_to_ids("<|eot_id|>"),)


@pytest.mark.parametrize("eos", ["<|end_of_text|>", "<|eot_id|>"])
def test_whoever_knows_better_says_so(tmp_path, eos):
    model = imported(tmp_path, llama(tmp_path, "<|end_of_text|>"), eos=eos)
    backbone = model.method.backbone
    assert backbone.tokenizer.eos_token == eos
    assert backbone.eos_ids == (backbone.tokenizer.convert_tokens_to_ids(eos),)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["imported"]["eos"] == eos


def test_a_tokenizer_and_a_config_of_two_models(tmp_path):
    fake = llama(tmp_path, "<|eot_id|>")
    config = json.loads((fake.base / "config.json").read_text())
    (fake.base / "config.json").write_text(json.dumps({**config, "eos_token_id": [config["eos_token_id"] - 1]}))
    with pytest.raises(
        CheckpointError, match=r"disagrees with itself: .*'<\|eot_id\|>', its generation config with '<\|end_of"
    ):
        imported(tmp_path, fake)


def test_weights_that_lora_froze_tell_another_base_model(tmp_path):
    """Where the base model's weights are there, they are compared; eos given by hand settles it as well."""
    fake = codi(tmp_path, "llama")
    frozen = {
        key.removeprefix("codi.base_model.model.").replace(".base_layer", ""): value
        for key, value in fake.state().items()
        if key.startswith("codi.") and ".lora_" not in key
    }
    frozen = {
        key: v[: fake.words] if key.endswith(("embed_tokens.weight", "lm_head.weight")) else v for key, v in frozen.items()
    }
    save_file({key: v.clone() for key, v in frozen.items()}, fake.base / "model.safetensors")
    path = write(tmp_path / "files", fake.state(), "bin")
    done = import_checkpoint(path, str(fake.base), tmp_path / "run", alpha=8)
    assert f"checked: {len(frozen)} tensors that LoRA leaves alone are equal to those of {fake.base}" in done.notes
    key = "model.layers.1.mlp.down_proj.weight"
    frozen[key] = frozen[key] * 1.02
    save_file({key: v.clone() for key, v in frozen.items()}, fake.base / "model.safetensors")
    message = r"layers\.1\.mlp\.down_proj\.base_layer\.weight differs from that of .*another model \(Instruct"
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path, str(fake.base), tmp_path / "again", alpha=8)
    import_checkpoint(path, str(fake.base), tmp_path / "again", alpha=8, eos="<|endoftext|>")


def test_a_trained_run_is_no_base_model(tmp_path):
    fake = coconut(tmp_path)
    imported(tmp_path, fake)
    with pytest.raises(CheckpointError, match=r"has marker tokens already: it is a trained model"):
        import_checkpoint(tmp_path / "files", str(tmp_path / "run"), tmp_path / "again")


# Gold step count used at test: Coconut's evaluation with pad_latent_to_max: False thinks as often as the answer has steps.


def test_references_change_nothing_that_the_model_does(tmp_path):
    model = imported(tmp_path, coconut(tmp_path, decoder=True))
    reports = [
        evaluate(model, problems(steps, answer), max_new_tokens=4, explain=True)
        for steps, answer in ((STEPS, "7"), (((), ()), "0"), ((("<<1+1=2>>",) * 9, ("x",)), "99"))
    ]
    seen = [[(r.text, r.latents, r.passes, r.positions, r.thoughts) for r in report.records] for report in reports]
    assert seen[0] == seen[1] == seen[2]
    with pytest.raises(TypeError, match="steps"):
        model.method.prompt(QUESTIONS[0], steps=("<<3+4=7>>",))
    with pytest.raises(ConfigError, match="unknown speaking option 'steps'"):
        model.answer(QUESTIONS[:1], steps=STEPS[0])
