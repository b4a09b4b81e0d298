"""Step-weighted runs: plain SFT at multiplier 1, one loss however a step is cut, and errors that say what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.backbones import ARCHS
from support.forks import forked, in_two
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.core.config import dump
from unspoken.errors import DataError, TrainingError
from unspoken.evaluation.evaluator import evaluate
from unspoken.exporters.hf_folder import export_hf
from unspoken.methods.step_weighted import StepWeighted
from unspoken.recipes import recipe
from unspoken.runs.directory import export
from unspoken.tasks import make_task
from unspoken.training.loop import train

WEIGHTED: dict[str, Any] = {"name": "step_weighted", "multiplier": 2.0}
METRICS = {"num_tokens", "weighted_tokens", "step_tokens", "token_accuracy", "step_accuracy", "result_accuracy",
           "step_accuracy_by_step"}  # fmt: skip


def metrics(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The tensors of the newest state, by the base model's names."""
    (file,) = sorted(run.glob("**/step-*/**/*.safetensors"))[-1:] or sorted(run.glob("**/*.safetensors"))[-1:]
    tensors = load_file(file)
    return {name.replace("method.", ""): tensor for name, tensor in tensors.items() if not name.startswith("rng/")}


def plain(make: Any, **more: Any) -> dict[str, Any]:
    """A backbone without dropout."""
    return {"arch": {**ARCHS["llama"], **more}, "tokenizer": make().backbone.tokenizer}


def test_multiplier_1_is_plain_sft_bit_for_bit(make, tmp_path):
    """Weights, optimizer and losses of a whole run, dropout included."""
    train(make({"name": "cot"}, micro_batch_size=2), tmp_path / "plain")
    train(make({**WEIGHTED, "multiplier": 1.0}, micro_batch_size=2), tmp_path / "one")
    train(make(WEIGHTED, micro_batch_size=2), tmp_path / "two")
    want, got, other = (weights(tmp_path / name) for name in ("plain", "one", "two"))
    assert want.keys() == got.keys()
    assert len(want) > 10
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert any(not torch.equal(want[name], other[name]) for name in want)
    losses = [[(row["loss"], row["grad_norm"]) for row in metrics(tmp_path / name)] for name in ("plain", "one")]
    assert losses[0] == losses[1]
    assert all(row["metrics"]["weighted_tokens"] == row["metrics"]["num_tokens"] for row in metrics(tmp_path / "one"))


