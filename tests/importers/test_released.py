"""Released layouts become ordinary run directories that compute what the released modules compute; faults are named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fakes.released import FAMILIES, FORMS, Fake, coconut, codi, options, plain, write

import unspoken
from unspoken.core.loop.loop import unroll
from unspoken.core.rows.batch import collate
from unspoken.errors import BackboneError, CheckpointError, ConfigError, RunError
from unspoken.importers import import_checkpoint
from unspoken.importers.files import read_weights
from unspoken.methods.base import parts_of
from unspoken.runs.directory import RunDir

QUESTION = "Ann has 3 pens and buys 4 more. How many pens?"

every_family = pytest.mark.parametrize("name", FAMILIES)
every_model = pytest.mark.parametrize("family", ["gpt2", "llama"])


def official(fake: Fake, name: str, ids: tuple[int, ...], latents: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and the logits at the last position, as the released loops compute them: naively, one row, no cache."""
    module = fake.module
    if name == "cot":
        return torch.zeros(0), module(torch.tensor([ids])).logits[0, -1]
    released = {"coconut": (fake.words, fake.words + 1)}.get(name.removeprefix("simcot_"), (fake.words + 1, fake.words + 2))
    lm = getattr(module, {"coconut": "base_causallm", "codi_older": "coconut"}.get(name.removeprefix("simcot_"), "codi"))
    project = getattr(module, "prj", lambda state: state)
    embed = lm.get_input_embeddings()
    bot, eot = (embed(torch.tensor([[marker]])) for marker in released)
    fed, made = torch.cat([embed(torch.tensor([ids])), bot], dim=1), []
    for _ in range(latents):
        made.append(project(lm(inputs_embeds=fed, output_hidden_states=True).hidden_states[-1][:, -1:]))
        fed = torch.cat([fed, made[-1]], dim=1)
    return torch.cat(made, dim=1)[0], lm(inputs_embeds=torch.cat([fed, eot], dim=1)).logits[0, -1]


def mine(run: Path, latents: int | None = None) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """The same from a run directory: latents, logits at the prompt's last position; and the question's ids."""
    model = unspoken.load(run)
    row = model.method.prompt(QUESTION, latents)
    trace = unroll(model.method.backbone, collate([row]), model.method.source())
    end = torch.tensor([len(row.ids) - 1]).numpy()
    question = row.ids[: row.start - 1] if row.latents else row.ids
    return trace.latents_BKD[0], model.method.backbone.logits(trace.hidden_at(end * 0, end))[0], question


@torch.no_grad()
@every_family
@every_model
def test_an_import_computes_what_the_released_module_computes(tmp_path, name, family):
    fake = FAMILIES[name](tmp_path, family)
    form = FORMS[(list(FAMILIES).index(name) + (family == "llama")) % len(FORMS)]
    run = import_checkpoint(
        write(tmp_path / "files", fake.state(), form), str(fake.base), tmp_path / "run", **options(name)
    ).path
    latents, logits, question = mine(run)
    want_latents, want = official(fake, name, question, 10 if name == "simcot_coconut" else 6)
    if name != "cot":
        torch.testing.assert_close(latents[: len(want_latents)], want_latents, rtol=1e-4, atol=1e-5)
    if "codi" in name:  # released: pad, bot, eot; ours: bot, eot, latent
        V = fake.words
        want = torch.cat([want[:V], want[[V + 1, V + 2, V]]])
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-5)
    assert len(latents) == 0 or len(latents) - len(want_latents) in (0, 1)  # one more where the decoder explains it


def imported(tmp_path: Path, fake: Fake, state: dict[str, torch.Tensor], name: str, **more: Any) -> Path:
    """Import a state dict; returns the run."""
    shutil.rmtree(tmp_path / "files", ignore_errors=True)
    path = write(tmp_path / "files", state, "bin")
    return import_checkpoint(path, str(fake.base), tmp_path / "run", **{**options(name), **more}).path


REPEATED = ("embedding.weight", "lm_head.weight")
"""Ends the keys that may be missing: they repeat another tensor (of a tied model)."""


