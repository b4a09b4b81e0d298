"""The command line as a user meets it: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.command_line import FAST, START, Done, refused, unspoken

from unspoken.cli import PANELS
from unspoken.core.config import dump
from unspoken.methods import METHODS
from unspoken.recipes import RECIPES, recipe
from unspoken.tasks import TASKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    done = unspoken("train", "tiny/sim_cot", *FAST, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_help_needs_no_torch():
    code = (
        "import sys; sys.argv = ['unspoken', '--help']\n"
        "from unspoken.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("quickstart", "train", "eval", "ask", "compare", "data", "list"):
        assert command in done.stdout


def test_exit_code_of_the_real_command():
    done = subprocess.run(
        [sys.executable, "-m", "unspoken", "train", "tiny/simcot"], capture_output=True, text=True, check=False
    )
    refused(Done(done.returncode, done.stdout, done.stderr), "unknown recipe 'tiny/simcot'")


def test_list_names_what_there_is():
    """A line each, which says more than the name."""
    lines = {line.split()[0]: line.split()[1:] for line in unspoken("list").stdout.splitlines() if line.startswith("  ")}
    models = {name for name in lines if name.startswith("builtin:")}
    assert set(lines) - models == {*RECIPES, *METHODS, *TASKS}
    assert START in models
    assert all(len(words) >= 2 for words in lines.values()), lines


def test_a_run_per_training_seed(tmp_path):
    done = unspoken("train", "tiny/codi", *FAST, "--seeds", "2", "--out", tmp_path / "codi", "--quiet")
    assert done.returncode == 0, done.stderr
    runs = [tmp_path / "codi-seed-0", tmp_path / "codi-seed-1"]
    assert done.stdout.split() == [str(run) for run in runs]
    assert f"unspoken compare --group {runs[0]} {runs[1]}" in done.stderr
    assert [json.loads((run / "run.json").read_text())["config"]["train"]["seed"] for run in runs] == [0, 1]
    for words in (("--seeds", "0"), ("--seeds", "a"), ("--seeds", "1,1"), ("--seeds", "99999999")):
        refused(unspoken("train", "tiny/codi", *FAST, *words), "--seeds")
    refused(unspoken("train", "tiny/codi", "train.seed=3", "--seeds", "2"), "--seeds sets train.seed")
    refused(unspoken("train", "tiny/codi", "train.steps=0", "--seeds", "2", "--out", tmp_path / "none"), "steps")
    assert not list(tmp_path.glob("none*"))


def test_list_takes_a_kind_and_words():
    found = [line.split()[0] for line in unspoken("list", "recipes", "coconut").stdout.splitlines() if line.startswith("  ")]
    assert "tiny/coconut" in found
    assert "tiny/softcot" not in found
    assert not {*METHODS, *TASKS} & set(found)
    assert "builtin:tiny" in unspoken("list", "models").stdout
    refused(unspoken("list", "recipes", "nonsense"), "no recipes with 'nonsense'")


def test_show_prints_a_recipe_that_train_takes(tmp_path, run):
    shown = unspoken("show", "tiny/sim_cot", "train.lr=0.5")
    assert json.loads(shown.stdout) == dump(recipe("tiny/sim_cot", ["train.lr=0.5"]))
    (tmp_path / "my.json").write_text(shown.stdout)
    assert recipe(str(tmp_path / "my.json")) == recipe("tiny/sim_cot", ["train.lr=0.5"])
    (tmp_path / "my.json").write_text("\ufeff" + shown.stdout)  # as editors on Windows begin a file
    assert recipe(str(tmp_path / "my.json")) == recipe("tiny/sim_cot", ["train.lr=0.5"])
    (tmp_path / "my.json").write_text("[" * 100_000)
    refused(unspoken("show", tmp_path / "my.json"), "cannot read recipe file", "brackets nested too deeply")
    assert json.loads(unspoken("show", run).stdout) == json.loads((run / "run.json").read_text())["config"]
    refused(unspoken("show", "tiny/simcot"), "did you mean 'tiny/sim_cot'", "see `unspoken list`")


def test_version_and_groups():
    assert unspoken("--version").stdout.split() == ["unspoken", version("unspoken")]
    said = unspoken("--help").stdout
    assert all(heading in said for heading in PANELS)


def test_the_shell_completes_recipes_and_runs(run, monkeypatch):
    """As bash asks for it: the words so far, and which of them is being typed."""
    monkeypatch.chdir(run.parent)
    code = "import sys; sys.argv = ['unspoken']; from unspoken.cli import app; app(prog_name='unspoken')"
    for words, found in (
        ("unspoken train tiny/sim_c", "tiny/sim_cot_codi"),
        ("unspoken ask ru", "run"),
        ("unspoken ev", "eval"),
    ):
        asked = {"_UNSPOKEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        assert found in done.stdout.split(), (words, done.stdout, done.stderr)


def test_train_eval_ask_compare_export(run, tmp_path):
    done = unspoken("eval", run, "--limit", "12", "--explain", "--out", run / "eval-tiny-test.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((run / "eval-tiny-test.json").read_text())
    assert len(report["records"]) == 12
    assert len(report["records"][0]["thoughts"]) == 4

    question = "Ann has 7 figs. She finds 5. How many figs has Ann?"
    asked = unspoken("ask", run, question, "--show-thoughts")
    assert asked.returncode == 0, asked.stderr
    assert [line.split(":")[0] for line in asked.stdout.splitlines()[:4]] == [f"thought {k}" for k in (1, 2, 3, 4)]
    plain = json.loads(unspoken("ask", run, question, "--json").stdout)
    assert plain["latents"] == 4
    assert plain["passes"] == 4 + len(plain["tokens"])
    assert plain["text"] in asked.stdout

    exported = tmp_path / "exported"
    assert unspoken("export", run, exported).returncode == 0
    assert json.loads(unspoken("ask", exported, question, "--json").stdout)["tokens"] == plain["tokens"]
    refused(unspoken("ask", exported, question, "--show-thoughts"), "no auxiliary decoder")

    assert unspoken("eval", exported, "--limit", "12").returncode == 0
    part = exported / "eval-tiny-test-limit-12.json"  # a part of the split does not pass for the whole
    refused(unspoken("compare", exported), "no report", "limit-12.json")
    compared = unspoken("compare", run, part, "--out", tmp_path / "table.md")
    assert compared.returncode == 0, compared.stderr
    assert "| exported |" in (tmp_path / "table.md").read_text()


SHORT = ["train.steps=6", *FAST[1:], "train.validate_every=3", "train.save_every=3"]


@pytest.mark.parametrize(
    ("recipe", "more", "question"),
    [
        ("tiny/pause", [], "Ann has 7 figs. She finds 5. How many figs has Ann?"),
        # 2 steps an epoch: 2 tokens each from step 2 on, and the whole chain from step 4 on
        ("tiny/icot_si", ["method.remove_per_epoch=2", "method.remove_all_beyond=4", "method.restart_optimizer=true"],
         "Ann has 7 figs. She finds 5. How many figs has Ann?"),
        ("multiplication/icot_si_4",
         ["task.source=generated", "task.test_size=12", f"backbone.path={START}", "method.remove_per_epoch=99",
          "train.epochs=null", "train.batch_size=8", "speaking.max_new_tokens=40"], "5 6 3 2 * 7 4 3 4"),
    ],
)  # fmt: skip
def test_token_methods_train_eval_export_and_answer_alike(tmp_path, recipe, more, question):
    """A run, its export and its Hugging Face folder; and the same command again, on a run that has ended."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = tmp_path / "run"
    words = ("train", recipe, *SHORT, *more, "--out", run)
    done = unspoken(*words)
    assert done.returncode == 0, done.stderr
    metrics = (run / "metrics.jsonl").read_text()
    assert unspoken(*words).returncode == 0
    assert (run / "metrics.jsonl").read_text() == metrics
    assert unspoken("eval", run, "--limit", "12").returncode == 0
    said = json.loads(unspoken("ask", run, question, "--json").stdout)
    assert unspoken("export", run, tmp_path / "inner").returncode == 0
    assert json.loads(unspoken("ask", tmp_path / "inner", question, "--json").stdout)["tokens"] == said["tokens"]
    folder = tmp_path / "hf"
    done = unspoken("export", run, folder, "--format", "hf")
    assert done.returncode == 0, done.stderr
    assert (folder / "custom_generate" / "generate.py").is_file()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                          return_dict=True, return_tensors="pt")  # fmt: skip
    got = model.generate(**asked)[0, asked["input_ids"].shape[1] :].tolist()
    assert got == said["tokens"]