def test_micro_batches_do_not_change_a_step(make, tmp_path):
    """Rows differ in the share of their tokens that is weighted, so a mean of means would."""
    for name, size in (("whole", None), ("parts", 1)):
        train(make(WEIGHTED, plain(make), steps=6, micro_batch_size=size), tmp_path / name)
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    for one, two in zip(whole, parts, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
        assert one["metrics"]["num_tokens"] == two["metrics"]["num_tokens"]
        assert one["metrics"]["weighted_tokens"] == two["metrics"]["weighted_tokens"]


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(make, tmp_path):
    config = make(WEIGHTED, plain(make), steps=5, batch_size=5, micro_batch_size=2)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(dump(config)))
    train(config, tmp_path / "one")
    done = in_two("train", file, "--out", tmp_path / "two", "--quiet", env={"ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        for name in ("num_tokens", "weighted_tokens", "step_tokens"):
            assert a["metrics"][name] == b["metrics"][name]
        # counted over both: a rate of one process's rows alone would differ
        assert a["metrics"]["step_accuracy"] == pytest.approx(b["metrics"]["step_accuracy"], abs=0.02)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in (n for n in a if n.startswith("weights/")):
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_what_is_logged(make, tmp_path):
    """Loss, accuracies, counts; and every N steps the validation split: answers that are right, and the same."""
    train(make(WEIGHTED, plain(make), steps=8, validate_every=4), tmp_path / "run")
    rows, validations = metrics(tmp_path / "run"), metrics(tmp_path / "run", "validation")
    for row in rows:
        told = row["metrics"]
        assert set(told) == METRICS
        assert told["weighted_tokens"] == told["num_tokens"] + told["step_tokens"]
        assert 0 < told["step_tokens"] < told["num_tokens"]
        assert len(told["step_accuracy_by_step"]) == 2
        assert all(0 <= told[name] <= 1 for name in ("step_accuracy", "result_accuracy", "token_accuracy"))
        assert {"loss", "lr", "step"} <= set(row)
    assert rows[-1]["metrics"]["step_accuracy"] > rows[0]["metrics"]["step_accuracy"]
    assert [row["step"] for row in validations] == [4, 8]
    for row in validations:
        assert 0 <= row["accuracy"] <= 1
        assert set(row["metrics"]) == METRICS
    every = metrics_of_steps(rows)
    train(make(WEIGHTED, plain(make), steps=8, validate_every=4, log_every=4), tmp_path / "seldom")
    assert metrics_of_steps(metrics(tmp_path / "seldom")) == every  # sums over the steps between two rows


def metrics_of_steps(rows: list[dict[str, Any]]) -> float:
    return sum(row["metrics"]["weighted_tokens"] for row in rows)


def test_a_run_is_killed_and_goes_on_evaluates_exports_and_reloads(make, tmp_path):
    config = make(WEIGHTED, plain(make), steps=8)
    whole = train(config, tmp_path / "whole")
    script = "import sys,os,json;from unspoken.training import loop;from unspoken.recipes import recipe\n" \
             "old=loop.Training._train_step\n" \
             "def step(self):\n    old(self)\n    if self.step==6: os._exit(9)\n" \
             "loop.Training._train_step=step\nloop.train(recipe(sys.argv[1]), sys.argv[2])"  # fmt: skip
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(dump(config)))
    assert forked(file, tmp_path / "killed", script=script).returncode == 9
    train(config, tmp_path / "killed")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)
    strip = [[{k: v for k, v in r.items() if "second" not in k} for r in metrics(tmp_path / n)] for n in ("whole", "killed")]
    assert strip[0] == strip[1]

    report = evaluate(unspoken.load(whole.path), make_task(config.task), "test")
    assert report.accuracy.n == 6
    questions = [e.question for e in make_task(config.task).examples("test")]
    want = [a.text for a in unspoken.load(whole.path).answer(questions)]
    export(whole.path, tmp_path / "exported")
    exported = unspoken.load(tmp_path / "exported")
    assert [a.text for a in exported.answer(questions)] == want
    assert exported.method.config.name == "cot"  # weights only: nothing of the weighting is left

    export_hf(whole.path, tmp_path / "hf")
    assert not (tmp_path / "hf" / "custom_generate").exists()
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    words = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for question, text in zip(questions, want, strict=True):
        ids = words(question + "\n", return_tensors="pt").input_ids
        said = model.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
        assert words.decode(said, skip_special_tokens=True) == text


@pytest.mark.parametrize("method", [WEIGHTED, {"name": "sim_cot", "decoder": {"kind": "layers"}, "inner": {
    **WEIGHTED, "inner": {"name": "coconut", "curriculum": "progressive", "first_stage": 0, "epochs_per_stage": 0.5,
                          "max_stage": 2}}}], ids=["cot", "latents"])  # fmt: skip
def test_nanochat_learns(make, tmp_path, method):
    """A random model of transformers' nanochat architecture, with weighted words and with latents beside them."""
    backbone = {"arch": ARCHS["nanochat"], "tokenizer": make().backbone.tokenizer}
    run = train(make(method, backbone, steps=30, lr=1e-2), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert rows[-1]["terms"]["answer"] < 0.7 * rows[0]["terms"]["answer"]
    assert rows[0]["metrics"]["step_accuracy"] is not None
    model: Any = unspoken.load(run.path)
    assert model.method.backbone.lm.config.model_type == "nanochat"
    alone = [model.answer([q])[0].tokens for q in ("Ann has 3 pens.", "How many?")]
    assert [a.tokens for a in model.answer(["Ann has 3 pens.", "How many?"])] == alone
    export_hf(run.path, tmp_path / "hf")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "hf").config.model_type == "nanochat"


