"""A run whose files are no longer what was saved is refused by name; states and metrics that a hand has edited, too."""

from __future__ import annotations

import json
import os
import shutil
import struct
import warnings
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import unspoken
from unspoken.cli import app
from unspoken.core.lm.backbone import BackboneConfig
from unspoken.core.lm.loading import load_backbone
from unspoken.errors import BackboneError, RunError
from unspoken.evaluation.card import make_card, verify
from unspoken.pages.comparison import read
from unspoken.runs.directory import RunDir
from unspoken.tasks import make_task
from unspoken.training.loop import train

QUESTIONS = ["Ann has 3 pens and buys 4 more. She doubles them.", "Ann has 9 pens."]


@pytest.fixture
def run(make, tmp_path):
    return train(make(steps=4), tmp_path / "run").path


def flip(file: Path) -> None:
    """One bit of the exponent of the last number, as a failing disk may."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 0x01
    file.write_bytes(data)


CHANGES = {
    "model.safetensors": flip,
    "method.safetensors": flip,
    "generation_config.json": Path.unlink,
    "tokenizer.json": lambda file: file.write_text(file.read_text() + "\n"),
    "config.json": lambda file: file.write_text(file.read_text().replace("eager", "sdpa") + " "),
    "unspoken.json": lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "step": 3})),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_named(run, tmp_path, name):
    assert unspoken.load(run).answer(QUESTIONS)
    CHANGES[name](run / "model" / name)
    for use in (
        lambda: unspoken.load(run),
        lambda: unspoken.export(run, tmp_path / "out"),
        lambda: load_backbone(BackboneConfig(path=str(run))),
    ):
        with pytest.raises((RunError, BackboneError), match=f"{name} (was changed since it was saved|is missing)"):
            use()
    if name == "method.safetensors":  # of the decoder alone: not asked for, not read
        return
    about = json.loads((run / "model" / "unspoken.json").read_text())
    del about["sha256"]  # on purpose
    (run / "model" / "unspoken.json").write_text(json.dumps(about))
    assert unspoken.load(run)


def test_a_run_of_an_older_version_loads_and_resumes(make, run, tmp_path):
    """It has no hashes."""
    (state,) = (run / "state").iterdir()
    for file in (run / "model" / "unspoken.json", state / "state.json"):
        data = json.loads(file.read_text())
        del data["sha256"], data["files"]
        file.write_text(json.dumps(data))
    assert unspoken.load(run).answer(QUESTIONS)
    assert RunDir(run).latest_state() is not None
    assert train(make(steps=4), run)


def test_equal_runs_have_equal_files(make, tmp_path):
    for name in "ab":
        train(make(steps=4), tmp_path / name)
    for part in ("model/model.safetensors", "state/step-00000004/state.safetensors"):
        assert (tmp_path / "a" / part).read_bytes() == (tmp_path / "b" / part).read_bytes()


def test_all_files_of_a_run_have_the_mode_of_the_umask(make, tmp_path):
    before = os.umask(0o022)
    try:
        train(make(steps=4), tmp_path / "run")
    finally:
        os.umask(before)
    modes = {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert modes == {"0o644"}


BAD_STATES = {
    "{}": "is missing or of another type",
    "[]": "an object in braces was expected",
    "null": "an object in braces",
    '{"step": "4"}': "'step' is missing or of another type",
    '{"step": true, "best": null, "seconds": 1.0, "processes": 1}': "'step' is missing or of another type",
    "[" * 100_000: "nested too deeply",
    '{"step": 4': "damaged",
}


@pytest.mark.parametrize("text", BAD_STATES, ids=range(len(BAD_STATES)))
def test_a_state_that_is_none(make, run, text):
    (state,) = (run / "state").iterdir()
    (state / "state.json").write_text(text)
    with pytest.raises(RunError, match=BAD_STATES[text]) as told:
        train(make(steps=4), run)
    assert "state.json" in str(told.value)


@pytest.mark.parametrize("field", ["step", "best", "seconds", "processes"])
def test_a_state_edited_by_hand_is_another_state(run, field):
    (state,) = (run / "state").iterdir()
    info = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**info, field: 2}))
    with pytest.raises(RunError, match=r"state\.json (was changed since it was saved|is damaged)"):
        RunDir(run).latest_state()


def test_a_flipped_bit_in_a_state_is_noticed(make, run):
    (state,) = (run / "state").iterdir()
    flip(state / "state.safetensors")
    with pytest.raises(RunError, match=r"state\.safetensors was changed since it was saved; delete the folder"):
        train(make(steps=4), run)


def test_the_state_before_is_taken_where_the_newest_is_damaged_and_goes_where_it_is_not(run):
    (state,) = (run / "state").iterdir()
    older = state.with_name("step-00000002")
    shutil.copytree(state, older)
    found = RunDir(run).latest_state()
    assert found is not None
    assert found[1]["step"] == 4
    assert not older.exists()  # a kill between the two had left it
    (state.parent / "step-notes").mkdir()
    assert RunDir(run).latest_step() == 4


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"1", b'{"step": "x", "kind": "train"}', b"\xff\xfe", b'{"step": 2', b"[" * 9999]
)
def test_a_run_resumes_whatever_stands_in_its_metrics(make, tmp_path, line):
    run = train(make(steps=4), tmp_path / "run").path
    rows = RunDir(run).metrics()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert RunDir(run).metrics() == rows
    train(make(steps=4), run)
    assert RunDir(run).metrics() == rows


BAD_RUNS = {
    "run.json": ["{}", "[]", "1", "{" * 9999, "[" * 100_000, '{"id": 1, "config": {}}', '{"id": "a", "config": []}'],
    "model/unspoken.json": [
        "{}",
        "[]",
        "[" * 100_000,
        '{"run": 1, "method": {}, "own": []}',
        '{"run": "a", "method": {}, "own": 3}',
        '{"run": "a", "method": {"name": "cot"}, "own": [1]}',
        '{"run": "a", "method": {"name": "sim_cot", "inner": 2}, "own": []}',
        '{"run": "a", "method": {"name": "sim_cot", "inner": {"name": "coconut"}, "decoder": 3}, "own": []}',
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD_RUNS.items() for text in texts])
def test_json_of_a_run_that_is_none(run, name, text):
    (run / name).write_text(text.replace('"a"', json.dumps(RunDir(run).read()["id"])))
    result = CliRunner().invoke(app, ["ask", str(run), "Ann has 2 pens.", "--show-thoughts"])
    assert isinstance(result.exception, RunError), result.exception
    assert name.split("/")[-1] in str(result.exception) or "model" in str(result.exception)


def test_stale_reports_are_named(make, run, tmp_path):
    model = unspoken.load(run)
    task = make_task(make().task)
    report = unspoken.evaluate(model, task, "validation", limit=4)
    report.save(run / "eval-tiny-test.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read([run])
    run_dir = RunDir(run)
    run_dir.save_model(model.method, 9, None)  # trained on
    with pytest.warns(
        UserWarning, match=r"eval-tiny-test\.json is no longer of the model beside it: the model was saved again"
    ):
        read([run])
    unspoken.evaluate(unspoken.load(run), task, "validation", limit=4).save(run / "eval-tiny-test.json")
    flip(run / "model" / "model.safetensors")
    with pytest.warns(
        UserWarning, match=r"beside it: model\.safetensors was changed since it was saved; run the evaluation"
    ):
        read([run])


def test_other_weights_do_not_verify_even_with_the_same_verdicts(make, run, tmp_path):
    from unspoken.evaluation.evaluator import describe

    model = unspoken.load(run, explain=False)
    report = unspoken.evaluate(model, make_task(make().task), "validation", limit=4)
    card = make_card(type(report)(**{**vars(report), "model": describe(model, weights=True)}))
    assert verify(model, card).verified
    model.method.backbone.lm.get_output_embeddings().weight.data.view(-1)[0].add_(1e-6)
    seen = verify(model, card)
    assert not seen.changed
    assert not seen.verified
    assert "the weights are not those of the card" in "\n".join(seen.lines())


def test_weights_that_are_no_numbers_are_named(run):
    file = run / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    data[begin : begin + 4] = struct.pack("<f", float("inf"))
    file.write_bytes(data)
    first = next(name for name, tensor in load_file(file).items() if not tensor.isfinite().all())
    with pytest.raises(
        RunError, match=rf"model\.safetensors was changed since .*; .*{first} holds 1 value that is no finite"
    ):
        unspoken.load(run)