def test_a_method_without_thoughts_says_so(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = unspoken("train", "tiny/icot_si", *SHORT, "--out", tmp_path / "run")
    assert done.returncode == 0
    assert "warning: training ends in stage 6 of the curriculum, before its last stage 32" in done.stderr
    refused(unspoken("ask", tmp_path / "run", "How many?", "--latents", "3"), "method 'icot_si' thinks without latents")


def test_builtin_model_reasons_in_words():
    said = unspoken("ask", START, "Ann has 7 figs. She finds 5. She doubles her figs. How many figs has Ann?")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == ["<<7+5=12>>", "<<12*2=24>>", "### 24"]


def test_data_writes_what_train_reads(tmp_path):
    for split, n in (("train", 30), ("validation", 6), ("test", 6)):
        done = unspoken("data", "tiny", f"{split}_size={n}", "--split", split, "--out", tmp_path / f"{split}.jsonl")
        assert done.returncode == 0, done.stderr
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps(
            {
                "backbone": {"path": START},
                "method": {"name": "cot"},
                "task": {"name": "files", "train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
                "train": {"steps": 2, "validate_limit": 2},
            }
        )
    )
    done = unspoken("train", "recipe.json", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert unspoken("eval", "run", cwd=tmp_path).returncode == 0


ROW = {"question": "Ann has 3 pens and buys 4. How many?", "steps": ["<<3+4=7>>"], "answer": "7"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(ROW) + "\n" + json.dumps({k: v for k, v in ROW.items() if k != "answer"}), ("bad.jsonl:2", "answer")),
        (json.dumps({**ROW, "steps": [3, 4]}), ("bad.jsonl:1", "steps")),
        ("", ("bad.jsonl", "empty")),
        ('{"question": "x', ("bad.jsonl:1", "JSON")),
    ],
)
def test_bad_data_names_file_and_line(tmp_path, text, said):
    (tmp_path / "bad.jsonl").write_text(text)
    (tmp_path / "good.jsonl").write_text(json.dumps({**ROW, "question": "Bob has 1 pen and buys 6. How many?"}))
    task = {"name": "files", "train": "bad.jsonl", "validation": "good.jsonl"}
    config = {"backbone": {"path": START}, "method": {"name": "cot"}, "task": task, "train": {"steps": 1}}
    (tmp_path / "recipe.json").write_text(json.dumps(config))
    refused(unspoken("train", "recipe.json", "--out", "run", cwd=tmp_path), *said)
    assert not (tmp_path / "run").exists()
    refused(unspoken("data", "files", "train=bad.jsonl", cwd=tmp_path), *said)


