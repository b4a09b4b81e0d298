"""examples/plugin: a method, a task and a recipe of somebody else's, with a token, an attachment and a language model of
their own. It passes the contract, LoRA included, and does all that ours do, with no line of unspoken written for it."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.cases import Case, built
from safetensors.torch import load_file
from support import backbones
from support.matrix import matrix_tests
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.core.config import dump, lookup
from unspoken.errors import ConfigError
from unspoken.exporters.hf_folder import export_hf
from unspoken.methods import method_config
from unspoken.recipes import recipe
from unspoken.runs.directory import RunDir, export
from unspoken.training.loop import Training, train

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin"
sys.path.insert(0, str(PLUGIN / "src"))

ECHO, HOPS = "unspoken_echo.method:Echo", "unspoken_echo.recipes:hops"


def echo(**more: Any) -> dict[str, Any]:
    reader = {**backbones.settings("gpt2", n_embd=24), "tokenizer": "builtin:tiny-tokenizer"}
    return {"name": ECHO, "reader": reader, "latents_per_step": 2, "marker_init": "pens", **more}


CELLS = {
    "echo": (Case(echo()), "llama"),
    "echo gpt2": (Case(echo()), "gpt2"),
    "echo lora": (Case(echo(), lora=True), "qwen3"),
    "echo without a reader": (Case(echo(reader=None)), "llama"),
    "sim_cot echo lora": (Case({"name": "sim_cot", "inner": echo(reader=None), "max_step_tokens": 4}, lora=True), "llama"),
}


@pytest.fixture(scope="module", params=CELLS)
def cell(request: pytest.FixtureRequest) -> tuple[Case, Any]:
    case, family = CELLS[request.param]
    return case, built(case.method, family, case.lora)


OF_THE_MATRIX = matrix_tests()
globals().update(OF_THE_MATRIX)


def test_the_whole_contract_is_run():
    assert len(OF_THE_MATRIX) >= 13
    config = method_config(echo())
    assert method_config(json.loads(json.dumps(dump(config)))) == config


def test_a_new_token_that_a_method_does_not_speak_of_is_refused(monkeypatch):
    """With LoRA its row would stay as it is, and nothing would say so."""
    monkeypatch.setattr("unspoken_echo.method.Echo.new_tokens", lambda self: ())
    with pytest.raises(ConfigError, match=r"method 'unspoken_echo.method:Echo' has added '<\|echo\|>' to the base model"):
        built(echo(), "llama", lora=True)


SHORT = ["train.epochs=null", "train.steps=8", "train.batch_size=4", "train.validate_limit=2", "train.log_every=2",
         "task.train_size=40", "task.validation_size=4", "task.test_size=6", "train.encodings=null"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by the command line."""
    out = tmp_path_factory.mktemp("echo") / "run"
    done = CliRunner().invoke(app, ["train", HOPS, *SHORT, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_it_trains_and_is_kept_under_its_name(run):
    config = json.loads((run / "run.json").read_text())["config"]
    assert (config["method"]["name"], config["task"]["name"]) == (ECHO, "unspoken_echo.task:Hops")
    assert (run / "model" / "reader" / "config.json").is_file()  # the language model beside it, by its own name
    own = json.loads((run / "model" / "unspoken.json").read_text())["own"]
    assert own == ["reader.enter.bias", "reader.enter.weight"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"answer", "echo"} <= set(next(row for row in rows if row["kind"] == "train")["terms"])


def test_it_goes_on_as_if_it_had_not_been_killed(run, tmp_path, monkeypatch):
    step = Training._train_step

    def dying(self):
        if self.step == 5:
            raise KeyboardInterrupt
        step(self)

    config = recipe(HOPS, [*SHORT, "train.save_every=3"])
    monkeypatch.setattr(Training, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    monkeypatch.setattr(Training, "_train_step", step)
    train(config, tmp_path / "run")
    whole, again = (load_file(next((r / "state").glob("step-*")) / "state.safetensors") for r in (run, tmp_path / "run"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole if name.startswith("weights/"))


def test_it_is_evaluated_and_explains(run):
    done = CliRunner().invoke(app, ["eval", str(run), "--explain", "--no-controls"])
    assert done.exit_code == 0, done.output
    (file,) = run.glob("eval-unspoken_echo.task-Hops-test*.json")
    report = json.loads(file.read_text())
    assert len(report["records"]) == 6
    for record in report["records"]:
        assert len(record["thoughts"]) == 3
        assert record["expected"] == record["steps"]
    asked = CliRunner().invoke(app, ["ask", str(run), "a>b. c>d. b>e. From a:", "--show-thoughts"])
    assert asked.exit_code == 0, asked.output


def test_it_is_exported_without_its_reader(run, tmp_path):
    """As a run directory and as a Hugging Face folder; both answer as the run does."""
    question = [example.question for example in unspoken.make_task("unspoken_echo.task:Hops").examples("test")[:3]]
    whole = unspoken.load(run)
    want = [answer.text for answer in whole.answer(question)]
    export(run, tmp_path / "small")
    assert not (tmp_path / "small" / "model" / "reader").exists()
    assert not (tmp_path / "small" / "model" / "method.safetensors").exists()
    small = unspoken.load(tmp_path / "small")
    assert (whole.explains, small.explains) == (True, False)
    assert [answer.text for answer in small.answer(question)] == want
    export_hf(run, tmp_path / "hf")
    thoughts = json.loads((tmp_path / "hf" / "custom_generate" / "thoughts.json").read_text())
    assert (thoughts["thoughts"], thoughts["num_latents"], len(thoughts["before"])) == ("recurrent", 3, 1)


def test_without_its_package_a_run_says_what_is_missing(run, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("unspoken_echo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not place.startswith(str(PLUGIN))])
    with pytest.raises(ConfigError, match=r"module 'unspoken_echo\.method' is not installed; install the package") as caught:
        RunDir(run).config()
    assert "\n" not in str(caught.value)


def test_its_short_names_are_those_of_its_package():
    points = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]["unspoken.plugins"]
    assert set(points) == {"method.echo", "task.hops", "recipe.echo/hops"}
    for name, place in points.items():
        assert callable(lookup({}, place, name.partition(".")[0]))