@every_family
def test_every_missing_key_is_named(tmp_path, name):
    fake = FAMILIES[name](tmp_path, "gpt2")
    state = fake.state()
    for number, key in enumerate(state):
        rest = {k: v for k, v in state.items() if k != key}
        if key.endswith(REPEATED) or (".h.1." in key and number % 4):  # a second layer has the names of the first
            continue
        if key.endswith("wte.weight"):  # its repetition stands for it, as in files without repetitions
            rest = {k: v for k, v in rest.items() if k != key.replace("transformer.wte", "lm_head")}
        with pytest.raises(CheckpointError, match=rf"1 missing: {re.escape(key)}[ ;]"):
            imported(tmp_path, fake, rest, name)
        assert not (tmp_path / "run").exists()


@every_family
def test_every_renamed_key_is_named_with_both_names(tmp_path, name):
    fake = FAMILIES[name](tmp_path, "llama")
    state = fake.state()
    for key in list(state)[:: 1 if len(state) < 40 else 3]:
        renamed = key.replace("weight", "weigth").replace("bias", "bais")
        with pytest.raises(CheckpointError, match=re.escape(renamed)) as caught:
            imported(tmp_path, fake, {(renamed if k == key else k): v for k, v in state.items()}, name)
        assert key in str(caught.value) or key.endswith(REPEATED)


@every_family
def test_an_unknown_key_is_named(tmp_path, name):
    fake = FAMILIES[name](tmp_path, "gpt2")
    with pytest.raises(CheckpointError, match=r"1 unknown: extra\.weight;"):
        imported(tmp_path, fake, {**fake.state(), "extra.weight": torch.zeros(2)}, name)


def test_repeated_tensors_may_be_left_out_and_are_dropped_with_a_reason(tmp_path):
    fake = coconut(tmp_path, decoder=True)
    state = fake.state()
    assert {"embedding.weight", "base_causallm.lm_head.weight", "expainable_llm.lm_head.weight"} <= set(state)
    path = write(tmp_path / "files", state, "safetensors")
    done = import_checkpoint(path, str(fake.base), tmp_path / "run")
    assert set(done.dropped) == {"embedding.weight", "base_causallm.lm_head.weight", "expainable_llm.lm_head.weight"}
    assert all("input embedding" in reason for reason in done.dropped.values())
    assert {key for keys in done.mapped.values() for key in keys} == set(state) - set(done.dropped)
    for lost in (["embedding.weight", "base_causallm.lm_head.weight"], ["base_causallm.transformer.wte.weight"]):
        shutil.rmtree(tmp_path / "run")
        rest = {key: value for key, value in state.items() if key not in lost}
        assert torch.equal(mine(imported(tmp_path, fake, rest, "coconut"))[1], mine(tmp_path / "run")[1])
        weight = unspoken.load(tmp_path / "run").method.backbone.lm.get_input_embeddings().weight
        assert torch.equal(weight, state["embedding.weight"])


@pytest.mark.parametrize("key", ["embedding.weight", "base_causallm.lm_head.weight"])
def test_a_repeated_tensor_that_differs_is_an_error(tmp_path, key):
    fake = coconut(tmp_path)
    state = fake.state()
    state[key][3, 3] += 1e-3
    with pytest.raises(CheckpointError, match=rf"{key} should repeat base_causallm\.transformer\.wte\.weight, but differs"):
        imported(tmp_path, fake, state, "coconut")


def test_an_untied_head_is_kept(tmp_path):
    fake = codi(tmp_path, "llama")
    head = fake.state()["codi.base_model.model.lm_head.weight"]
    run = imported(tmp_path, fake, fake.state(), "codi")
    lm = unspoken.load(run).method.backbone.lm
    V = fake.words
    assert torch.equal(lm.lm_head.weight, torch.cat([head[:V], head[[V + 1, V + 2, V]]]))
    assert not torch.equal(lm.lm_head.weight, lm.get_input_embeddings().weight)


def test_buffers_of_older_transformers_are_dropped_with_a_reason(tmp_path):
    fake = coconut(tmp_path)
    more = {f"base_causallm.transformer.h.{i}.attn.{n}": torch.ones(1) for i in (0, 1) for n in ("bias", "masked_bias")}
    path = write(tmp_path / "files", {**fake.state(), **more}, "checkpoint")
    dropped = import_checkpoint(path, str(fake.base), tmp_path / "run").dropped
    assert set(more) <= set(dropped)
    assert dropped["base_causallm.transformer.h.0.attn.bias"] == "a causal mask, which the model makes itself"