def test_too_long_a_question_is_named(run, tmp_path):
    long = " ".join(["Ann has 7 figs."] * 200)
    refused(unspoken("ask", run, long), "the question is too long", "context is 512")
    (tmp_path / "long.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "question": long, "id": "my-long-row"}))
    (tmp_path / "good.jsonl").write_text(json.dumps({**ROW, "question": "Bob has 1 pen and buys 6. How many?"}))
    task = {"name": "files", "train": "long.jsonl", "validation": "good.jsonl"}
    config = {"backbone": {"path": START}, "method": {"name": "cot"}, "task": task, "train": {"steps": 1}}
    (tmp_path / "recipe.json").write_text(json.dumps(config))
    refused(unspoken("train", "recipe.json", "--out", "run", cwd=tmp_path), "too long", "context is 512")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "tiny/simcot"], ("unknown recipe 'tiny/simcot'", "did you mean 'tiny/sim_cot'")),
        (["train", "tiny/cot", "train.lrr=1"], ("no field 'lrr' in train", "did you mean 'lr'")),
        (["train", "tiny/cot", "train.lr=fast"], ("train.lr", "number", '"fast"')),
        (["train", "tiny/cot", "train.steps=-4"], ("steps must be positive",)),
        (["train", "tiny/cot", "method.name=cocnut"], ("unknown method 'cocnut'", "did you mean 'coconut'")),
        (["train", "tiny/cot", "train.select_split=test"], ("select_split must be 'validation'", "test split")),
        (["train", "tiny/cot", "train.seed=-1"], ("seed must be 0 or more",)),
        (["train", "tiny/cot", "train.lr=NaN"], ("lr must be a finite number",)),
        (["train", "tiny/cot", "train.steps=true"], ("'steps' of TrainConfig must not be true", "true")),
        (["train", "tiny/sim_cot", "method.inner.latents_per_step=true"], ("latents_per_step", "true")),
        (["train", "tiny/sim_cot", "method.decoder.kind=layers", "method.decoder.layers=9"], ("the base model has 3",)),
        (["train", "tiny/cot", "backbone.lora.r=8"], ("backbone.lora is not set", "as a whole")),
        (["train", "tiny/cot", 'backbone.arch.hidden_size="abc"'], ("cannot load a model",)),
        (["train", "tiny/no_cot", 'backbone.lora={"r": 0}'], ("LoRA cannot be added",)),
        (["data", "tiny", "train_size=0"], ("the train split of tiny is empty",)),
        (["ask", "builtin:tiny", ""], ("must be a text that is not empty",)),
        (["ask", "builtin:tiny", "How many?", "--latents", "3"], ("takes 0 latents",)),
        (["train", "tiny/cot", "train.lr"], ("needs the form field.subfield=value",)),
        (["train", "tiny/no_cot", "backbone.path=builtin:tin"], ("no built-in model",)),
        (["data", "tinny"], ("unknown task 'tinny'", "did you mean 'tiny'")),
        (["eval", START, "--split", "tset"], ("unknown split 'tset'",)),
        (["eval", "."], ("no run directory", "run.json")),
        (["ask", "missing", "x"], ("no such folder",)),
        (["compare", "."], ("no reports of a whole", "unspoken eval")),
    ],
)
def test_wrong_words_are_one_clear_line(tmp_path, words, said):
    refused(unspoken(*words, "--out", "run", cwd=tmp_path) if words[0] == "train" else unspoken(*words, cwd=tmp_path), *said)
    assert not (tmp_path / "run").exists()


def test_task_file_used_for_selection_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "b.jsonl").write_text(json.dumps({**ROW, "question": "Bob has 1 pen and buys 6. How many?"}))
    refused(unspoken("data", "files", "train=a.jsonl", "validation=b.jsonl", "test=b.jsonl", cwd=tmp_path), "test")


def test_a_broken_run_is_refused(run, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    weights = broken / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(unspoken("ask", broken, "How many?"), "truncated")