def test_latents_that_are_supervised_and_text_that_is_weighted(make, tmp_path):
    """As paper-authentic as the fork wished to be: latents, an auxiliary decoder, and both losses, on a curriculum."""
    inner = {"name": "coconut", "first_stage": 0, "epochs_per_stage": 1, "max_stage": 2}
    method = {"name": "sim_cot", "decoder": {"kind": "layers"}, "inner": {**WEIGHTED, "inner": inner}}
    run = train(make(method, plain(make), steps=24, epochs=None), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert {"answer", "explain"} == set(rows[-1]["terms"])
    by_stage = {row["stage"]: row["metrics"] for row in rows}
    assert by_stage[0]["step_tokens"] > by_stage[1]["step_tokens"] > by_stage[2]["step_tokens"] == 0
    assert by_stage[1]["step_accuracy_by_step"][0] is None  # step 1 has become latents
    assert by_stage[2]["step_accuracy"] is None
    answer = unspoken.load(run.path, explain=True).answer(["Ann has 3 pens."], explain=True)[0]
    assert answer.latents == 4
    assert answer.thoughts is not None
    export(run.path, tmp_path / "out")
    assert unspoken.load(tmp_path / "out").method.config.name == "coconut"


OTHER_DATA: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "MATH": ({"style": "math", "steps": "lines", "answer": "text"}, {"segmenter": "latex"}, lambda k: {
        "problem": f"What is ${k} + 2$?", "solution": f"We add.\nSo ${k} + 2 = {k + 2}$.\nIt is $\\boxed{{{k + 2}}}$."}),
    "HotpotQA": ({"style": "hotpotqa", "answer": "text"}, {"segmenter": "steps"}, lambda k: {
        "question": f"Is Ann{k} older than Bob?", "answer": "yes", "supporting_facts": [[f"Ann{k}", 1], ["Bob", 0]],
        "context": [[f"Ann{k}", ["Ann sings.", f"Ann is {k + 9}."]], ["Bob", ["Bob is 7."]], ["Eve", ["Eve swims."]]]}),
    "sentences": ({"steps": "lines"}, {"segmenter": "sentences", "mode": "window"}, lambda k: {
        "question": f"{k}?", "cot": f"First {k} is given. Then add 1.", "answer": str(k + 1)}),
    "numbered": ({"steps": "lines"}, {"segmenter": "numbered"}, lambda k: {
        "question": f"{k}?", "cot": f"Let us see.\nStep 1: take {k}.\nStep 2: {k} + 1 = {k + 1}", "answer": str(k + 1)}),
    "tool calls": ({"style": "chat", "steps": "lines"}, {"segmenter": "tool_calls"}, lambda k: {"messages": [
        {"role": "user", "content": f"{k}?"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "We add: "}, {"type": "python", "text": f"{k}+1"},
            {"type": "python_output", "text": str(k + 1)}, {"type": "text", "text": f"\n#### {k + 1}"}]}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_DATA)
def test_other_data_train_with_steps_of_their_own(make, tmp_path, name):
    more, method, row = OTHER_DATA[name]
    config = make({**WEIGHTED, **method}, plain(make), steps=2, validate_limit=2)
    for first, split in ((1, "train"), (101, "validation"), (201, "test")):
        text = "".join(json.dumps(row(k)) + "\n" for k in range(first, first + 12))
        Path(getattr(config.task, split)).write_text(text)
    run = train(replace(config, task=replace(config.task, **more)), tmp_path / "run")
    told = metrics(run.path)[0]["metrics"]
    assert 0 < told["step_tokens"] < told["num_tokens"] < told["weighted_tokens"]
    assert told["step_accuracy"] is not None


def test_steps_that_are_found_by_a_learned_rule(make, tmp_path):
    """`learn-steps` on one task; its rule then finds steps in chains without marks, and a run needs its file."""
    config = make(WEIGHTED)
    rule = tmp_path / "steps.json"
    overrides = [f"train={config.task.train}"]
    done = CliRunner().invoke(app, ["learn-steps", "files", *overrides, "--out", str(rule)])
    assert done.exit_code == 0, done.output
    learned = make({**WEIGHTED, "segmenter": f"learned:{rule}"}, plain(make), steps=2)
    marked = make(WEIGHTED, plain(make), steps=2)
    train(learned, tmp_path / "learned")
    train(marked, tmp_path / "marked")
    counts = [metrics(tmp_path / name)[0]["metrics"]["step_tokens"] for name in ("learned", "marked")]
    assert counts[0] == counts[1] > 0


# what the fork's README lists as troubles, as errors that say what to do


def natural(make: Any, folder: Path) -> Any:
    """A config whose data have no <<...>>."""
    config = make(WEIGHTED)
    for split in ("train", "validation", "test"):
        path = Path(getattr(config.task, split))
        path.write_text(path.read_text().replace("<<", "").replace(">>", ""))
    return config


def test_step_accuracy_is_always_0_or_weighted_equals_num_tokens(make, tmp_path):
    """Data without steps are refused before anything is written."""
    with pytest.raises(DataError, match=r"segmenter 'markers' finds none .* rules that find some: lines.*method\.segmenter"):
        train(natural(make, tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    changed = make({**WEIGHTED, "segmenter": "equations"}, steps=2)
    train(changed, tmp_path / "run")  # the advice works
    assert metrics(tmp_path / "run")[0]["metrics"]["step_tokens"] > 0


def test_the_batch_without_steps_is_named_wherever_it_stands(make, tmp_path):
    config = make(WEIGHTED, batch_size=1, length_window=1, steps=24)
    path = Path(config.task.train)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[17]["steps"] = ["she buys some"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"no token of a batch of 1 rows \(train-17, ...\)"):
        train(config, tmp_path / "run")


def test_loss_is_unstable(make, tmp_path, monkeypatch):
    old = StepWeighted.forward

    def broken(self: Any, batch: Any, counts: Any) -> Any:
        report = old(self, batch, counts)
        report.terms["answer"] = report.terms["answer"] * float("nan")
        return report

    monkeypatch.setattr(StepWeighted, "forward", broken)
    with pytest.raises(TrainingError, match=r"loss is not finite at step 1 .*; lower method\.multiplier, now 2, to 1\.5;"):
        train(make(WEIGHTED), tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "smaller"), [({}, "micro_batch_size below 4"), ({"micro_batch_tokens": 10**6}, "micro_batch_tokens below")]
)
def test_out_of_memory(more, smaller, make, tmp_path, monkeypatch):
    def full(self: Any, batch: Any, counts: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(StepWeighted, "forward", full)
    message = rf"out of memory at step 1, in a pass of 4 rows of up to \d+ positions; set train\.{smaller}"
    with pytest.raises(TrainingError, match=message):
        train(make(WEIGHTED, **more), tmp_path / "run")


# its flags

FLAGS = {
    "--step_weight_multiplier=3.0": ("method.multiplier=3.0", lambda c: c.method.multiplier == 3.0),
    "--track_step_accuracy=False": ("method.track=false", lambda c: c.method.track is False),
    "--source=base": ("backbone.path=base", lambda c: c.backbone.path == "base"),
    "--num_epochs=3": ("train.epochs=3", lambda c: c.train.epochs == 3),
    "--device_batch_size=2": ("train.micro_batch_size=2", lambda c: c.train.micro_batch_size == 2),
    "--target_examples_per_step=16": ("train.batch_size=16", lambda c: c.train.batch_size == 16),
    "--unembedding_lr=1e-4": ("train.lr=1e-4", lambda c: c.train.lr == 1e-4),
    "--weight_decay=0.1": ("train.weight_decay=0.1", lambda c: c.train.weight_decay == 0.1),
    "--dtype=float32": ("train.precision=fp32", lambda c: c.train.precision == "fp32"),
    "--eval_every=50": ("train.validate_every=50", lambda c: c.train.validate_every == 50),
    "--eval_metrics_max_problems=64": ("train.validate_limit=64", lambda c: c.train.validate_limit == 64),
    "--run=simcot-exp1": ("train.tracker=wandb", lambda c: c.train.tracker == "wandb"),
}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "step_weighted.md"


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_a_field(flag: str) -> None:
    override, holds = FLAGS[flag]
    assert not holds(recipe("gsm8k/step_weighted"))
    assert holds(recipe("gsm8k/step_weighted", [override]))
    name, field = flag.split("=")[0], override.split("=")[0]
    assert any(f"`{name}`" in line and f"`{field}`" in line for line in PAGE.read_text().splitlines()), (name, field)


def test_ten_iterations_are_ten_updates(make, tmp_path):
    """`--num_iterations=10 --device_batch_size=2`, through the command; the fork makes 9."""
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(dump(make(WEIGHTED))))
    overrides = ["train.steps=10", "train.micro_batch_size=2"]
    done = CliRunner().invoke(app, ["train", str(file), *overrides, "--out", str(tmp_path / "run"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert [row["step"] for row in metrics(tmp_path / "run")] == list(range(1, 11))