def test_bfloat16_files_are_merged_in_fp32(tmp_path):
    """As released: base in bf16, LoRA and projection in fp32."""
    fake = codi(tmp_path, "llama")
    state = {k: v if "lora" in k or k.startswith("prj") else v.bfloat16() for k, v in fake.state().items()}
    run = imported(tmp_path, fake, state, "codi")
    got = unspoken.load(run).method.backbone.lm.model.layers[1].mlp.up_proj.weight
    name = "codi.base_model.model.model.layers.1.mlp.up_proj."
    a, b = (state[f"{name}lora_{x}.default.weight"] for x in "AB")
    assert torch.equal(got, state[f"{name}base_layer.weight"].float() + (b @ a) * 2)
    shutil.rmtree(run)
    run = imported(tmp_path, fake, state, "codi", dtype="bfloat16")
    lm = unspoken.load(run).method.backbone.lm
    assert lm.dtype == torch.bfloat16
    assert torch.equal(lm.model.layers[1].mlp.up_proj.weight, got.bfloat16())
    assert next(parts_of(unspoken.load(run).method)["projection"].module.parameters()).dtype == torch.float32


def test_two_rows_more_are_dropped_with_a_note(tmp_path):
    """128261 rows where 128259 are used; whatever stands in the last two."""
    fake = codi(tmp_path, "llama")
    whole = mine(imported(tmp_path, fake, fake.state(), "codi"))
    shutil.rmtree(tmp_path / "run")
    state = {
        key: torch.cat([value, torch.full((2, value.shape[1]), 9.0)])
        if key.endswith(("embed_tokens.weight", "lm_head.weight"))
        else value
        for key, value in fake.state().items()
    }
    path = write(tmp_path / "files2", state, "bin")
    done = import_checkpoint(path, str(fake.base), tmp_path / "run", alpha=8)
    assert any(f"the last 2 of {fake.words + 5} rows" in note for note in done.notes)
    got = mine(tmp_path / "run")
    assert torch.equal(got[0], whole[0])
    assert torch.equal(got[1], whole[1])


