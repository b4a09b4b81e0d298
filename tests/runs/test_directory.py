"""A run directory is a model; a broken one is refused by name, and nothing is ever half-written."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
import torch

import unspoken
from unspoken.core import tensors
from unspoken.core.config import build, dump
from unspoken.core.lm.adapters import LoraSettings
from unspoken.core.tensors import load_tensors, save_tensors
from unspoken.errors import ConfigError, DataError, RunError, TrainingError
from unspoken.methods.coconut import Coconut
from unspoken.runs import directory
from unspoken.runs.config import RunConfig
from unspoken.runs.directory import RunDir
from unspoken.training.loop import Training, train
from unspoken.training.progress import Quiet

QUESTIONS = ["Ann has 3 pens and buys 4 more. She doubles them.", "Ann has 9 pens.", "How many pens has Ann, who had 12?"]


@pytest.fixture
def run(make, tmp_path):
    return train(make(), tmp_path / "run").path


def test_saved_model_answers_as_the_trained_one(make, tmp_path):
    training = Training(make(), tmp_path / "run", Quiet())
    training.go()
    live = unspoken.Model(training.method, training.config.speaking)
    loaded = unspoken.load(tmp_path / "run")
    assert [a.tokens for a in loaded.answer(QUESTIONS)] == [a.tokens for a in live.answer(QUESTIONS)]
    assert loaded.explain(loaded.think(QUESTIONS)) == live.explain(live.think(QUESTIONS))
    assert loaded.answer(QUESTIONS, explain=True)[0].thoughts == live.explain(live.think(QUESTIONS))[0]


@pytest.mark.parametrize(
    "method",
    [
        {"name": "cot"},
        {"name": "cot", "steps": False},
        {"name": "coconut", "epochs_per_stage": 0.5},
        {"name": "pause", "marker_init": "pens"},
        {"name": "pause", "marker_init": "pens", "trains": "pauses"},
        {"name": "icot_si", "remove_all_beyond": 8},
    ],
)
def test_every_method_saves_and_loads(make, tmp_path, method):
    training = Training(make(method), tmp_path / "run", Quiet())
    training.go()
    live = unspoken.Model(training.method, training.config.speaking)
    loaded = unspoken.load(tmp_path / "run")
    assert [a.tokens for a in loaded.answer(QUESTIONS)] == [a.tokens for a in live.answer(QUESTIONS)]
    with pytest.raises(ConfigError, match="no auxiliary decoder"):
        loaded.answer(QUESTIONS, explain=True)


def test_export_has_exactly_the_inner_methods_parameters(run, tmp_path):
    unspoken.export(run, tmp_path / "out")
    whole, exported = unspoken.load(run), unspoken.load(tmp_path / "out")
    assert isinstance(exported.method, Coconut)
    inner = whole.method.at_inference
    assert {n: p.shape for n, p in exported.method.named_parameters()} == {n: p.shape for n, p in inner.named_parameters()}
    assert not (tmp_path / "out" / "model" / "method.safetensors").exists()
    assert [a.tokens for a in exported.answer(QUESTIONS)] == [a.tokens for a in whole.answer(QUESTIONS)]
    plain = unspoken.load(run, explain=False)
    assert [a.tokens for a in plain.answer(QUESTIONS)] == [a.tokens for a in whole.answer(QUESTIONS)]


def test_lora_run_saves_merged_weights(make, tmp_path):
    base = train(make({"name": "cot"}), tmp_path / "base").path
    training = Training(
        make(backbone={"path": str(base), "lora": LoraSettings(r=4)}),
        tmp_path / "run",
        Quiet(),
    )
    training.go()
    trained = sum(p.numel() for p in training.trained.values())
    assert trained < sum(p.numel() for p in training.method.parameters())
    live = unspoken.Model(training.method, training.config.speaking)
    loaded = unspoken.load(tmp_path / "run")
    assert [a.tokens for a in loaded.answer(QUESTIONS)] == [a.tokens for a in live.answer(QUESTIONS)]
    torch.testing.assert_close(loaded.think(QUESTIONS).latents_BKD, live.think(QUESTIONS).latents_BKD, rtol=1e-4, atol=1e-5)


def test_truncated_and_foreign_directories(run, make, tmp_path):
    with pytest.raises(RunError, match=r"no run directory: it has no run\.json"):
        unspoken.load(tmp_path)
    broken = tmp_path / "broken"

    shutil.copytree(run, broken)
    (broken / "run.json").write_text('{"id": "x", "conf')
    with pytest.raises(RunError, match=r"run\.json is truncated or broken"):
        unspoken.load(broken)

    for name in ("model.safetensors", "method.safetensors"):
        shutil.rmtree(broken)
        shutil.copytree(run, broken)
        file = broken / "model" / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(RunError, match="truncated"):
            unspoken.load(broken)

    shutil.rmtree(broken)
    shutil.copytree(run, broken)
    shutil.rmtree(broken / "model")
    with pytest.raises(RunError, match=r"unspoken\.json is missing: the run has not reached a validation yet"):
        unspoken.load(broken)

    other = train(make({"name": "cot"}, steps=2), tmp_path / "other").path
    shutil.copytree(other / "model", broken / "model")
    with pytest.raises(RunError, match=r"belongs to another run"):
        unspoken.load(broken)


def test_a_replaced_tokenizer_is_noticed(run, tmp_path):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "data" / "tokenizer" / file, run / "model" / file)
    with pytest.raises(RunError, match="lacks 3 marker tokens of method 'sim_cot'"):
        unspoken.load(run)


def test_out_that_is_no_run_is_refused(make, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="exists and is no run directory"):
        train(make(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_nan_loss_stops_and_keeps_the_last_good_state(make, tmp_path, monkeypatch):
    loss = Training._loss

    def poisoned(self, part, counts):
        report = loss(self, part, counts)
        if self.step == 9:
            report.terms["answer"] = report.terms["answer"] * float("nan")
        return report

    monkeypatch.setattr(Training, "_loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"not finite at step 10 \(answer\), in the batch of .+; the last good state is step 8"
    ):
        train(make(), tmp_path / "run")
    monkeypatch.setattr(Training, "_loss", loss)
    found = RunDir(tmp_path / "run").latest_state()
    assert found is not None
    state, info = found
    assert info["step"] == 8
    assert all(t.isfinite().all() for n, t in state.items() if n.startswith("weights/"))
    assert unspoken.load(tmp_path / "run").answer(QUESTIONS)
    train(make(), tmp_path / "run")  # and it goes on from there


@pytest.mark.parametrize("what", ["save_file", "rename"])
def test_disk_full_while_saving_keeps_what_was_there(make, tmp_path, monkeypatch, what):
    path = train(make(steps=8), tmp_path / "run").path
    before = {f.relative_to(path): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if what == "save_file":
        monkeypatch.setattr(tensors, "save_file", full)
    else:
        monkeypatch.setattr(directory.Path, "replace", full)
    run = RunDir(path)
    with pytest.raises(TrainingError, match=r"cannot write .*No space left on device.*run the same command"):
        run.save_state(9, {"weights/x": torch.ones(3)}, {})
    with pytest.raises(TrainingError, match="No space left"):
        run.save_model(unspoken.load(path).method, 9, None)
    monkeypatch.undo()
    after = {f.relative_to(path): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}
    assert after == before
    assert unspoken.load(path).answer(QUESTIONS)


def test_shared_tensors_are_written_once(tmp_path):
    a = torch.randn(3, 4)
    save_tensors(tmp_path / "x.safetensors", {"a": a, "tied": a, "b": a + 1})
    back = load_tensors(tmp_path / "x.safetensors")
    assert set(back) == {"a", "tied", "b"}
    assert torch.equal(back["tied"], a)
    assert (tmp_path / "x.safetensors").stat().st_size < 600


def test_run_json_says_where_the_run_comes_from(run):
    about = json.loads((run / "run.json").read_text())
    assert set(about["data"]) == {"train", "validation"}
    assert about["provenance"]["torch"] if "torch" in about["provenance"] else about["provenance"]
    assert about["config"]["train"]["seed"] == 0
    assert about["finished"]["steps"] == 12


@pytest.mark.parametrize("embeddings", ["own"])
def test_a_smaller_lm_explains_and_is_kept_in_the_run(make, files, tmp_path, embeddings):
    """The decoder may be another LM with the same tokenizer; the run directory is whole without it."""
    from support.backbones import backbone

    other = tmp_path / "other-lm"
    backbone("gpt2", n_embd=16, n_layer=1).save(other)
    method = {
        "name": "sim_cot",
        "inner": {"name": "coconut", "epochs_per_stage": 0.5, "max_stage": 2},
        "decoder": {"kind": "model", "path": str(other), "embeddings": embeddings},
    }
    training = Training(make(method, steps=6), tmp_path / "run", Quiet())
    training.go()
    live = unspoken.Model(training.method, training.config.speaking)
    shutil.rmtree(other)
    loaded = unspoken.load(tmp_path / "run")
    assert loaded.explain(loaded.think(QUESTIONS)) == live.explain(live.think(QUESTIONS))


def test_a_decoder_with_another_tokenizer_is_refused(make, tmp_path):
    words = make().backbone.tokenizer
    other = tmp_path / "other-lm"
    shutil.copytree("src/unspoken/assets/tiny/model", other)
    method = {
        "name": "sim_cot",
        "inner": {"name": "coconut"},
        "decoder": {"kind": "model", "path": str(other), "embeddings": "own"},
    }
    with pytest.raises(ConfigError, match="another tokenizer than the base model"):
        train(make(method, backbone={"arch": make().backbone.arch, "tokenizer": words}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_missing_from_a_checkpoint_are_not_made_up(run):
    config = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(RunError, match=r"lacks \d+ of the model's weights"):
        unspoken.load(run)


def test_export_leaves_nothing_behind_when_it_fails(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory, "write_model", full)
    with pytest.raises(
        RunError, match=r"cannot write .*out: No space left on device; .*free some space; export again"
    ) as told:
        unspoken.export(run, tmp_path / "out")
    assert "training" not in str(told.value)
    assert ".tmp" not in str(told.value)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_what_a_killed_process_left_is_swept_up(make, run):
    left = run / "state" / ".step-00000099.1.tmp"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    train(make(), run)
    assert not left.exists()


def test_a_decoder_without_steps_to_learn_from_is_refused(make, tmp_path):
    rows = [{"question": f"What are {i} and 1?", "answer": str(i + 1)} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "files", "train": str(tmp_path / "train.jsonl"), "validation_fraction": 0.2}
    config = build(RunConfig, {**dump(make()), "task": task})
    with pytest.raises(DataError, match=r"none of \d training examples has steps"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "warned"),
    [({"name": "cot"}, True), ({"name": "cot", "steps": False}, False),
     ({"name": "coconut", "epochs_per_stage": 1}, True),
     ({"name": "codi"}, True), ({"name": "icot_si"}, True),
     ({"name": "pause"}, False), ({"name": "pause", "steps": True}, True)],
)  # fmt: skip
def test_a_method_that_needs_steps_warns_of_rows_without(make, tmp_path, method, warned, recwarn):
    rows = [{"question": f"What are {i} and 1?", "answer": str(i + 1), "steps": ["so"] * (i < 2)} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "files", "train": str(tmp_path / "train.jsonl")}
    base = dump(make())
    config = build(RunConfig, {**base, "task": task, "method": method, "train": {**base["train"], "validate_limit": 0}})
    Training(config, tmp_path / "run", Quiet())
    told = [str(warning.message) for warning in recwarn if "have no step" in str(warning.message)]
    assert bool(told) == warned
    assert all(line.startswith("6 of 8 training rows have no step (first train-2)") for line in told)
