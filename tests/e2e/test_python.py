"""What scripts and notebooks call: names, dicts and defaults; what is shown, and how things look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import unspoken
from unspoken import api
from unspoken.core.config import dump
from unspoken.core.loop.sampling import SamplingParams
from unspoken.errors import ConfigError, RunError
from unspoken.methods import make_method
from unspoken.runs.directory import RunDir
from unspoken.runs.model import Model
from unspoken.training import loop
from unspoken.training.progress import Live, Quiet

QUESTION = ["Ann has 7 figs. She finds 5. How many figs has Ann?"]


@pytest.fixture
def run(make, tmp_path: Path) -> Path:
    return loop.train(make(steps=2), tmp_path / "run").path


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api, "in_notebook", lambda: True)


def test_completion_offers_what_there_is_and_nothing_else():
    assert {"load", "train", "evaluate", "load_baseline", "Model"} <= set(dir(unspoken))
    assert not {"annotations", "importlib", "TYPE_CHECKING", "_WHERE"} & set(dir(unspoken))
    assert all(getattr(unspoken, name) is not None for name in dir(unspoken))
    code = "import sys, unspoken; dir(unspoken); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_train_takes_a_recipe_a_dict_or_a_config(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[Any, str, Any]] = []
    monkeypatch.setattr(
        loop, "train", lambda config, out, reporter, callbacks: told.append((config, str(out), reporter)) or RunDir(out)
    )
    config = make()
    unspoken.train("tiny/coconut", None, "train.steps=7", "train.epochs=null")
    unspoken.train(dump(config), "a", "train.lr=0.5")
    unspoken.train(config, tmp_path / "b")
    (first, out, quiet), (second, _, _), (third, _, _) = told
    assert (first.method.name, first.train.steps, Path(out), quiet) == ("coconut", 7, Path("runs/tiny-coconut"), None)
    assert (second.train.lr, second.method) == (0.5, config.method)
    assert third is config
    with pytest.raises(ConfigError, match="coconut"):
        unspoken.train("tiny/cocnut")
    with pytest.raises(ConfigError, match="needs a place"):
        unspoken.train(config)
    with pytest.raises(ConfigError, match="mapping of fields, got int"):
        unspoken.train(3, "c")  # pyright: ignore[reportArgumentType]


def test_a_training_shows_itself_in_notebooks_and_where_asked(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook
):
    told: list[Any] = []
    monkeypatch.setattr(loop, "train", lambda config, out, reporter, callbacks: told.append(reporter) or RunDir(out))
    mine = Quiet()
    for progress in (None, True, False, mine):
        unspoken.train(make(), tmp_path / "b", progress=progress)
    assert [type(one) for one in told] == [Live, Live, type(None), Quiet]
    assert told[-1] is mine


def test_evaluate_takes_names_dicts_tasks_and_runs(run: Path):
    model = unspoken.load(run)
    own = unspoken.evaluate(model, limit=2, max_new_tokens=3)
    assert own.task["name"] == model.task.name == model.config.task.name == "files"
    assert unspoken.evaluate(run, limit=2, max_new_tokens=3).records == own.records
    assert unspoken.evaluate(model, "tiny", limit=1, max_new_tokens=1).task["name"] == "tiny"
    few = {"name": "tiny", "min_steps": 2, "max_steps": 2, "test_size": 3}
    assert [len(r.steps) for r in unspoken.evaluate(model, few, max_new_tokens=1).records] == [2, 2, 2]
    with pytest.raises(ConfigError, match="tiny"):
        unspoken.evaluate(model, "tinny")
    with pytest.raises(ConfigError, match="mapping with a 'name', got 5"):
        unspoken.evaluate(model, 5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match="no such folder"):
        unspoken.evaluate(run / "nothing")


def test_an_evaluation_shows_itself_in_notebooks_and_where_asked(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys, notebook
):
    model = unspoken.load(run)
    monkeypatch.setattr(api, "Console", lambda: Console(force_jupyter=True, no_color=True))
    monkeypatch.setattr(api, "find_spec", lambda name: None)  # no ipywidgets
    lines: list[str] = []
    monkeypatch.setattr(Console, "print", lambda self, *said, **how: lines.extend(map(str, said)))
    unspoken.evaluate(model, limit=2, max_new_tokens=1)
    assert lines[-1] == "2 of 2 questions"
    lines.clear()
    unspoken.evaluate(model, limit=2, max_new_tokens=1, progress=False)
    told: list[tuple[int, int]] = []
    unspoken.evaluate(model, limit=2, max_new_tokens=1, progress=lambda done, total: told.append((done, total)))
    assert (lines, told[-1]) == ([], (2, 2))


def test_what_is_made_says_what_it_is_in_a_line(run: Path):
    model = unspoken.load(run)
    report = unspoken.evaluate(model, limit=2, max_new_tokens=1)
    for one, parts in (
        (model, (str(run), "sim_cot around coconut", "parameters", "cpu, float32")),
        (report, (str(run), "files (test)", "problems 2")),
        (RunDir(run), (str(run),)),
        (model.task, ("files",)),
        (model.think(QUESTION), ("1 rows", "passes")),
    ):
        line = repr(one)
        assert len(line) < 900, line
        assert all(part in line for part in parts), line
    assert "<td>sim_cot around coconut</td>" in model._repr_html_()
    assert "<th>accuracy</th>" in report._repr_html_()
    model.path = "<script>"
    assert "<script>" not in model._repr_html_()


def test_a_model_is_saved_as_it_answers_now(run: Path, tmp_path: Path):
    model = unspoken.load(run)
    next(model.method.backbone.parameters()).data.mul_(1.5)
    assert model.to("cpu") is model
    model.save(tmp_path / "copy")
    again = unspoken.load(tmp_path / "copy")
    assert again.answer(QUESTION, max_new_tokens=5)[0].tokens == model.answer(QUESTION, max_new_tokens=5)[0].tokens
    assert not again.explains
    unspoken.export(run, tmp_path / "exported")
    mine, theirs = ({p.relative_to(d) for p in d.rglob("*")} for d in (tmp_path / "copy", tmp_path / "exported"))
    assert mine == theirs
    with pytest.raises(RunError, match=r"not empty|exists"):
        model.save(tmp_path / "copy")
    model.use_dtype("bfloat16")
    with pytest.raises(ConfigError, match="rounded to bfloat16"):
        model.save(tmp_path / "other")


def test_a_model_in_memory_has_no_run(run: Path, make):
    model = Model(make_method({"name": "cot"}, unspoken.load(run).method.backbone), SamplingParams())
    assert repr(model).startswith("<Model in memory: method cot")
    for ask in (lambda: model.task, lambda: model.config, lambda: model.save("x")):
        with pytest.raises(ConfigError, match="made in memory"):
            ask()