def test_a_base_model_with_spare_rows(tmp_path):
    """CODI counts its tokens from the config's vocabulary, ours from the tokenizer's last token."""
    fake = codi(tmp_path, "llama")
    config = json.loads((fake.base / "config.json").read_text())
    spare = 5
    (fake.base / "config.json").write_text(json.dumps({**config, "vocab_size": fake.words + spare}))
    state = {
        key: torch.cat([v[: fake.words], torch.randn(spare, v.shape[1]), v[fake.words :]])
        if key.endswith(("embed_tokens.weight", "lm_head.weight"))
        else v
        for key, v in fake.state().items()
    }
    run = imported(tmp_path, fake, state, "codi")
    latents, logits, question = mine(run)
    with torch.no_grad():
        want_latents, want = official(fake, "codi", question, 6)
    V = fake.words
    torch.testing.assert_close(latents, want_latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[: V + 2], torch.cat([want[:V], want[[V + 1, V + 2]]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [True, False])
def test_the_projection_is_read_off_the_tensors(tmp_path, norm):
    fake = codi(tmp_path, norm=norm)
    config = RunDir(imported(tmp_path, fake, fake.state(), "codi")).config().method
    assert (config.projection, config.projection_width, config.projection_norm) == (True, 20, norm)
    bare = codi(tmp_path / "bare", projection=False)
    shutil.rmtree(tmp_path / "run")
    assert RunDir(imported(tmp_path, bare, bare.state(), "codi")).config().method.projection is False


def test_a_decoder_of_another_width_needs_its_own_base(tmp_path):
    fake = codi(tmp_path, "llama")
    small = plain(tmp_path / "small", "llama", hidden_size=16, num_attention_heads=2, num_key_value_heads=2)
    project = {"pj_in.weight": torch.randn(16, 32), "pj_in.bias": torch.randn(16)}
    state = {**fake.state(), **{f"decoder.{key}": value for key, value in small.state().items()}, **project}
    with pytest.raises(CheckpointError, match=r"auxiliary decoder is 16 wide, .* 32: .*give that one with --decoder-base"):
        imported(tmp_path, fake, state, "codi")
    run = imported(tmp_path, fake, state, "codi", decoder_base=str(small.base))
    model = unspoken.load(run)
    decoder: Any = model.method.decoder
    assert torch.equal(decoder.project.weight, project["pj_in.weight"])
    assert len(model.answer([QUESTION], explain=True, max_new_tokens=2)[0].thoughts or ()) == 7
    shutil.rmtree(run)
    with pytest.raises(CheckpointError, match=r"has pj_out\.U, pj_out\.V: a map .* not supported"):
        imported(tmp_path, fake, {**state, "pj_out.U": torch.zeros(1), "pj_out.V": torch.zeros(1)}, "codi")
    del state["pj_in.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: pj_in\.bias"):
        imported(tmp_path, fake, state, "codi", decoder_base=str(small.base))


def test_it_is_an_ordinary_run_directory(tmp_path):
    """With provenance; it answers, explains and exports, and config.json of the release was never asked."""
    fake = coconut(tmp_path, decoder=True)
    path = write(tmp_path / "files", fake.state(), "safetensors")
    assert (path / "config.json").read_bytes() == b""
    done = import_checkpoint(path, str(fake.base), tmp_path / "run", max_stage=2)
    data = RunDir(tmp_path / "run").read()
    record = data["imported"]
    assert record["files"] == read_weights(path).sources()
    assert record["base"] == str(fake.base)
    assert record["family"] == "SIM-CoT on Coconut"
    assert record["chosen"]["max_stage"] == {"value": 2, "source": "as given"}
    assert record["chosen"]["latents_per_step"] == {
        "value": 2,
        "source": "not in the file; as published for GSM8K with SIM-CoT",
    }
    assert record["chosen"]["latents"]["value"] == 4
    assert record["dropped"] == done.dropped
    assert data["provenance"]["versions"]["unspoken"] == unspoken.__version__
    model = unspoken.load(tmp_path / "run")
    said = model.answer([QUESTION], explain=True, max_new_tokens=3)[0]
    assert said.latents == 4
    assert len(said.thoughts or ()) == 2
    unspoken.export(tmp_path / "run", tmp_path / "exported")
    again = unspoken.load(tmp_path / "exported").answer([QUESTION], max_new_tokens=3)[0]
    assert again.tokens == said.tokens
    assert not list(tmp_path.glob(".*.tmp"))


@torch.no_grad()
def test_sim_cots_coconut_on_llama_thinks_six_latents_as_one_group(tmp_path):
    fake = coconut(tmp_path, "llama", decoder=True)
    run = imported(tmp_path, fake, fake.state(), "simcot_coconut", latents_per_step=6, max_stage=1)
    latents, logits, question = mine(run)
    want_latents, want = official(fake, "simcot_coconut", question, 6)
    torch.testing.assert_close(latents[:6], want_latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-5)
    thoughts = unspoken.load(run).answer([QUESTION], explain=True, max_new_tokens=3)[0].thoughts
    assert thoughts is not None
    assert [type(thought) for thought in thoughts] == [str]


def test_it_can_be_moved(tmp_path):
    fake = coconut(tmp_path, decoder=True)
    run = imported(tmp_path, fake, fake.state(), "simcot_coconut")
    before = unspoken.load(run).answer([QUESTION], explain=True, max_new_tokens=3)[0].thoughts
    run.rename(tmp_path / "moved")
    assert unspoken.load(tmp_path / "moved").answer([QUESTION], explain=True, max_new_tokens=3)[0].thoughts == before


def test_the_templates_are_the_released_ones(tmp_path):
    first, second = coconut(tmp_path / "a"), codi(tmp_path / "b")
    template = RunDir(imported(tmp_path, first, first.state(), "coconut")).config().method.template
    assert (template.question, template.answer) == ("{question}\n", "### {answer}")
    shutil.rmtree(tmp_path / "run")
    template = RunDir(imported(tmp_path, second, second.state(), "codi")).config().method.template
    assert (template.question, template.answer) == ("{question}", "The answer is: {answer}")


def test_out_that_is_taken(tmp_path):
    fake = plain(tmp_path)
    run = imported(tmp_path, fake, fake.state(), "cot")
    with pytest.raises(RunError, match=r"run exists and is not empty; give a new directory"):
        imported(tmp_path, fake, fake.state(), "cot")
    (tmp_path / "empty").mkdir()
    assert import_checkpoint(tmp_path / "files", str(fake.base), tmp_path / "empty").path == tmp_path / "empty"
    assert unspoken.load(tmp_path / "empty").answer([QUESTION], max_new_tokens=2)
    assert run.exists()


def test_training_does_not_go_on_in_it_but_can_start_from_it(tmp_path):
    fake = plain(tmp_path)
    run = imported(tmp_path, fake, fake.state(), "cot", task="tiny")
    with pytest.raises(RunError, match=r"was made by `unspoken import`.*backbone\.path="):
        unspoken.train(RunDir(run).config(), run)
    from unspoken.training.loop import build_method

    data = unspoken.dump(RunDir(run).config())
    data["backbone"] = {"path": str(run)}
    method: Any = build_method(unspoken.build(unspoken.RunConfig, data))
    assert torch.equal(method.backbone.lm.transformer.h[0].mlp.c_fc.weight, fake.state()["transformer.h.0.mlp.c_fc.weight"])


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("coconut", {"latents": 6}, r"latents is no setting of Coconut; its own: latents_per_step and max_stage"),
        ("codi", {"max_stage": 3}, r"max_stage is no setting of CODI; its own: latents"),
        ("cot", {"latents_per_step": 2}, r"latents_per_step is no setting of plain language model"),
        ("codi_full", {"alpha": 32.0}, r"alpha is 32, but the checkpoint has no LoRA"),
        ("coconut", {"latents_per_step": 0}, r"latents_per_step must be at least 1, got 0"),
        ("coconut", {"dtype": "int8"}, r"field 'dtype'.*got \"int8\""),
        ("coconut", {"task": "gsm9k"}, r"unknown task 'gsm9k'"),
        ("coconut", {"eos": "<|nope|>"}, r"--eos '<\|nope\|>' is no token"),
    ],
)
def test_options_that_do_not_apply(tmp_path, name, more, message):
    fake = FAMILIES[name](tmp_path, "gpt2")
    with pytest.raises(ConfigError, match=message):
        imported(tmp_path, fake, fake.state(), name, **more)
    assert not (tmp_path / "run").exists()


def test_a_decoders_base_without_a_decoder(tmp_path):
    fake = coconut(tmp_path)
    with pytest.raises(ConfigError, match=r"\(Coconut\) has no auxiliary decoder"):
        imported(tmp_path, fake, fake.state(), "coconut", decoder_base=str(fake.base))


def test_a_layout_that_nobody_knows(tmp_path):
    fake = coconut(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"no known checkpoint: its keys begin with encoder, pooler; expected base_caus"
    ):
        imported(tmp_path, fake, {"encoder.w": torch.zeros(1), "pooler.w": torch.zeros(1)}, "coconut")


def test_a_base_model_of_another_kind(tmp_path):
    fake, other = coconut(tmp_path, "gpt2"), coconut(tmp_path / "other", "llama")
    path = write(tmp_path / "files", fake.state(), "bin")
    with pytest.raises(CheckpointError, match=r"does not fit Coconut on .*missing: base_causallm\.model\.embed_tokens"):
        import_checkpoint(path, str(other.base), tmp_path / "run")
    with pytest.raises(BackboneError, match=r"cannot read config and tokenizer of the base model .*nowhere"):
        import_checkpoint(path, str(tmp_path / "nowhere"), tmp_path / "run")


def test_lora_that_does_not_fit(tmp_path):
    fake = codi(tmp_path)
    key = "codi.base_model.model.transformer.h.1.mlp.c_fc.lora_A.default.weight"
    with pytest.raises(CheckpointError, match=r"LoRA of different ranks \(4, 5\)"):
        imported(tmp_path, fake, {**fake.state(), key: torch.zeros(5, 32)}, "codi")
    with pytest.raises(CheckpointError, match=rf"LoRA does not fit its layer: .*{re.escape(key)} \[4, 31\]"):
        imported(tmp_path, fake, {**fake.state(), key: torch.zeros(4, 31)}, "codi")
    name = "codi.base_model.model.transformer.h.1.mlp.c_fc."
    rest = {k: v for k, v in fake.state().items() if not k.startswith(name)}
    with pytest.raises(CheckpointError, match=rf"4 missing: .*{re.escape(name)}base_layer\.weight.*lora_A.*lora_B"):
        imported(tmp_path, fake, rest, "codi")


def test_alpha_of_an_unpublished_rank_must_be_given(tmp_path):
    fake = codi(tmp_path)
    path = write(tmp_path / "files", fake.state(), "bin")
    with pytest.raises(ConfigError, match=r"LoRA of rank 4; its alpha is not in the file.*rank 128; give --alpha"):
        import_checkpoint(path, str(fake.base), tmp_path / "run")
